"""The guard against real departments: what it gains over the best local model, and whom it harms.

Every rule sees the same cases (``guard_cases``): departments of eight small federations under several seeds.  A gain is
that of the kept predictions over the best model trained alone (by cross-validation) on test rows, in points or % of an
error.  ``commonroot bench guard tiny bad`` runs those worlds; without names, all.  Cases are kept beside the rows and
not made again; ``rules.json`` there holds every figure of every rule.

A department counts as harmed if, over the seeds, a one-sided paired t-test shows more than max(1 point, half a standard
error of its local score) of loss, by Holm's step-down at 5 % over all departments of all worlds.  A non-inferiority
test the other way round says how many are shown *not* to be worse by that margin; with five seeds that is asking much.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from commonroot.client.alone import ENOUGH_TO_HOLD_OUT
from commonroot.client.choice import calibrate
from commonroot.client.guard import mixed, weigh
from commonroot.client.tasks import POINTS, Floats
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write
from commonroot.simulations.bench import Row
from commonroot.simulations.datasets import find, get
from commonroot.simulations.guard_cases import Case, cases
from commonroot.simulations.guard_worlds import NAMES

#: Names of cases that can be asked for one by one.
CASES: Final = NAMES
SEEDS: Final = (1, 2, 3, 4, 5)
ALONE: Final = 0
_REPEATS: Final = 200


@dataclass(frozen=True, slots=True)
class Judged:
    """A case as rules see it, and what comes of what they keep.

    crossed  out-of-fold predictions of all learning rows: the best alone (chosen elsewhere), then the others
    held     predictions of the validation rows by fits to the training rows, in the same order
    test     predictions of the test rows, in the same order
    se       of the local test score, in the unit of gains
    """

    case: Case
    crossed: tuple[Floats, ...] = field(repr=False)
    held: tuple[Floats, ...] = field(repr=False)
    test: tuple[Floats, ...] = field(repr=False)
    se: float

    @classmethod
    def of(cls, case: Case) -> Judged:
        """Calibrate: local models on all rows out of fold, federated ones on validation rows."""
        task, ours, fresh = case.task, case.ours, ~case.seen
        y, count = case.y, len(case.names)
        cross, held, test = [], [], []
        for at in range(count):
            heard = np.ones(len(y), dtype=np.bool_) if at < ours else fresh
            found = calibrate(task, case.cross[at][heard].astype(np.float64), y[heard])
            cross.append(task.predictive(found.apply(case.cross[at].astype(np.float64))))
            test.append(task.predictive(found.apply(case.test[at].astype(np.float64))))
            outputs = case.held[at].astype(np.float64)
            held.append(task.predictive(calibrate(task, outputs, y[fresh]).apply(outputs)))
        losses = np.stack([task.row_losses(array, y) for array in cross[:ours]])
        best = int(np.argmin(losses.mean(axis=1)))
        elsewhere = cross[best].copy()
        for fold in np.unique(case.fold):
            inside = case.fold == fold
            elsewhere[inside] = cross[int(np.argmin(losses[:, ~inside].sum(axis=1)))][inside]
        few = int(fresh.sum()) < ENOUGH_TO_HOLD_OUT  # then what is best alone is chosen in folds
        first = best if few else int(np.argmin([task.row_losses(one, y[fresh]).mean() for one in held[:ours]]))
        return cls(
            case,
            (elsewhere, *cross[ours:]),
            (held[first], *held[ours:]),
            (test[best], *test[ours:]),
            _spread(case, test[best]),
        )

    def weights(self, *parts: float) -> tuple[float, ...]:
        """Weights of all candidates from those of the first ones."""
        return (*parts, *(0.0 for _ in range(len(self.test) - len(parts))))

    def gain(self, weights: Sequence[float]) -> float:
        """Over the best model alone, in points or % of an error."""
        kept, alone = (self._score(array) for array in (mixed(self.test, weights), self.test[ALONE]))
        if self.case.task.unit == "points":
            return POINTS * (kept - alone)
        return 100.0 * (1.0 - kept / alone) if alone > 0 else 0.0

    def _score(self, array: Floats) -> float:
        y = self.case.y_test
        return float(self.case.task.scores(array, y, np.ones((1, len(y))))[0])


def _spread(case: Case, alone: Floats) -> float:
    n = len(case.y_test)
    counts = np.random.default_rng([0x7365, case.seed]).multinomial(n, np.full(n, 1 / n), size=_REPEATS)
    found = case.task.scores(alone, case.y_test, counts.astype(np.float64))
    unit = POINTS if case.task.unit == "points" else 100.0 / max(float(np.mean(found)), 1e-9)
    return unit * float(np.std(found))


Rule = Callable[[Judged], tuple[float, ...]]


def _best_bound(judged: Judged) -> tuple[float, ...]:
    """The largest lower bound, z = 1, of federated and average, on validation rows; on fewer than 20, the average."""
    task, fresh = judged.case.task, ~judged.case.seen
    y = judged.case.y[fresh]
    options = {(1.0, 0.0): 0.0}
    if len(y) < 20:
        return judged.weights(0.5, 0.5)
    base = task.row_losses(judged.held[ALONE], y)
    for parts in ((0.5, 0.5), (0.0, 1.0)):
        gained = base - task.row_losses(mixed(judged.held[:2], parts), y)
        options[parts] = float(gained.mean() - gained.std(ddof=1) / math.sqrt(len(y)))
    return judged.weights(*max(options, key=lambda parts: options[parts]))


def _held_out(judged: Judged) -> tuple[float, ...]:
    """Validation rows, predicted by fits to the training rows."""
    fresh = judged.case.y[~judged.case.seen]
    return weigh(judged.case.task, judged.held, fresh, np.zeros(len(fresh), dtype=np.bool_)).weights


def _in_folds(judged: Judged, rows: NDArray[np.bool_]) -> tuple[float, ...]:
    case = judged.case
    return weigh(case.task, [one[rows] for one in judged.crossed], case.y[rows], case.seen[rows]).weights


def _both_witnesses(judged: Judged) -> tuple[float, ...]:
    """As the product does it: in folds, or held out where there are rows enough for that."""
    if int((~judged.case.seen).sum()) >= ENOUGH_TO_HOLD_OUT:
        return _held_out(judged)
    return _in_folds(judged, np.ones(len(judged.case.y), dtype=np.bool_))


def _believed(judged: Judged) -> tuple[float, ...]:
    """All learning rows alike, as if the rounds had seen none of them."""
    case = judged.case
    return weigh(case.task, judged.crossed, case.y, np.zeros(len(case.y), dtype=np.bool_)).weights


#: What is kept, by rule; the last is the product's.
RULES: Final[dict[str, Rule]] = {
    "federated always": lambda judged: judged.weights(0.0, 1.0),
    "average of two always": lambda judged: judged.weights(0.5, 0.5),
    "uniform ensemble always": lambda judged: tuple(1 / len(judged.test) for _ in judged.test),
    "best bound of three, average below 20 rows": _best_bound,
    "mixture, held-out validation rows": _held_out,
    "mixture, validation rows in folds": lambda judged: _in_folds(judged, ~judged.case.seen),
    "mixture, all rows in folds believed alike": _believed,
    "guard": _both_witnesses,
}


def run(console: Console, names: Sequence[str] = (), *, data: Path | None = None, out: Path | None = None) -> list[Row]:
    """Every rule on every case of the named worlds, or of all whose files are here.  Raises ConfigError."""
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        raise ConfigError(f"no world {', '.join(unknown)}", hint=f"known: {', '.join(CASES)}")
    there = [name for name in CASES if name not in ("heart", "school") or find(get(name).folder, data)]
    worlds = list(names) or there
    out = Path("runs") / "bench" / "guard" if out is None else out

    def tell(what: str) -> None:
        console.print(f"training {what}")

    judged = [Judged.of(case) for case in cases(worlds, SEEDS, out / "cases", data=data, tell=tell)]
    found = {name: figures(judged, rule) for name, rule in RULES.items()}
    atomic_write(out / "rules.json", json.dumps(found, indent=2).encode())
    rows = []
    for name, facts in found.items():
        bounded = name == "guard"
        shares = facts["below"]
        rows += [
            Row(f"{name}: mean gain", facts["gain"], ">=" if bounded else "", 0.0),
            Row(f"{name}: share of cases below -1", shares["1"]),
            Row(f"{name}: share of cases below -3", shares["3"], "<=" if bounded else "", 0.03),
            Row(f"{name}: departments significantly worse", facts["worse"], "<=" if bounded else "", 0.0),
            Row(f"{name}: worst case", facts["worst"]),
        ]
    return rows


def figures(judged: Sequence[Judged], rule: Rule) -> dict[str, Any]:
    """What a rule gains: mean, by world, shares of cases below, harmed departments, worst, and what it keeps."""
    chosen = [rule(one) for one in judged]
    gains = np.array([one.gain(weights) for one, weights in zip(judged, chosen, strict=True)])
    places: dict[tuple[str, str], list[int]] = {}
    for at, one in enumerate(judged):
        places.setdefault((one.case.world, one.case.department), []).append(at)
    margins = [max(1.0, 0.5 * float(np.mean([judged[at].se for at in group]))) for group in places.values()]
    groups = [gains[group] for group in places.values()]
    worse = holm([below(some, margin) for some, margin in zip(groups, margins, strict=True)])
    shown = holm([below(-some, margin, strictly=False) for some, margin in zip(groups, margins, strict=True)])
    worlds = sorted({one.case.world for one in judged})
    return {
        "cases": len(judged),
        "departments": len(groups),
        "gain": float(gains.mean()),
        "loss_of_those_below": float(gains[gains < 0].sum() / len(gains)),
        "by_world": {
            world: float(np.mean([gain for gain, one in zip(gains, judged, strict=True) if one.case.world == world]))
            for world in worlds
        },
        "below": {str(limit): float((gains < -limit).mean()) for limit in (1, 3)},
        "worse": worse,
        "shown_not_worse": shown,
        "worst": float(gains.min()),
        "worst_department": float(min(some.mean() for some in groups)),
        "kept_alone": float(np.mean([weights[ALONE] == 1.0 for weights in chosen])),
    }


def below(gains: Floats, margin: float, *, strictly: bool = True) -> float:
    """p of the one-sided paired t-test over seeds of H0: mean ≥ -margin (``strictly``), or mean ≥ margin."""
    from scipy import stats

    limit = -margin if strictly else margin
    if len(gains) < 2:
        return 1.0
    mean, deviation = float(gains.mean()), float(gains.std(ddof=1))
    if deviation == 0.0:
        return 1.0 if mean >= limit else 0.0
    return float(stats.t.cdf((mean - limit) / (deviation / math.sqrt(len(gains))), len(gains) - 1))


def holm(chances: Sequence[float], level: float = 0.05) -> int:
    """How many hypotheses Holm's step-down rejects (Holm, 1979)."""
    rejected = 0
    for at, chance in enumerate(sorted(chances)):
        if chance > level / (len(chances) - at):
            break
        rejected += 1
    return rejected
