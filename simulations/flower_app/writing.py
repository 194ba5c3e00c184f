"""The folder that ``flwr run`` takes: a ``pyproject.toml`` and nothing else, because the code is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from commonroot import __version__
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write
from commonroot.simulations.arms import parse_arm
from commonroot.simulations.datasets import find, get
from commonroot.simulations.founding import to_toml
from commonroot.simulations.scenario import read_scenario
from commonroot.simulations.worlds import Published, World

_APP: Final = "commonroot.simulations.flower_app"
_FILES: Final = frozenset({"pyproject.toml", ".gitignore"})
#: Flower's nodes where every department could be one of its own: more cost more messages than they save time.
_MOST_NODES: Final = 100
#: Where nobody knows how many departments there will be.
_SOME_NODES: Final = 16


def write_app(
    folder: Path,
    file: Path,
    *,
    arms: Sequence[str],
    sum: str | None,
    quick: bool,
    keep: Path | None,
    out: Path | None,
    data: Path | None = None,
) -> list[Path]:
    """Write the app; the files.  ``keep`` and ``out`` lie beside it where they are not given.

    data  where published data is looked for first; by default where this machine has it, if it does

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
        "data": str(_source(scenario.world, file, data) or (data.resolve() if data is not None else "")),
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


def nodes_for(file: Path, data: Path | None) -> tuple[int, bool]:
    """How many of Flower's nodes suit a scenario, and whether its departments say so or nobody knows them yet.

    Departments that only a world's data knows are counted as a run would find them, where that data is here.

    Raises ConfigError and DataError for what no run would take.
    """
    scenario = read_scenario(file)
    names: Collection[str] = scenario.names
    if not names:
        if _needs(scenario.world) and _source(scenario.world, file, data) is None:
            return _SOME_NODES, False
        with tempfile.TemporaryDirectory(prefix="commonroot-") as world:
            names = scenario.sections(file.resolve().parent, Path(world), data)
    return min(len(names), _MOST_NODES), True


def _needs(world: World | None) -> str:
    """The folder of published data that a world is made from; empty where it needs none."""
    return get(world.name).folder if isinstance(world, Published) else ""


def _source(world: World | None, file: Path, data: Path | None) -> Path | None:
    """What ``--data`` would have to say for a run to find a world's published data; None where it is not here."""
    if not isinstance(world, Published):
        return None
    own = None if world.data is None else file.resolve().parent / world.data
    folder = _needs(world)
    found = find(folder, data or own) if folder else None
    return None if found is None else found.parents[len(Path(folder).parts) - 1].resolve()
