"""Marginal plots of a sweep: what each value of one axis was worth, over all settings that have it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any, Final

from commonroot.client.drawing.charts import Axis as Scale
from commonroot.client.drawing.charts import lines_of, number, short, svg, tag
from commonroot.simulations.sweeps.cells import short as word
from commonroot.simulations.sweeps.cells import told

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 460, 60, 448, 12, 196
#: Positive numbers whose ends are this many times apart stand on a log scale.
_FAR: Final = 15.0
_MOST_LABELS: Final = 9


def marginal(axis: str, rows: Sequence[dict[str, Any]], *, score: str, name: str) -> str:
    """Scores by the value of an axis: a ring for each setting, a line through the means; empty where nothing is known.

    rows  of ``ranking.ranked``
    """
    known = [(row["setting"][axis], row["score"]) for row in rows if row["score"] is not None]
    if not known:
        return ""
    groups: dict[str, tuple[Any, list[float]]] = {}
    for value, found in known:
        groups.setdefault(json.dumps(value, sort_keys=True, default=str), (value, []))[1].append(float(found))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in groups.values())
    ordered = sorted(groups.values(), key=lambda one: one[0]) if numeric else list(groups.values())
    places = _places([value for value, _ in ordered], numeric)
    up = Scale([one for _, scores in ordered for one in scores], BOTTOM, TOP)
    parts = lines_of(up, LEFT, RIGHT)
    means = []
    every = max(1, math.ceil(len(ordered) / _MOST_LABELS))
    for at, ((value, scores), x) in enumerate(zip(ordered, places, strict=True)):
        mean = statistics.fmean(scores)
        means.append(f"{x} {up(mean)}")
        for one in scores:
            tip = f"{word(axis)} {told(value)}: {number(one, 4)}"
            parts.append(tag("circle", cx=x, cy=up(one), r=4, class_="dot undecided", tip=tip))
        tip = f"{word(axis)} {told(value)}: mean {number(mean, 4)} of {len(scores)} setting(s)"
        parts.append(tag("circle", cx=x, cy=up(mean), r=4.5, class_="spot h", tip=tip))
        if at % every == 0:
            parts.append(tag("text", short(told(value), 16), x=x, y=BOTTOM + 18, class_="tick mid"))
    if numeric and len(means) > 1:
        parts.append(tag("path", d="M" + "L".join(means), class_="line h"))
    parts.append(tag("text", f"{axis}; upwards: {score}", x=(LEFT + RIGHT) / 2, y=BOTTOM + 38, class_="axis mid"))
    described = ", ".join(f"{told(value)}: {number(statistics.fmean(scores), 4)}" for value, scores in ordered[:20])
    return svg(name, BOTTOM + 46, f"{score} by {axis}", f"Means: {described}.", parts, WIDTH)


def _places(values: Sequence[Any], numeric: bool) -> list[float]:
    """Where values stand from left to right, in pixels."""
    left, right = LEFT + 24, RIGHT - 24
    if not numeric or len(values) < 2:
        step = (right - left) / max(len(values), 1)
        return [round(left + step * (at + 0.5), 2) for at in range(len(values))]
    low, high = float(values[0]), float(values[-1])
    if low > 0 and high / low >= _FAR:
        span = math.log(high / low)
        return [round(left + (right - left) * math.log(float(value) / low) / span, 2) for value in values]
    return [round(left + (right - left) * (float(value) - low) / (high - low), 2) for value in values]
