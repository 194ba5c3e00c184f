"""One cell of the transfer benchmark: one method on one dataset under one protocol with one seed, kept once it is done.

A cell's result is a JSON file under the cache, named by a hash of all that decides it: the published files, the names
of dataset, protocol, method and seed, the versions of the libraries, and the program itself as far as it takes part
(``provenance``).  A cell under way keeps its federation under ``work/``; whoever is killed goes on from the round it
had reached.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import commonroot.simulations
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write, storage_errors
from commonroot.logs import Tell
from commonroot.simulations.arms import POOLED
from commonroot.simulations.datasets import DATASETS, find, get
from commonroot.simulations.outcome import kept_models
from commonroot.simulations.provenance import content_digest, kept_result, libraries, rooms, simulated, sources_digest
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import simulate
from commonroot.simulations.transfer_figures import figures

LAYOUT: Final = 1
#: The method that a dataset's own charter names.
OWN: Final = "charter"
#: What decides results here, besides what decides any simulation's.
_CELLS: Final = ("transfer_cells.py", "transfer_figures.py")
#: What is kept of a department's report, and of its details.
_KEPT: Final = (
    "name", "task", "metric", "better", "unit", "n_train", "n_test", "alone", "alone_model", "federated", "chosen",
    "choice", "why", "gain", "interval",
)  # fmt: skip
_DETAILS: Final = ("gain_federated", "scores", "evidence", "changed", "reliability", "contenders")

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """What is to be run.

    method  as ``simulate --arm`` takes it, ``pooled`` included, or ``charter`` for the charter's own
    """

    dataset: str
    protocol: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.dataset} {self.protocol}, {self.method}, seed {self.seed}"

    def key(self, data: Path | None) -> str:
        """The hash that its result is kept under.  Raises ConfigError where published files are not here."""
        decided = {
            "layout": LAYOUT,
            "cell": asdict(self),
            "files": _files(_source(self.dataset, data)),
            "code": code_digest(self.dataset),
            "libraries": libraries(),
        }
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:32]


def kept(cell: Cell, folder: Path, data: Path | None) -> Result | None:
    """The cell's result where it is known; a file that cannot be read is as good as none."""
    return kept_result(folder / f"{cell.key(data)}.json")


def run_cell(cell: Cell, folder: Path, data: Path | None, tell: Tell = lambda kind, facts: None) -> Result:
    """Run the cell to its end, from wherever an earlier attempt stands, and keep what came out.

    The result holds the cell, ``about``, ``method``, ``state`` and ``reason``, ``departments`` (see ``_KEPT``), the
    rounds' ``history``, ``rounds``, ``bytes_received``, ``bytes_per_department_per_round``, ``seconds`` and
    ``processor_seconds`` of this attempt, and ``figures``, which are the dataset's own.

    Raises what ``simulate`` raises, where the method does not fit the data.
    """
    if (found := kept(cell, folder, data)) is not None:
        return found
    key = cell.key(data)
    work = folder / "work" / key
    with storage_errors(folder):
        work.mkdir(parents=True, exist_ok=True)
    try:
        result = _simulated(cell, work, data, tell)
    except ConfigError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    atomic_write(folder / f"{key}.json", json.dumps(result, indent=1, ensure_ascii=False).encode())
    shutil.rmtree(work, ignore_errors=True)
    return result


def _simulated(cell: Cell, work: Path, data: Path | None, tell: Tell) -> Result:
    dataset = get(cell.dataset)
    world = dataset.write(_source(cell.dataset, data), work / "tables", seed=cell.seed, protocol=cell.protocol)
    scenario = Scenario.model_validate(
        {
            "seed": cell.seed,
            "charter": {"federation": cell.dataset, "name": cell.protocol, **world.charter},
            "departments": [{"name": name, "data": section} for name, section in world.departments.items()],
        }
    )
    arms = () if cell.method == OWN else (cell.method,)
    began = time.process_time()
    found = simulate(
        scenario,
        arms=arms,
        folder=work / "run",
        sum="ring",  # what the whole protocol gives, without its cost
        alone=work.parent.parent / "alone" / code_digest(cell.dataset)[:16],
        tell=lambda arm, kind, facts: tell(kind, facts),
    )
    [report] = found["arms"]
    departments = [_department(row) for row in report["departments"]]
    arm = next((work / "run" / "arms").iterdir())
    models = None if cell.method == POOLED else kept_models(arm / "departments", report["charter"])
    return {
        "cell": asdict(cell),
        "about": world.about,
        "method": report["method"],
        "state": report["state"],
        "reason": report["reason"],
        "expected": sorted(world.departments),
        "departments": departments,
        "history": [
            {key: row[key] for key in ("round", "survivors", "cohort", "loss", "held_out")} for row in report["history"]
        ],
        "rounds": report["rounds"],
        "bytes_received": report["bytes_received"],
        "bytes_per_department_per_round": report["bytes_per_department_per_round"],
        "seconds": report["wall_seconds"],
        "processor_seconds": time.process_time() - began,
        "figures": figures(cell.dataset, world, scenario, models, departments),
    }


def _department(row: Mapping[str, Any]) -> dict[str, Any]:
    out = {key: row.get(key) for key in _KEPT}
    out["better"] = row.get("better") or row["details"].get("better", "higher")
    out["unit"] = row.get("unit") or ("points" if out["better"] == "higher" else "%")
    details = {key: row["details"].get(key) for key in _DETAILS}
    if details["gain_federated"] is None:
        out["federated"] = None
    return out | details


def _source(name: str, data: Path | None) -> Path:
    folder = get(name).folder
    source = find(folder, data) if folder else Path()
    if source is None:
        raise ConfigError(f"{folder} is not on this machine", hint=f"commonroot download {name}")
    return source


# -- what decides a result ---------------------------------------------------------------------------------------------


@cache
def _files(source: Path) -> str:
    """SHA-256 over names and contents of published files; nothing for a dataset that comes with a library."""
    return hashlib.sha256().hexdigest() if source == Path() else content_digest(source)


@cache
def code_digest(dataset: str) -> str:
    """SHA-256 over the program as far as it decides results on a dataset, without comments and docstrings."""
    return sources_digest(_sources(dataset))


def _sources(dataset: str) -> Iterator[tuple[str, Path]]:
    yield from rooms()
    root = Path(next(iter(commonroot.simulations.__path__)))
    others = {f"simulations/datasets/{name.rpartition('.')[2]}.py" for name in DATASETS.values()}
    others.remove(f"simulations/datasets/{DATASETS[dataset].rpartition('.')[2]}.py")
    yield from ((name, path) for name, path in simulated() if name not in others)
    yield from ((f"simulations/{name}", root / name) for name in _CELLS)
