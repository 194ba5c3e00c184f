"""Real data, deployed: the departments of a dataset as daemons of their own, and the same federation simulated.

Each is set up through its ``department.toml`` and takes part over TLS.  Which backbone comes out is decided by the
charter, the departments' tables and their training secrets, as long as everybody is in every round: rounding is drawn
from a department's secret, the charter and the version, masks cancel exactly in integers, and a sum of integers knows
no order.  So the simulated federation must make the same backbones, byte for byte, although its identities and masks
are others.  Both compute on one thread: how a library divides a sum among threads decides its last bit.

``commonroot bench data heart films --deployed`` runs those; without names, one dataset of each kind.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from commonroot.common.errors import ConfigError, RunStopped
from commonroot.files import atomic_write
from commonroot.simulations.bench import Row
from commonroot.simulations.bench_data import CASES as SIMULATED
from commonroot.simulations.bench_data import Case, mean_of_departments, scenario_of
from commonroot.simulations.datasets import find, get
from commonroot.simulations.deployment import backbones, run_deployed
from commonroot.simulations.progress import ArmsProgress
from commonroot.simulations.simulate import simulate

SEED: Final = 1
#: Columns, activations of images, ratings, and tokens of text.
USUAL: Final = ("heart", "office", "films", "tags")
#: Each dataset's usual protocol.
CASES: Final = tuple({case.dataset: case for case in reversed(SIMULATED)}.values())[::-1]


def run(console: Console, names: Sequence[str] = (), *, data: Path | None = None, out: Path | None = None) -> list[Row]:
    """Rows of the named datasets, each under its usual protocol.

    data  where published files are looked for first
    out   folder for what was found for each department; nothing is written without it

    Raises ConfigError for an unknown dataset, or a named one whose files are not here.
    """
    rows: list[Row] = []
    for case in [_case(name) for name in names or USUAL]:
        folder = get(case.dataset).folder
        source = find(folder, data) if folder else Path()
        if source is not None:
            rows += _rows(case, source, console, out)
        elif names:
            raise ConfigError(f"{folder} is not on this machine", hint=f"commonroot download {case.dataset}")
        else:
            console.print(f"{case.name}: skipped, its data is not on this machine")
    return rows


def _case(name: str) -> Case:
    get(name)
    found = next((case for case in CASES if case.dataset == name), None)
    if found is None:
        raise ConfigError(f"{name} has no benchmark", hint=f"known: {', '.join(case.dataset for case in CASES)}")
    return found


def _rows(case: Case, source: Path, console: Console, out: Path | None) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        both = run_both(case, source, Path(folder), console)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(out / f"{case.dataset}-{case.protocol}.json", json.dumps(both, indent=1).encode())
    deployed, simulated = both["deployed"], both["simulated"]
    scores = [{one["name"]: one["chosen"] for one in arm["departments"]} for arm in (deployed, simulated)]
    missed = sum(row["survivors"] < len(scores[0]) for row in deployed["history"])
    why = f"somebody was late in {missed} rounds" if missed else "everybody was in every round"
    name = f"{case.name}, deployed"
    return [
        Row(
            f"{name}: {case.metric} of the models kept, mean over {len(scores[0])} departments",
            statistics.mean(scores[0].values()),
            # some figures are no mean of what departments report
            case.relation if case.figures is mean_of_departments else "",
            statistics.mean(one["alone"] for one in deployed["departments"]) if case.bound is None else case.bound,
        ),
        Row(
            f"{name}: versions of the backbone, of {len(deployed['versions'])}, that the simulation makes otherwise",
            _differing(deployed["versions"], simulated["versions"]),
            "<=",
            0,
            None,
            why,
        ),
        Row(
            f"{name}: departments whose kept model scores otherwise in the simulation",
            sum(scores[0].get(one) != score for one, score in scores[1].items()),
            "<=",
            0,
            None,
            why,
        ),
        Row(f"{name}: rounds in which somebody was late or lost", missed + deployed["lost_rounds"]),
        Row(f"{name}: median seconds of a round", deployed["seconds_per_round"]),
    ]


def run_both(case: Case, source: Path, root: Path, console: Console) -> dict[str, dict[str, Any]]:
    """``deployed`` and ``simulated``: reports, each with ``versions``, the SHA-256 of every version's file.

    Raises what running does, and RunStopped where a department has no report.
    """
    _, scenario = scenario_of(case, source, root / "tables", SEED)
    with ArmsProgress(console) as tell:
        deployed = run_deployed(root / "deployed", scenario, scenario.sections(root, root), partial(tell, "deployed"))
    if len(deployed["departments"]) != len(scenario.names):
        raise RunStopped(f"{len(deployed['departments'])} of {len(scenario.names)} departments have a report")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ArmsProgress(console) as tell, threadpool_limits(1):
            simulated = simulate(scenario, folder=root / "simulated", tell=tell)["arms"][0]
    finally:
        torch.set_num_threads(threads)
    (arm,) = (root / "simulated" / "arms").iterdir()
    return {
        "deployed": deployed | {"versions": backbones(root / "deployed" / "coordinator")},
        "simulated": simulated | {"versions": backbones(arm / "coordinator")},
    }


def _differing(ours: Sequence[str], theirs: Sequence[str]) -> int:
    longer = max(len(ours), len(theirs))
    return longer - sum(one == other for one, other in zip(ours, theirs, strict=False))
