"""``commonroot.simulate``: a federation in a notebook, from frames, arrays, files or a ``federation.toml``.

    from commonroot import simulate

    result = simulate("charter.toml", {"sales": sales, "service": service, "quality": quality},
                      common={"target": "demand", "task": "regression"}, arms=["fedper", "pooled"])
    result                                      # shows itself
    result.table, result.rounds, result.costs   # polars frames
    result.backbone("fedper").tensors           # arrays by name
    result.predictor("fedper", "sales").predict(sales)

What runs is what ``commonroot simulate`` runs (``simulations.simulate``); this only says it in Python.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from commonroot.simulations.arms import parse_arm
from commonroot.simulations.given import scenario_of, without_masks
from commonroot.simulations.notebook_result import Result
from commonroot.simulations.progress import ArmsProgress
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import TellArm, claim
from commonroot.simulations.simulate import simulate as run_arms
from commonroot.simulations.tracking import both, trackers

#: Where tables that came in memory are kept, in the simulation's folder.
TABLES: Final = "data"


def simulate(
    charter: Any,
    departments: Mapping[str, Any] | None = None,
    *,
    arms: Sequence[str] = (),
    common: Mapping[str, Any] | None = None,
    seed: int | None = None,
    sum: str | None = None,
    workers: int = 1,
    quick: bool = False,
    engine: str = "own",
    device: str = "cpu",
    network: Mapping[str, Any] | None = None,
    events: Sequence[Mapping[str, Any]] | None = None,
    folder: str | Path | None = None,
    track: str | Sequence[str] = (),
    progress: bool = True,
    **sections: Any,
) -> Result:
    """Run a whole federation on this machine, method by method, on the same data.

    charter      the path of a ``charter.toml``, a ``Draft``, or a mapping of a charter's fields, which may leave out
                 ``federation`` and ``name``.  Without departments: the path of a ``federation.toml``, a ``Scenario``,
                 or a mapping of a whole scenario without ``include``
    departments  by name: the path of a ``department.toml`` or of a table; a ``[data]`` section as a mapping or a
                 ``DataConfig``; a frame of polars or pandas; ``(X, y)`` of NumPy.  A mapping with ``rows`` (a frame, a
                 dict of lists or ``(X, y)``) in place of a path says more about rows in memory
    common       fields of ``[data]`` that every department has unless its own section says otherwise
    arms         as ``simulate --arm``: methods with options, or ``pooled``; by default the charter's own method
    seed, sum, network, events and further ``sections`` (``world``, ``behaviour``, ``statistics`` …) are those of a
                 ``federation.toml`` and stand over what the scenario says.  ``sum`` is ``ring`` where nothing says
                 otherwise: the very same backbone as ``exact``, without the masks
    workers      processes; the result is the same for any number
    quick        rounds alone: no department fine-tunes, compares and chooses at the end
    engine       ``own`` processes of this machine, or ``flower``, its simulation on Ray; the backbone is the same
    device       where networks are computed: ``cpu``, as in deployment, or a GPU, ``cuda``, with other last bits
    folder       keep everything there; killed at any moment, the same call goes on.  Otherwise it is kept as long as
                 the result is, in a temporary folder
    track        ``tensorboard:DIR``, ``mlflow:URI`` or both (``simulations.tracking``)
    progress     show bars, where somebody can see them

    Raises ConfigError naming every wrong field, and DataError naming everything that is wrong with all departments'
    data, before anything runs.
    """
    given = {"seed": seed, "sum": sum, "network": network, "events": events, **sections}
    with ExitStack() as undo:
        root = kept_folder(folder, undo)

        def tables() -> Path:
            claim(root)
            return root / TABLES

        scenario = scenario_of(charter, departments, common=common, sections=given, tables=tables)
        scenario = without_masks(scenario)
        chosen = [parse_arm(text, scenario.draft, scenario.sum) for text in arms_of(arms, scenario)]
        with quiet(), shown(progress) as tell, trackers(track, scenario) as tracked:
            report = run_arms(
                scenario,
                arms=[arm.label for arm in chosen],
                folder=root,
                workers=workers,
                finish=not quick,
                engine=engine,
                device=device,
                tell=both(tell, tracked),
            )
            tracked.ended(report)
        result = Result(report, scenario, chosen, root)
        if folder is None:
            undo.pop_all()
            weakref.finalize(result, shutil.rmtree, root, ignore_errors=True)
    return result


def kept_folder(folder: str | Path | None, undo: ExitStack) -> Path:
    """The folder that is asked for; without one a temporary one, which ``undo`` removes."""
    if folder is not None:
        return Path(folder).resolve()
    root = Path(tempfile.mkdtemp(prefix="commonroot-"))
    undo.callback(shutil.rmtree, root, ignore_errors=True)
    return root


def arms_of(arms: str | Sequence[str], scenario: Scenario) -> list[str]:
    """The arms that are asked for; the charter's own method for none."""
    return [arms] if isinstance(arms, str) else list(arms) or [scenario.draft.method.name]


@contextmanager
def quiet() -> Iterator[None]:
    """One thread for torch, as the command takes: departments' networks are small, and more wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seen_console(progress: bool) -> Console | None:
    """Where bars are drawn: a terminal, or a notebook that has widgets; None where nobody would see them move."""
    console = Console(stderr=True)
    seen = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    return console if progress and seen else None


@contextmanager
def shown(progress: bool) -> Iterator[TellArm]:
    """Bars for a simulation, or nothing."""
    console = seen_console(progress)
    if console is None:
        yield lambda arm, kind, facts: None
        return
    with ArmsProgress(console) as tell:
        yield tell
