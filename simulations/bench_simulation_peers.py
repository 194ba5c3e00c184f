"""An environment for the peers of ``bench simulation``: this one, and beside it Flower's Ray and Apple's pfl.

They are installed into a folder of their own, in versions that are written here, and never change what they lie beside:
whatever this environment has stays as it is, the build of torch among it.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import commonroot
from commonroot.common.errors import ProcessDied
from commonroot.files import atomic_write

#: What is installed; the simulation extra of this very Flower says which Ray.
PFL: Final = "pfl==0.6.0"
_SHARED: Final = ("torch", "numpy", "flwr", "scipy", "scikit-learn")
_DONE: Final = "installed.txt"


def wanted() -> tuple[str, ...]:
    """Requirements of the peers."""
    return (f"flwr[simulation]=={importlib.metadata.version('flwr')}", PFL)


def environment(folder: Path) -> Path:
    """The Python of the peers' environment, made where it is not there yet; this takes a minute and the network.

    Raises ProcessDied where it cannot be made.
    """
    python = folder / "bin" / "python"
    told = "\n".join(wanted())
    if (folder / _DONE).is_file() and (folder / _DONE).read_text() == told and python.exists():
        return python
    venv.create(folder, with_pip=True, clear=True)
    inner = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})["purelib"]
    borrowed = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    atomic_write(Path(inner) / "borrowed.pth", "\n".join(borrowed).encode())
    kept = "\n".join(f"{name}=={importlib.metadata.version(name)}" for name in _SHARED)
    atomic_write(folder / "constraints.txt", kept.encode())
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--constraint", str(folder / "constraints.txt"), *wanted()],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise ProcessDied(f"the peers could not be installed: {lines[-1]}", hint="pip needs an index that has them")
    atomic_write(folder / _DONE, told.encode())
    return python


def command(python: Path | str, module: str, *arguments: str) -> Sequence[str]:
    """How a module of this package is run by a Python."""
    return [str(python), "-m", f"commonroot.simulations.{module}", *arguments]


def around() -> dict[str, str]:
    """The environment variables of a measured process: this package in sight, one thread a process."""
    here = str(Path(commonroot.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


THIS: Final = sys.executable
