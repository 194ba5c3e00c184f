"""A real PostgreSQL for tests alone: the machine's own binaries, under a user that is not root, in a folder of its own.

It listens on a socket in that folder and on no port.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def binaries() -> Path | None:
    """The folder of initdb and postgres, the newest version first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]), reverse=True)
    on_path = shutil.which("initdb")
    places = [*(path.parent for path in found), *([Path(on_path).resolve().parent] if on_path else [])]
    return next((place for place in places if (place / "postgres").is_file() and (place / "pg_ctl").is_file()), None)


def somebody() -> str | None:
    """A user that may run a server: PostgreSQL refuses to run as root."""
    if os.getuid():
        return pwd.getpwuid(os.getuid()).pw_name
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


def restart(url: str) -> None:
    """End the server that has this URL as a machine that loses its power would, and start it again."""
    place, user = binaries(), somebody()
    root = Path(url.partition("host=")[2].partition("&")[0])
    as_user = {} if os.getuid() else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    where, how = ["-D", root / "data", "-l", root / "log"], ["-m", "immediate", "-w", "-t", "60"]
    command = [place / "pg_ctl", *where, *how, "restart"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(root)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, cwd=root, env=environment, **quiet, **as_user)


@contextlib.contextmanager
def running() -> Iterator[str]:
    """URL of a server that runs until the block ends; the test is skipped where none can run here."""
    place, user = binaries(), somebody()
    if place is None:
        pytest.skip("no PostgreSQL server on this machine (Debian: apt-get install postgresql)")
    if user is None:
        pytest.skip("PostgreSQL does not run as root, and there is no other user")
    root = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path may have 107 bytes
    as_user = {} if os.getuid() else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    if as_user:
        shutil.chown(root, user)
    data, where = root / "data", {"cwd": root, "env": {"PATH": os.environ["PATH"], "HOME": str(root)}, **as_user}
    made = subprocess.run(
        [place / "initdb", "-D", data, "-U", "owner", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"],
        capture_output=True,
        text=True,
        **where,
    )
    if made.returncode:
        shutil.rmtree(root, ignore_errors=True)
        pytest.skip(f"initdb does not run here: {made.stderr.strip().splitlines()[-1:]}")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = f"-k {root} -c listen_addresses=''"
    start = [place / "pg_ctl", "-D", data, "-l", root / "log", "-w", "-t", "60", "-o", options, "start"]
    try:
        subprocess.run(start, check=True, **quiet, **where)
        yield f"postgresql://owner@/postgres?host={root}"
    finally:
        subprocess.run([place / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], **quiet, **where)
        shutil.rmtree(root, ignore_errors=True)
