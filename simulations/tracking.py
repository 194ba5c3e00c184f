"""Simulations as TensorBoard and MLflow show them: one run for each arm, or for each cell of a sweep.

    --track tensorboard:DIR    event files in DIR/NAME, for ``tensorboard --logdir DIR``
    --track mlflow:URI         runs of an experiment named as the federation, at any URI that MLflow knows

Both are optional and imported when asked for.  A run holds, for every round, what its sum says (``loss``, ``held_out``,
``clipped_share``, ``survivors``); what it ended with; and what was set, as hyperparameters.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.files import storage_errors
from commonroot.server.reports import newest
from commonroot.simulations.arms import parse_arm
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import TellArm

#: What a round is shown as, of its history.
SHOWN: Final = ("held_out", "loss", "clipped_share", "survivors", "cohort")
#: The tag under which MLflow knows a cell of a sweep again.
TAG: Final = "commonroot.key"

Params = Mapping[str, str | float | int | bool]


class Log(Protocol):
    """One run of a tracker."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step."""

    def end(self, metrics: Mapping[str, float]) -> None:
        """What it ended with; nothing comes after."""

    def broken_off(self) -> None:
        """It did not come to its end."""


class Tracker(Protocol):
    """Where runs are shown."""

    def begin(self, name: str, params: Params, *, key: str = "") -> Log | None:
        """A new run; None where one with this ``key`` is there already."""


class Trackers:
    """Everything that was asked for with ``track``."""

    def __init__(self, all_of_them: Sequence[Tracker], scenario: Scenario) -> None:
        self._trackers = all_of_them
        self._scenario = scenario
        self._open: dict[str, list[Log]] = {}
        self._told: dict[str, set[int]] = {}

    def tell(self, arm: str, kind: str, facts: Mapping[str, Any]) -> None:
        """Something happened in an arm of a simulation: rounds are shown as they close."""
        if kind == "run-closed" and self._trackers:
            shown = {name: facts.get(name) for name in SHOWN}
            self._round(arm, int(facts["version"]), shown | _counts(facts))

    def ended(self, result: Mapping[str, Any]) -> None:
        """A simulation has its report; rounds of an earlier process are shown too."""
        for report in result["arms"] if self._trackers else ():
            self._arm_ended(str(report["arm"]), report)

    def _arm_ended(self, arm: str, report: Mapping[str, Any]) -> None:
        for row in report["history"]:
            self._round(arm, int(row["version"]), row)
        for log in self._logs(arm):
            log.end(_ended(report))
        self._open.pop(arm, None)

    def cell(self, name: str, key: str, params: Params, history: Sequence[Mapping[str, Any]], scores: Any) -> None:
        """A cell of a sweep, once: later calls with the same ``key`` show nothing."""
        for tracker in self._trackers:
            if (log := tracker.begin(name, params, key=key)) is None:
                continue
            for row in history:
                log.scalars(int(row["version"]), _numbers({which: row.get(which) for which in SHOWN}))
            log.end(_numbers(scores))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Arms that did not end are marked so."""
        for logs in self._open.values():
            for log in logs:
                log.broken_off()
        self._open.clear()

    def _round(self, arm: str, version: int, row: Mapping[str, Any]) -> None:
        told = self._told.setdefault(arm, set())
        if version in told:
            return
        told.add(version)
        for log in self._logs(arm):
            log.scalars(version, _numbers({name: row.get(name) for name in SHOWN}))

    def _params(self, arm: str) -> Params:
        draft = self._scenario.draft
        if arm != draft.method.name:
            draft = parse_arm(arm, draft, self._scenario.sum).draft
        return params_of(draft, self._scenario) | {"arm": arm}

    def _logs(self, arm: str) -> list[Log]:
        if arm not in self._open:
            name = f"{self._scenario.charter.name} {arm} {time.strftime('%Y%m%d-%H%M%S')}"
            params = self._params(arm)
            found = (tracker.begin(name, params) for tracker in self._trackers)
            self._open[arm] = [log for log in found if log is not None]
        return self._open[arm]


def both(tell: TellArm, shown: Trackers) -> TellArm:
    """Tells a person and trackers."""

    def told(arm: str, kind: str, facts: dict[str, Any]) -> None:
        tell(arm, kind, facts)
        shown.tell(arm, kind, facts)

    return told


def trackers(track: str | Sequence[str], scenario: Scenario) -> Trackers:
    """What ``track`` asks for.  Raises ConfigError for a word that is none, and for a package that is not here."""
    wanted = [track] if isinstance(track, str) else list(track)
    found = []
    for text in filter(None, wanted):
        kind, _, place = text.partition(":")
        if kind not in _KINDS or not place:
            raise ConfigError(f"--track {text}: not a place to track", hint="tensorboard:DIR or mlflow:URI")
        found.append(_KINDS[kind](place, scenario.charter.federation))
    return Trackers(found, scenario)


def params_of(draft: Draft, scenario: Scenario) -> dict[str, str | float | int | bool]:
    """What was set, flat: the charter's method, training and shape, and the scenario's own fields."""
    about: dict[str, Any] = {
        "federation": draft.federation,
        "charter": draft.name,
        "rounds": draft.rounds,
        "seed": scenario.seed,
        "sum": scenario.sum,
        "method": draft.method.name,
    }
    about |= {"departments": len(scenario.names)} if scenario.names else {}  # some worlds know them once they are made
    about |= {f"option.{name}": value for name, value in draft.method.options.items()}
    about |= {f"training.{name}": value for name, value in draft.training.model_dump(exclude_unset=True).items()}
    if draft.backbone is not None:
        shape = draft.backbone.model_dump(mode="json", exclude_unset=True)
        about |= {f"backbone.{name}": str(value) for name, value in shape.items()}
    return {name: value if isinstance(value, str | float | int | bool) else str(value) for name, value in about.items()}


def _counts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How many, of a round's event, which lists names."""
    return {name: len(facts[name]) for name in ("survivors", "cohort") if isinstance(facts.get(name), list | tuple)}


