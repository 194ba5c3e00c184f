"""Fetching published data: the publisher's URL, a sha256 for every file, nothing kept that does not match.

What may not be fetched without accepting terms is not fetched without ``accept``; what needs a login is asked for by
name and checked once it is there.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, Final

from commonroot.common.errors import ConfigError, DownloadFailed
from commonroot.files import storage_errors

#: No published file is larger; whatever sends more is not the publisher.
LARGEST: Final = 2**30
#: Told which file is being fetched, how many are done and how many there are.
OnFile = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file below the dataset's folder.  ``url`` is None where it comes in an archive or by hand."""

    name: str
    sha256: str
    url: str | None = None

    def present(self, folder: Path) -> bool:
        """Whether it lies in ``folder`` and is the published one."""
        path = folder / self.name
        return path.is_file() and _sha256(path) == self.sha256


@dataclass(frozen=True, slots=True)
class Published:
    """A dataset as its publisher offers it.

    page     for people
    open     whether the licence lets anybody use it; otherwise terms must be accepted
    archive  URL of a zip that holds files below ``prefix``
    """

    licence: str
    open: bool
    page: str
    files: tuple[PublishedFile, ...]
    archive: str | None = None
    prefix: str = ""


@cache
def published() -> dict[str, Published]:
    """Every dataset by its folder's name."""
    text = resources("commonroot.simulations.datasets").joinpath("published.toml").read_text()
    return {folder: _published(fields) for folder, fields in tomllib.loads(text).items()}


def _published(fields: dict[str, Any]) -> Published:
    found = tuple(PublishedFile(**file) for file in fields.pop("files"))
    return Published(files=found, **fields)


def download(
    folder: str, to: Path, *, accept: bool = False, on_file: OnFile = lambda name, done, total: None
) -> dict[str, int]:
    """Fetch a dataset's files into ``to/folder``; what is there and right stays.

    Returns how many files were ``fetched`` and how many were ``there``.

    Raises  ConfigError: terms were not accepted, or files must be fetched by hand; names them and the page
            DownloadFailed: a server that does not answer, or a file with another hash; nothing of it is kept
    """
    offer = published()[folder]
    target = to / folder
    missing = [file for file in offer.files if not file.present(target)]
    there = len(offer.files) - len(missing)
    if not missing:
        return {"fetched": 0, "there": there}
    if not (offer.open or accept):
        raise ConfigError(
            f"{folder} has terms of use: {offer.licence} ({offer.page})", hint="read them, then repeat with --accept"
        )
    by_hand = [file.name for file in missing if file.url is None and offer.archive is None]
    if offer.archive is not None:
        _from_archive(offer, missing, target, on_file)
    else:
        fetched = [file for file in missing if file.url is not None]
        for done, file in enumerate(fetched):
            on_file(file.name, done, len(fetched))
            _fetch(str(file.url), target / file.name, file.sha256)
    if by_hand:
        listed = ", ".join(by_hand)
        raise ConfigError(
            f"{listed} cannot be fetched without a person: get them from {offer.page}",
            hint=f"put them into {target} and run the command again: it checks them",
        )
    return {"fetched": len(missing), "there": there}


def _from_archive(offer: Published, missing: list[PublishedFile], target: Path, on_file: OnFile) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        on_file(str(offer.archive), 0, len(missing))
        packed = Path(scratch) / "archive.zip"
        _fetch(str(offer.archive), packed, None)
        try:
            with zipfile.ZipFile(packed) as archive:
                for done, file in enumerate(missing):
                    on_file(file.name, done, len(missing))
                    member = archive.getinfo(offer.prefix + file.name)
                    if member.file_size > LARGEST:
                        raise DownloadFailed(f"{file.name} in {offer.archive} is larger than anything published")
                    unpacked = Path(scratch) / "unpacked"
                    with archive.open(member) as stream, unpacked.open("wb") as out:
                        shutil.copyfileobj(stream, out)
                    _keep(unpacked, target / file.name, file.sha256)
        except (zipfile.BadZipFile, KeyError) as error:
            raise DownloadFailed(f"{offer.archive} is not the archive that was published") from error


def _fetch(url: str, path: Path, sha256: str | None) -> None:
    """Fetch one URL; a file appears under ``path`` whole and right, or not at all."""
    import httpx

    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch) / "part"
        try:
            with (
                httpx.stream("GET", url, follow_redirects=True, timeout=60.0) as answer,
                part.open("wb") as out,
            ):
                answer.raise_for_status()
                size = 0
                for block in answer.iter_bytes():
                    size += len(block)
                    if size > LARGEST:
                        raise DownloadFailed(f"{url} sends more than anything published")
                    out.write(block)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DownloadFailed(f"{url} cannot be fetched: {type(error).__name__}") from error
        _keep(part, path, sha256)


def _keep(found: Path, path: Path, sha256: str | None) -> None:
    if sha256 is not None and (other := _sha256(found)) != sha256:
        raise DownloadFailed(
            f"{path.name} is not what was published: sha256 {other[:16]}…, expected {sha256[:16]}…",
            hint="fetch it again; if it stays so, the publisher has changed it",
        )
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        shutil.copyfile(found, beside)
        beside.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
