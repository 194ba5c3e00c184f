"""Questions about this machine that both sides' ``doctor`` asks.  Nothing here writes anything."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from commonroot.common.findings import Finding, State

#: Free space below which a run is likely to stop, and below which one should look, in bytes.
LITTLE: Final = 512 * 1024**2
SOME: Final = 4 * 1024**3
#: Patience with the other side, in seconds.
_PATIENCE: Final = 10.0


def give_memory_back() -> None:
    """Let freed buffers of a megabyte and more go back to the system at once, where the C library can be told so.

    glibc raises that threshold whenever such a buffer is freed, and then keeps pieces of payloads for later.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-3, 1024 * 1024)  # M_MMAP_THRESHOLD


def disk(folder: Path, *, more: int = 0) -> Finding:
    """Free space where ``folder`` lies; ``more`` is what a run is known to need, in bytes."""
    free = shutil.disk_usage(folder).free
    told = f"{free / 1024**3:.1f} GiB free at {folder}"
    fix = f"free at least {(SOME + more) / 1024**3:.0f} GiB, or move the folder to a larger disk"
    state: State = "fail" if free < LITTLE + more else "warn" if free < SOME + more else "ok"
    return Finding("disk", state, told, fix)


def writable(folder: Path) -> Finding:
    """Whether whoever runs this may write to the folder."""
    if os.access(folder, os.W_OK | os.X_OK):
        return Finding("folder", "ok", f"{folder} can be written to")
    return Finding("folder", "fail", f"{folder} cannot be written to by this user", f"chown -R $USER {folder}")


def private(root: Path, folders: Iterable[str], secrets: Iterable[str]) -> Finding:
    """Nobody but the owner may look into these folders of ``root`` (0700) or read these files (0600, patterns)."""
    open_folders = [path for path in (root / name for name in folders) if path.is_dir() and path.stat().st_mode & 0o077]
    files = [path for pattern in secrets for path in sorted(root.glob(pattern)) if path.is_file()]
    open_files = [path for path in files if path.stat().st_mode & 0o077]
    if not open_folders and not open_files:
        return Finding("permissions", "ok", f"{len(files)} private files can be read by their owner alone")
    fixes = [f"chmod 700 {path}" for path in open_folders] + [f"chmod 600 {path}" for path in open_files]
    names = ", ".join(path.name for path in (*open_folders, *open_files))
    return Finding("permissions", "fail", f"others on this machine can look at {names}", " && ".join(fixes))


def packages(program: str, *, without: Iterable[str] = ()) -> Finding:
    """Python, and every package that the program says it needs, in the versions that it says.

    Parameters  program: its version; without: packages that this side never imports, such as torch at the coordinator
    """
    from packaging.requirements import Requirement

    about = f"commonroot {program}, Python {platform.python_version()}"
    try:
        needed = importlib.metadata.requires("commonroot") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("versions", "warn", f"{about}; not installed as a package", "pip install commonroot")
    wrong = []
    for line in needed:
        asked = Requirement(line)
        if (asked.marker is not None and not asked.marker.evaluate({"extra": ""})) or asked.name in without:
            continue
        try:
            found = importlib.metadata.version(asked.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{asked.name} is missing")
            continue
        if not asked.specifier.contains(found, prereleases=True):
            wrong.append(f"{asked.name} is {found} and should be {asked.specifier}")
    if wrong:
        return Finding("versions", "fail", f"{about}; " + ", ".join(wrong), "pip install --upgrade commonroot")
    return Finding("versions", "ok", f"{about}, {_version('flwr')}, {_version('torch')}")


def _version(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {name}"


def resolves(host: str) -> Finding:
    """Whether a name has an address here."""
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError as error:
        fix = f"ask whoever runs your DNS for {host}, or put its address into /etc/hosts"
        return Finding("dns", "fail", f"{host}: {error.strerror or error}", fix)
    return Finding("dns", "ok", f"{host} is {', '.join(found[:3])}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the public port said to ``GET /health``: status, headers, its certificate, and its clock by ours."""

    status: int
    headers: dict[str, str]
    certificate: dict[str, Any]
    ahead: float


def ask_health(address: str, ca: Path, now: float, headers: dict[str, str] | None = None) -> Answer:
    """Ask a coordinator whether it is well, over TLS under this authority and no other.

    Parameters  address: host:port; now: seconds since 1970; headers: to send along, such as a node's signature
    Raises  OSError: it cannot be reached; ssl.SSLError among them: it is not the one
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=str(ca))
    asked = f"GET /health HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n"
    asked += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    with (
        socket.create_connection((host, int(port)), timeout=_PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        tls.sendall(asked.encode("latin-1") + b"\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer and len(answer) < 65536 and (more := tls.recv(4096)):
            answer += more
        certificate: dict[str, Any] = dict(tls.getpeercert() or {})
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    if not re.fullmatch(r"HTTP/1\.1 \d{3}.*", head[0]):
        raise OSError("what listens there is no coordinator")
    told = {name.lower().strip(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    try:
        ahead = now - parsedate_to_datetime(told.get("date", "")).timestamp()
    except ValueError:
        ahead = 0.0
    # A date has whole seconds: on average it is half a second behind.
    return Answer(int(head[0].split(" ")[1]), told, certificate, ahead - 0.5)


def authority(ca: Path) -> float:
    """When the certificate authority in this file ends, in seconds since 1970.  Raises ValueError where it is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=str(ca))
        return min(ssl.cert_time_to_seconds(str(found["notAfter"])) for found in context.get_ca_certs())
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ValueError("no CA certificate") from error
