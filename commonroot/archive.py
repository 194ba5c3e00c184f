"""Backups as one file: a plain tar of regular files, and last of all a list of them with their SHA-256.

Written beside, synced and renamed, so there is a whole backup or none.  Read with suspicion: into a folder of its own,
and nothing of it is used before every file was compared with the list.  Always its owner's alone (0600): also without
keys it holds what was learned.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from commonroot import __version__
from commonroot.common.errors import BackupDamaged, ConfigError
from commonroot.files import read_bytes, storage_errors, sync_folder

FORMAT: Final = 1
_LIST: Final = "backup.json"
_NAME: Final = re.compile(r"(?!/)(?:(?!\.\.?/)[^/\0\\]+/)*(?!\.\.?$)[^/\0\\]+")
#: A list of files is refused beyond this many bytes.
_LARGEST_LIST: Final = 64 << 20
_CHUNK: Final = 1 << 20


class Packer:
    """Adds files to a backup that is being written."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.files: dict[str, dict[str, Any]] = {}

    def add(self, name: str, data: bytes) -> None:
        """A file from memory."""
        self._add(name, io.BytesIO(data), len(data), hashlib.sha256(data).hexdigest())

    def add_file(self, name: str, path: Path, *, what: str, sha256: str | None = None) -> None:
        """A file from disk.  BackupDamaged where its hash is not ``sha256``, ConfigError where it is missing."""
        found = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    found.update(chunk)
                if sha256 is not None and found.hexdigest() != sha256:
                    raise BackupDamaged(f"{what} {path} is not what it was when it was written: its hash differs")
                size = file.tell()
                file.seek(0)
                self._add(name, file, size, found.hexdigest())
        except FileNotFoundError as error:
            raise ConfigError(f"{what} {path} does not exist") from error

    def _add(self, name: str, file: IO[bytes], size: int, sha256: str) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, int(time.time()), 0o600
        self._tar.addfile(info, file)
        self.files[name] = {"sha256": sha256, "bytes": size}


@contextmanager
def packing(target: Path, kind: str, facts: Callable[[], dict[str, Any]]) -> Iterator[Packer]:
    """Write a backup; ``facts`` are asked for at its end and stand in its list.

    Parameters  kind: ``coordinator`` or ``department``
    Raises      ConfigError: the file exists, and a good backup is never written over; StorageFull: nothing is left
    """
    if target.exists():
        raise ConfigError(f"{target} exists already", hint="choose another name, with the date in it")
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent} is no folder")
    with storage_errors(target):
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # 0600
        try:
            with os.fdopen(handle, "wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    packer = Packer(tar)
                    yield packer
                    about = {"format": FORMAT, "kind": kind, "program": __version__, "at": time.time()}
                    packer.add(_LIST, json.dumps(about | facts() | {"files": packer.files}, indent=1).encode())
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


@contextmanager
def unpacking(source: Path, target: Path, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A backup's files in a folder beside ``target`` and its list; the folder becomes ``target`` if the block succeeds.

    Raises ConfigError: ``target`` is there and not empty, ``source`` is missing; BackupDamaged; StorageFull
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not empty", hint="choose a new folder")
    if not source.is_file():
        raise ConfigError(f"the backup {source} does not exist")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # 0700
        try:
            about = _unpack(source, folder)
            if about.get("kind") != kind:
                raise BackupDamaged(f"{source} is a backup of a {about.get('kind')}, not of a {kind}")
            yield folder, about
            if target.exists():
                target.rmdir()
            folder.replace(target)
            sync_folder(target.parent)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _unpack(source: Path, folder: Path) -> dict[str, Any]:
    """Every file, compared with the list."""
    found: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(source, mode="r:") as tar:
            for member in tar:
                if not member.isreg() or not _NAME.fullmatch(member.name) or member.name in found:
                    raise BackupDamaged(f"{source} holds {member.name[:80]!r}, which no backup holds")
                content = tar.extractfile(member)
                if content is None:
                    raise BackupDamaged(f"{source} is cut short")
                found[member.name] = _copy(content, folder / member.name)
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        raise BackupDamaged(f"{source} is no backup, or was cut short") from error
    path = folder / _LIST
    if path.name not in found or found[_LIST]["bytes"] > _LARGEST_LIST:
        raise BackupDamaged(f"{source} has no list of its files: it is no backup, or was cut short")
    try:
        about = json.loads(read_bytes(path, what="the backup's list"))
        number, listed = about["format"], about["files"]
    except (ValueError, TypeError, KeyError) as error:
        raise BackupDamaged(f"the list of files in {source} cannot be read") from error
    path.unlink()
    found.pop(_LIST)
    if number != FORMAT:
        raise BackupDamaged(f"{source} has format {number}; this version reads {FORMAT}")
    wrong = sorted(name for name in {*found, *listed} if found.get(name) != listed.get(name))
    if wrong:
        raise BackupDamaged(f"{source}: changed, missing or added: {', '.join(wrong[:5])}")
    return dict(about)


def _copy(content: IO[bytes], path: Path) -> dict[str, Any]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hashed, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        while chunk := content.read(_CHUNK):
            hashed.update(chunk)
            size += len(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": hashed.hexdigest(), "bytes": size}
