"""Files that are either old or new, never half: the one way this project writes to disk.

Write beside, fsync, rename, fsync the folder.  A full disk is one clear error, and what was there before is intact.
Private keys are written and read here alone, so that they are sealed wherever a folder's are.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ClassVar, Final, Literal

from commonroot.common.errors import (
    BackboneMismatch,
    BackboneMissing,
    ConfigError,
    KeyFileError,
    SealedKey,
    StorageFull,
)
from commonroot.common.secure_sum import at_rest

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: Whether what is written here and now is forced to the disk; threads begin with the default.
_forced: ContextVar[bool] = ContextVar("forced", default=True)


@contextlib.contextmanager
def unforced() -> Iterator[None]:
    """Inside, nothing is forced to the disk: what was written outlives the process, but not a machine that fails.
    Nor is what was replaced overwritten at once.

    For simulations alone: they wait for nobody's disk, can be run again, and keep every department's keys in one place.
    """
    before = _forced.set(False)
    try:
        yield
    finally:
        _forced.reset(before)


def force(handle: int) -> None:
    """Have the disk hold what was written to an open file or folder, but for ``unforced``."""
    if _forced.get():
        os.fsync(handle)


def is_forced() -> bool:
    """Is it, here and now?"""
    return _forced.get()


def sqlite_synchronous() -> str:
    """The same for a database that is opened now: SQLite's ``PRAGMA synchronous``."""
    return "FULL" if _forced.get() else "OFF"


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


#: What ``tempfile`` gives a file that it makes.
_MADE: Final = 0o600


def _write(handle: int, part: bytes | bytearray | memoryview) -> None:
    """All of it: one call writes two gigabytes at most."""
    rest = memoryview(part).cast("B")
    while rest:
        rest = rest[os.write(handle, rest) :]


def as_it_is(path: Path) -> tuple[int, ...] | None:
    """What tells a file from what it is after any change; None where there is no regular file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size) if stat.S_ISREG(found.st_mode) else None


def atomic_write(path: Path, *parts: bytes | bytearray | memoryview, mode: int = 0o644) -> None:
    """Replace ``path`` by the parts, durably.  Raises StorageFull, leaving the old contents and no litter."""
    with storage_errors(path):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            try:
                if mode != _MADE:
                    os.fchmod(handle, mode)
                for part in parts:
                    _write(handle, part)
                force(handle)
            finally:
                os.close(handle)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def owner_of(folder: Path) -> int | None:
    """The process that holds a folder as its daemon; None where there is none, or the system does not tell."""
    try:
        number = str((folder / "daemon.lock").stat().st_ino)
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    # By the file's number alone: some file systems give the kernel's table another device than they tell us.
    found = [words for line in locks if (words := line.split())[1] == "FLOCK" and words[5].split(":")[-1] == number]
    return int(found[0][4]) if found else None


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable, but for ``unforced``."""
    if not _forced.get():
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_secret(path: Path, secret: bytes, *, lock: Lock | None = None) -> None:
    """A key file: hex, owner only, written once; an existing one is never overwritten.  See ``write_private``."""
    if path.exists():
        raise KeyFileError(f"{path} exists already and will not be overwritten")
    write_private(path, secret.hex().encode() + b"\n", lock=lock)


def read_secret(path: Path, *, length: int = 32) -> bytes:
    """The bytes of a key file.  Raises KeyFileError for a missing, readable-by-others or malformed one, SealedKey where
    it is sealed and what it is sealed under is not to be had."""
    content = read_private(path)
    try:
        secret = bytes.fromhex(content.decode("ascii").strip())
    except ValueError as error:
        raise KeyFileError(f"{path} is not a key file") from error
    if len(secret) != length:
        raise KeyFileError(f"{path} holds {len(secret)} bytes, not {length}")
    return secret


def write_private(path: Path, content: bytes, *, lock: Lock | None = None) -> None:
    """A file that only its owner may read, whole or not at all.

    It is sealed under ``lock``; without one, as the files beside it are, if they are.
    """
    lock = lock or lock_beside(path)
    if lock is not None:
        content = lock.seal(content, label=_label(path))
    atomic_write(path, content, mode=0o600)


def read_private(path: Path) -> bytes:
    """What ``write_private`` was given.  Raises KeyFileError, SealedKey."""
    try:
        if path.stat().st_mode & 0o077:
            raise KeyFileError(f"{path} can be read by others", hint=f"chmod 600 {path}")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise KeyFileError(f"{path} is missing") from error
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    if not at_rest.is_sealed(content):
        return content
    lock = Lock.for_header(at_rest.header_of(content, who=str(path)), who=str(path))
    return at_rest.unseal_content(content, secret=lock.secret, label=_label(path), who=str(path))


