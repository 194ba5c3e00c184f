"""The folder that ``flwr run`` takes: a ``pyproject.toml`` and nothing else, because the code is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from commonroot import __version__
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write
from commonroot.simulations.arms import parse_arm
from commonroot.simulations.founding import to_toml
from commonroot.simulations.scenario import read_scenario

_APP: Final = "commonroot.simulations.flower_app"
_FILES: Final = frozenset({"pyproject.toml", ".gitignore"})


def write_app(
    folder: Path,
    file: Path,
    *,
    arms: Sequence[str],
    sum: str | None,
    quick: bool,
    keep: Path | None,
    out: Path | None,
) -> list[Path]:
    """Write the app; the files.  ``keep`` and ``out`` lie beside it where they are not given.

    Raises ConfigError for a folder that holds something else, and for what could not be simulated there.
    """
    scenario = read_scenario(file)
    if (sum or ("exact" if scenario.sum == "exact" and "sum" in scenario.model_fields_set else "ring")) == "exact":
        raise ConfigError("Flower's engine has no exact sums", hint="--sum ring gives the very same backbone")
    spaced = [arm for arm in arms if " " in arm]
    if spaced:
        raise ConfigError(f"--arm {spaced[0]}: no spaces in the arms of an app for Flower")
    for arm in arms:
        parse_arm(arm, scenario.summed(sum).draft)
    folder = folder.resolve()
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if (folder.exists() and not folder.is_dir()) or found - _FILES:
        raise ConfigError(f"{folder} is not empty and holds no app of this kind", hint="name a new folder")
    settings = {
        "scenario": str(file.resolve()),
        "arms": " ".join(arms),
        "sum": sum or "",
        "quick": quick,
        "folder": str((keep or folder.with_name(f"{folder.name}-kept")).resolve()),
        "out": str((out or folder.with_name(f"{folder.name}-report")).resolve()),
    }
    app = {
        "publisher": "commonroot",
        "components": {"serverapp": f"{_APP}.server:app", "clientapp": f"{_APP}.client:app"},
        "config": settings,
    }
    project = {
        "project": {
            "name": "commonroot-simulation",
            "version": __version__,
            "description": f"The simulation of {file.name}, with Flower's nodes for workers.",
            "license": "Apache-2.0",
            "dependencies": [],
        },
        "tool": {"flwr": {"app": app}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "pyproject.toml", folder / ".gitignore"]
    atomic_write(files[0], to_toml(project).encode())
    atomic_write(files[1], b"*\n!pyproject.toml\n")  # nothing else goes into the bundle
    return files
