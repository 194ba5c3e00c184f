"""Files that are either old or new, never half: the one way this project writes to disk.

Write beside, fsync, rename, fsync the folder.  A full disk is one clear error, and what was there before is intact.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from commonroot.common.errors import BackboneMismatch, BackboneMissing, ConfigError, KeyFileError, StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into the project's own errors."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"no room to write {path}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ConfigError(f"no permission to write {path}", hint="check who owns the folder") from error
        raise


def atomic_write(path: Path, *parts: bytes | bytearray | memoryview, mode: int = 0o644) -> None:
    """Replace ``path`` by the parts, durably.  Raises StorageFull, leaving the old contents and no litter."""
    with storage_errors(path):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_secret(path: Path, secret: bytes) -> None:
    """A key file: hex, owner only, written once; an existing one is never overwritten."""
    if path.exists():
        raise KeyFileError(f"{path} exists already and will not be overwritten")
    atomic_write(path, secret.hex().encode() + b"\n", mode=0o600)


def read_secret(path: Path, *, length: int = 32) -> bytes:
    """The bytes of a key file.  Raises KeyFileError for a missing, readable-by-others or malformed one."""
    try:
        if path.stat().st_mode & 0o077:
            raise KeyFileError(f"{path} can be read by others", hint=f"chmod 600 {path}")
        secret = bytes.fromhex(path.read_text().strip())
    except FileNotFoundError as error:
        raise KeyFileError(f"{path} is missing") from error
    except ValueError as error:
        raise KeyFileError(f"{path} is not a key file") from error
    if len(secret) != length:
        raise KeyFileError(f"{path} holds {len(secret)} bytes, not {length}")
    return secret


def erase(path: Path) -> None:
    """Overwrite and remove a key that is no longer needed (a best effort on journaling and flash storage)."""
    if path.exists():
        with path.open("r+b") as file:
            file.write(b"\0" * path.stat().st_size)
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        sync_folder(path.parent)


def read_text(path: Path, *, what: str) -> str:
    """A text file, or ConfigError naming it."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{what} {path} does not exist") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError(f"{what} {path} is not a text file") from error


def read_bytes(path: Path, *, what: str) -> bytes:
    """A file's bytes, or ConfigError naming it."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"{what} {path} does not exist") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{what} {path} is a folder") from error


#: In a department's and the coordinator's folder: backbones that charters start from, as ``SHA256.safetensors``.
BACKBONES: Final = "backbones"


def read_backbone(root: Path, digest: str) -> bytes:
    """The file of a SHA-256 (hex) that a charter starts from.  Raises BackboneMissing, saying where to put it."""
    path = root / BACKBONES / f"{digest}.safetensors"
    if not path.is_file():
        hint = f"approve or sign the charter with --backbone FILE, or put the file at {path}"
        raise BackboneMissing(f"the charter starts from a backbone that is not here: {digest}", hint=hint)
    return path.read_bytes()


def keep_backbone(root: Path, digest: str, file: Path) -> None:
    """Copy a file to where ``read_backbone`` finds it.  Raises ConfigError where there is none, BackboneMismatch where
    its SHA-256 is another."""
    data = read_bytes(file, what="the backbone")
    if hashlib.sha256(data).hexdigest() != digest:
        raise BackboneMismatch(f"{file} is not the backbone that the charter starts from: its SHA-256 differs")
    with storage_errors(root):
        (root / BACKBONES).mkdir(mode=0o700, exist_ok=True)
    atomic_write(root / BACKBONES / f"{digest}.safetensors", data, mode=0o600)


def take_ownership(folder: Path) -> IO[bytes]:
    """A daemon's lock on its folder; the operating system lets go of it when the process ends, however it ends."""
    lock = (folder / "daemon.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ConfigError(f"a daemon already runs on {folder}", hint="one daemon a folder: stop the other") from error
    return lock


def runs_here(folder: Path) -> bool:
    """Whether a daemon holds this folder; asks for its lock and lets go of it again, and makes nothing."""
    try:
        with (folder / "daemon.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