def is_sealed(path: Path) -> bool:
    """Is this private file sealed?"""
    with path.open("rb") as file:
        return at_rest.is_sealed(file.read(len(at_rest.MAGIC)))


def reseal(paths: Iterable[Path], lock: Lock | None) -> int:
    """Seal private files under ``lock``, or unseal them without one; how many there were.

    Every file is replaced whole; killed in between, it is done again.  What was written over is out of our hands.
    """
    contents = [(path, read_private(path)) for path in paths if path.is_file()]
    for path, content in contents:
        sealed = content if lock is None else lock.seal(content, label=_label(path))
        atomic_write(path, sealed, mode=0o600)
    return len(contents)


@contextlib.contextmanager
def readable_key(path: Path) -> Iterator[Path]:
    """A path under which a library that takes no bytes finds a private file unsealed, until the block ends.

    What is sealed is put into memory, never on a disk.  Raises KeyFileError, SealedKey.
    """
    content = read_private(path)
    if not is_sealed(path):
        yield path
        return
    handle = os.memfd_create("commonroot-key", os.MFD_CLOEXEC)
    try:
        os.write(handle, content)
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


#: Where what keys are sealed under is looked for, in this order, before somebody at a terminal is asked.
PASSPHRASE, PASSPHRASE_FILE, KEY_FILE = (
    "COMMONROOT_PASSPHRASE",
    "COMMONROOT_PASSPHRASE_FILE",
    "COMMONROOT_KEY_FILE",
)
#: The name under which a systemd unit hands a passphrase over (``LoadCredential=``).
CREDENTIAL: Final = "commonroot-passphrase"
#: A key file holds at least this many bytes.
KEY_FILE_BYTES: Final = 32


@dataclass(frozen=True)
class Lock:
    """What keys are sealed under.

    under  ``passphrase`` or ``key-file``
    path   of the key file
    """

    under: Literal["passphrase", "key-file"]
    secret: bytes = field(repr=False)
    path: str = ""

    #: One salt for all files that this process seals, so that opening them costs scrypt once.
    _salt: ClassVar[bytes] = at_rest.fresh_salt(os.urandom)
    cost: ClassVar[at_rest.Cost] = at_rest.Cost()

    @classmethod
    def passphrase(cls, text: str) -> Lock:
        """Raises ConfigError for an empty one."""
        if not text:
            raise ConfigError("an empty passphrase seals nothing")
        return cls("passphrase", text.encode())

    @classmethod
    def key_file(cls, path: Path, *, make: bool = False) -> Lock:
        """``make``: one of 32 random bytes where there is none.  Raises KeyFileError."""
        if make and not path.exists():
            atomic_write(path, os.urandom(KEY_FILE_BYTES), mode=0o600)
        try:
            if path.stat().st_mode & 0o077:
                raise KeyFileError(f"{path} can be read by others", hint=f"chmod 600 {path}")
            secret = path.read_bytes()
        except OSError as error:
            raise SealedKey(f"the key file {path} cannot be read: {error.strerror}") from error
        if len(secret) < KEY_FILE_BYTES:
            raise KeyFileError(
                f"the key file {path} holds {len(secret)} bytes; {KEY_FILE_BYTES} random ones are needed"
            )
        return cls("key-file", secret, str(path.resolve()))

    @classmethod
    def for_header(cls, header: at_rest.Header, *, who: str) -> Lock:
        """What a sealed file needs, from wherever it is to be had.  Raises SealedKey."""
        if header.under == "key-file":
            return cls.key_file(Path(os.environ.get(KEY_FILE) or header.path))
        return cls.passphrase(given_passphrase(who))

    def seal(self, content: bytes, *, label: str) -> bytes:
        """A sealed file's content; ``label`` is its name."""
        return at_rest.seal_content(
            content,
            secret=self.secret,
            under=self.under,
            path=self.path,
            salt=self._salt,
            label=label,
            random=os.urandom,
            cost=self.cost,
        )


def chosen_lock(passphrase: bool, key_file: Path | None, *, required: bool = False) -> Lock | None:
    """What the options ``--passphrase`` and ``--key-file`` say; None for neither.  Raises ConfigError for both, or for
    neither where one is required."""
    if passphrase and key_file is not None:
        raise ConfigError("a passphrase or a key file, not both")
    if passphrase:
        return Lock.passphrase(given_passphrase("the folder", new=True))
    if key_file is not None:
        return Lock.key_file(key_file, make=True)
    if required:
        raise ConfigError("give --passphrase or --key-file", hint="a key file is for machines that start by themselves")
    return None


