"""Is training together worth it, and for whom is it not?  Intervals and tests over departments and seeds.

A *gain* is what the kept model is better by than the department's best model trained alone, in points (0.01 of a metric
that is a fraction) or in % of an error; above 0 is better.  Gains of one seed are paired: the same split, the same test
rows.

mean gain     cluster bootstrap (Davison and Hinkley, 1997, section 3.8): departments are resampled, then seeds within
              each, because departments differ far more from each other than one differs between seeds
harm          one-sided paired t-test per department against a margin, corrected for the number of departments after
              Holm (1979); with one seed an exact McNemar test, or what a bootstrap over test rows says
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
REPEATS: Final = 4000
LEVEL: Final = 0.95
#: A department that is worse by no more than this is not called worse: points, or % of an error.
LEAST_MARGIN: Final = 1.0
#: Chance, over all departments together, of calling somebody worse who is not.
ALPHA: Final = 0.05
_95: Final = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with a percentile interval."""

    mean: float
    low: float
    high: float


def cluster_bootstrap(
    gains: Sequence[Sequence[float]], *, seed: int, repeats: int = REPEATS, level: float = LEVEL
) -> Interval:
    """Mean over departments of their mean over seeds, with its interval.

    gains  one list per department, one value per seed; departments may have different numbers of seeds

    A single department has no interval over departments; what remains is over its seeds.
    Raises ValueError where there is nothing.
    """
    if not gains or not all(len(some) for some in gains):
        raise ValueError("a mean gain needs departments with at least one seed each")
    random = np.random.default_rng([0x636C7573, seed])
    many = len(gains)
    longest = max(len(some) for some in gains)
    padded = np.zeros((many, longest))
    sizes = np.array([len(some) for some in gains])
    for at, some in enumerate(gains):
        padded[at, : len(some)] = some
    drawn = random.integers(many, size=(repeats, many))
    lengths = sizes[drawn]
    seeds = (random.random((repeats, many, longest)) * lengths[:, :, None]).astype(np.int64)
    counted = np.arange(longest) < lengths[:, :, None]
    values = padded[drawn[:, :, None], seeds]
    means = ((values * counted).sum(axis=2) / lengths).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    exact = float(np.mean([np.mean(some) for some in gains]))
    return Interval(exact, float(low), float(high))


def interval_over_seeds(gains: Sequence[float], *, level: float = LEVEL) -> tuple[float, float]:
    """Student's t-interval of one department's mean gain.  Raises ValueError for fewer than two seeds."""
    if len(gains) < 2:
        raise ValueError("an interval over seeds needs two or more")
    from scipy.special import stdtrit

    half = float(stdtrit(len(gains) - 1, (1 + level) / 2)) * float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
    mean = float(np.mean(gains))
    return mean - half, mean + half


def margin(local: Sequence[float], unit: str) -> float:
    """What counts as "no worse" for one department.

    max(1 point, ½ standard error of the mean local score over seeds) for fractions, given as such; 1 % for errors.
    """
    if unit == "%" or len(local) < 2:
        return LEAST_MARGIN
    error = 100.0 * float(np.std(local, ddof=1)) / math.sqrt(len(local))
    return max(LEAST_MARGIN, error / 2)


def p_worse(gains: Sequence[float], margin: float) -> float:
    """p of "mean gain ≥ -margin" against "below", one-sided paired t-test over seeds; small says *worse*.

    Raises ValueError for fewer than two seeds.
    """
    return _t_below(np.asarray(gains, dtype=np.float64) + margin)


def p_no_worse(gains: Sequence[float], margin: float) -> float:
    """p of "mean gain ≤ -margin" against "above": the non-inferiority test; small says *proven no worse*."""
    return _t_below(-(np.asarray(gains, dtype=np.float64) + margin))


def _t_below(values: Floats) -> float:
    """P(T ≤ t) for the mean of ``values`` against 0; without any spread the sign decides."""
    if len(values) < 2:
        raise ValueError("a t-test needs two seeds or more")
    from scipy.special import stdtr

    mean, spread = float(values.mean()), float(values.std(ddof=1))
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return 0.0 if mean < 0 else 1.0
    return float(stdtr(len(values) - 1, mean / (spread / math.sqrt(len(values)))))


def mcnemar(gained: int, lost: int) -> float:
    """Exact one-sided McNemar test of one pair of classifiers; small says *worse*.

    gained, lost  rows that only the one, and only the other of the two models got right

    P(X ≤ gained) for X ~ Binomial(gained + lost, ½); 1 where they never differ.
    """
    many = gained + lost
    return float(sum(math.comb(many, k) for k in range(gained + 1)) / 2**many)


def below_by_bootstrap(gain: float, low: float, high: float, margin: float) -> float:
    """p of "gain ≥ -margin" from a 95 % interval of a paired bootstrap over test rows, taken as normal."""
    error = (high - low) / (2 * _95)
    if error <= 0:
        return 0.0 if gain < -margin else 1.0
    return 0.5 * math.erfc(-(gain + margin) / error / math.sqrt(2))


def holm(chances: Sequence[float]) -> list[float]:
    """Adjusted p-values in the same order (Holm, 1979): compare each with the chance of any false alarm at all."""
    order = sorted(range(len(chances)), key=lambda at: chances[at])
    adjusted = [0.0] * len(chances)
    highest = 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[at]))
        adjusted[at] = highest
    return adjusted


@dataclass(frozen=True, slots=True)
class Series:
    """One department under one method: what each seed gave.

    gains     one per seed, in ``unit``
    local     the best local model's metric on the same rows, a fraction where the unit is points
    interval  of the gain over test rows; used where there is one seed
    changed   rows that only the kept model, and only the local one got right; used likewise, where known
    """

    gains: Sequence[float]
    local: Sequence[float]
    unit: str = "points"
    interval: tuple[float, float] | None = None
    changed: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What can be said about one department.

    worse    adjusted p of being worse than alone by more than the margin
    safe     p of the non-inferiority test, not adjusted; None with one seed
    verdict  ``worse``, ``no worse`` (shown), or ``no evidence of harm`` (neither is shown)
    """

    gain: float
    margin: float
    worse: float
    safe: float | None
    verdict: Literal["worse", "no worse", "no evidence of harm"]


def findings(series: Mapping[str, Series], *, alpha: float = ALPHA) -> dict[str, Finding]:
    """Every department of one comparison, Holm-corrected over all of them."""
    margins = {name: margin(one.local, one.unit) for name, one in series.items()}
    raw = [_worse(one, margins[name]) for name, one in series.items()]
    found: dict[str, Finding] = {}
    for (name, one), worse in zip(series.items(), holm(raw), strict=True):
        safe = p_no_worse(one.gains, margins[name]) if len(one.gains) > 1 else None
        shown = safe is not None and safe < alpha
        verdict: Literal["worse", "no worse", "no evidence of harm"] = "no worse" if shown else "no evidence of harm"
        if worse < alpha:
            verdict = "worse"
        found[name] = Finding(float(np.mean(one.gains)), margins[name], worse, safe, verdict)
    return found


def _worse(one: Series, margin: float) -> float:
    if len(one.gains) > 1:
        return p_worse(one.gains, margin)
    if one.changed is not None:
        return mcnemar(*one.changed)
    if one.interval is not None:
        return below_by_bootstrap(one.gains[0], *one.interval, margin)
    return 1.0