def _ended(report: Mapping[str, Any]) -> dict[str, float]:
    """Gains on departments' test rows, as the report has them, and what it cost."""
    found: dict[str, Any] = {}
    for row in report["departments"]:
        effect = row["details"]["gain_federated"]
        found[f"gain federated/{row['name']}"] = None if effect is None else effect["points"]
        found[f"gain kept/{row['name']}"] = row["gain"]
    for kind in ("federated", "kept"):
        gains = _numbers({name: value for name, value in found.items() if name.startswith(f"gain {kind}/")})
        if gains:
            found[f"mean gain {kind}"] = sum(gains.values()) / len(gains)
    history = report["history"]
    last = {f"last {name}": newest(history, name) for name in ("held_out", "loss")}
    costs = {"seconds": report["wall_seconds"], "received bytes": report["bytes_received"]}
    return _numbers(found | last | costs | {"lost rounds": report["lost_rounds"]})


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are numbers."""
    known = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    return {name: value for name, value in known.items() if math.isfinite(value)}


# -- TensorBoard -------------------------------------------------------------------------------------------------------


class _TensorBoard:
    def __init__(self, place: str, federation: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _absent("tensorboard", "tensorboard") from error
        self._writer = SummaryWriter
        self._root = Path(place)
        with storage_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)

    def begin(self, name: str, params: Params, *, key: str = "") -> Log | None:
        """A folder of event files; one that holds a whole run under this key is left as it is."""
        folder = self._root / (f"{_word(name)}-{key[:12]}" if key else _word(name))
        done = folder / _DONE
        if key and done.is_file():
            return None
        for half in folder.glob("events.out.tfevents.*") if key else ():
            half.unlink()  # of a process that was killed while it wrote this cell
        return _Events(self._writer, folder, params, done if key else None)


#: Beside a cell's event files once they are whole.
_DONE: Final = "commonroot-whole"


class _Events:
    def __init__(self, writer: Callable[..., Any], folder: Path, params: Params, done: Path | None) -> None:
        self._writer, self._params, self._done = writer(log_dir=str(folder)), dict(params), done

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"round/{name}", value, step)
        self._writer.flush()

    def end(self, metrics: Mapping[str, float]) -> None:
        self._writer.add_hparams(self._params, dict(metrics), run_name=".")
        self._writer.close()
        if self._done is not None:
            self._done.touch()

    def broken_off(self) -> None:
        self._writer.close()


# -- MLflow ------------------------------------------------------------------------------------------------------------


class _MLflow:
    def __init__(self, place: str, federation: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is first imported
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise _absent("mlflow", "mlflow-skinny") from error
        self._error = MlflowException
        try:
            self._client = MlflowClient(tracking_uri=place)
            found = self._client.get_experiment_by_name(federation)
            self._experiment = self._client.create_experiment(federation) if found is None else found.experiment_id
        except (MlflowException, OSError, ImportError) as error:
            raise ConfigError(
                f"--track mlflow:{place}: {_first_line(error)}", hint="is this what MLflow calls a tracking URI?"
            ) from error

    def begin(self, name: str, params: Params, *, key: str = "") -> Log | None:
        """A run; one that was finished under this key is left as it is."""
        if key:
            known = self._client.search_runs([self._experiment], filter_string=f"tags.`{TAG}` = '{key}'")
            if any(run.info.status == "FINISHED" for run in known):
                return None
        run = self._client.create_run(self._experiment, run_name=name, tags={TAG: key} if key else None)
        for which, value in params.items():
            self._client.log_param(run.info.run_id, _word(which), value)
        return _Run(self._client, run.info.run_id)


class _Run:
    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, _word(name), value, step=step)

    def end(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._run, _word(name), value)
        self._client.set_terminated(self._run)

    def broken_off(self) -> None:
        self._client.set_terminated(self._run, status="KILLED")


_KINDS: Final[Mapping[str, Callable[[str, str], Tracker]]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow}


def _absent(name: str, package: str) -> ConfigError:
    return ConfigError(
        f"--track {name} needs the package {package}, which is not installed",
        hint=f"pip install {package}, or pip install 'commonroot[tracking]'",
    )


def _word(text: str) -> str:
    """A name as both trackers and file systems take it."""
    return re.sub(r"[^A-Za-z0-9_./-]+", "_", text).strip("_./") or "run"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:600]