def given_passphrase(who: str, *, new: bool = False) -> str:
    """The passphrase: from the environment, a file, a systemd credential, or the person at the terminal, once.

    new  twice, since nothing shows whether it was mistyped

    Raises SealedKey, naming ``who`` wants it, where none is to be had.
    """
    if text := os.environ.get(PASSPHRASE):
        return text
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    places = [os.environ.get(PASSPHRASE_FILE), f"{credentials}/{CREDENTIAL}" if credentials else None]
    for place in places:
        if place and (place == places[0] or Path(place).is_file()):
            try:
                return Path(place).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise SealedKey(f"the passphrase file {place} cannot be read") from error
    if not _typed:
        if not sys.stdin.isatty():
            raise SealedKey(f"{who} wants a passphrase, and none was given")
        text = getpass.getpass("New passphrase: " if new else "Passphrase: ")
        if new and getpass.getpass("Once more: ") != text:
            raise SealedKey("that was not the same passphrase")
        _typed.append(text)
    return _typed[0]


#: What somebody at the terminal has typed, so that a command asks once.
_typed: list[str] = []


def lock_beside(path: Path) -> Lock | None:
    """What the private files in the same folder are sealed under; None where they are not."""
    for other in sorted(path.parent.glob("*.key")) if path.parent.is_dir() else []:
        if other.is_file() and is_sealed(other):
            return Lock.for_header(at_rest.header_of(other.read_bytes(), who=str(other)), who=str(other))
    return None


def _label(path: Path) -> str:
    """The name that a sealed file is bound to; a key that waits to take another's place has that one's."""
    return path.name.removesuffix(".next")


def erase(path: Path) -> None:
    """Overwrite and remove a key that is no longer needed (a best effort on journaling and flash storage)."""
    if path.exists():
        with path.open("r+b") as file:
            file.write(b"\0" * path.stat().st_size)
            file.flush()
            force(file.fileno())
        path.unlink()
        sync_folder(path.parent)


#: What to do about a file that is not there: no example helps with that.
_PATH: Final = "look at the path, and at the folder that you are in"


def read_text(path: Path, *, what: str) -> str:
    """A text file, or ConfigError naming it."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{what} {path} does not exist", hint=_PATH) from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError(f"{what} {path} is not a text file", hint=_PATH) from error


def read_bytes(path: Path, *, what: str) -> bytes:
    """A file's bytes, or ConfigError naming it."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"{what} {path} does not exist", hint=_PATH) from error
    except IsADirectoryError as error:
        raise ConfigError(f"{what} {path} is a folder", hint=_PATH) from error


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


def private_file(path: Path, *, make: bool = True) -> None:
    """Let a file be its owner's alone, whatever the umask; made empty where it is missing and ``make`` says so.

    Raises ConfigError where it is somebody else's, StorageFull where it cannot be made
    """
    with storage_errors(path):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
        except FileNotFoundError:
            return
        try:
            if os.fstat(handle).st_mode & 0o077:
                os.fchmod(handle, 0o600)
        finally:
            os.close(handle)


#: In both sides' folders: every signed roster there was, for whoever verifies signatures later.
ROSTERS: Final = "rosters"


def keep_roster(root: Path, epoch: int, digest: bytes, data: bytes) -> None:
    """Keep a signed roster beside those of other epochs."""
    with storage_errors(root):
        (root / ROSTERS).mkdir(mode=0o700, exist_ok=True)
    atomic_write(root / ROSTERS / f"{epoch:06}-{digest.hex()[:16]}.json", data)


def kept_rosters(root: Path) -> list[bytes]:
    """Every roster that was kept, oldest epoch first, and the current one of a folder that kept none."""
    found = {path.read_bytes(): None for path in sorted((root / ROSTERS).glob("*.json"))}
    current = root / "roster.json"
    if current.is_file():
        found.setdefault(current.read_bytes())
    return list(found)


def lock_file(path: Path) -> IO[bytes] | None:
    """A lock on a file, or None where somebody has it; the operating system lets go of it when the process ends."""
    private_file(path)
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def take_ownership(folder: Path) -> IO[bytes]:
    """A daemon's lock on its folder; ConfigError where another has it."""
    lock = lock_file(folder / "daemon.lock")
    if lock is None:
        raise ConfigError(f"a daemon already runs on {folder}", hint="one daemon a folder: stop the other")
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
