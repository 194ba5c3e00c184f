"""One picture of a department's test rows, drawn from what its task says under ``plot``: one function per kind of plot.

    confusion  labels, counts [true][predicted]           roc        label, x (false alarms), y (found)
    scatter    true, predicted                            bars       of, names, values from 0 to 1
    bands      true by step, quantiles {name: by step}    histogram  edges, shares {name: by bin}

A plot of a kind that is not known here, of somebody's own task, is not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

from commonroot.client.drawing.charts import Axis, columns_of, lines_of, number, short, svg, tag

Plot = Mapping[str, Any]
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 460, 66, 448, 12, 228
#: A table of more labels than this shows the most frequent ones.
MOST_LABELS: Final = 10
#: Bars beyond this many are left out.
MOST_BARS: Final = 12


def picture(plot: Plot, name: str) -> str:
    """The SVG of a plot; empty where there is nothing that can be drawn.  ``name`` is unique on the page."""
    draw = KINDS.get(str(plot.get("kind")))
    if draw is None:
        return ""
    try:
        return draw(plot, name)
    except (KeyError, TypeError, ValueError, IndexError):
        return ""  # not what this version's tasks write


def _confusion(plot: Plot, name: str) -> str:
    labels, counts = list(map(str, plot["labels"])), plot["counts"]
    shown = sorted(sorted(range(len(labels)), key=lambda at: -sum(counts[at]))[:MOST_LABELS])
    left, size = 96, (RIGHT - 96) / len(shown)
    tall = min(size, 30.0)
    parts = []
    for line, true in enumerate(shown):
        y, rows = TOP + line * tall, sum(counts[true]) or 1
        parts.append(tag("text", short(labels[true], 12), x=left - 8, y=y + tall / 2 + 4, class_="tick end"))
        for column, said in enumerate(shown):
            count, x = int(counts[true][said]), left + column * size
            kind = "cell right" if true == said else "cell"
            tip = f"{labels[true]} taken for {labels[said]}: {count}"
            place: dict[str, Any] = {
                "x": round(x, 2),
                "y": round(y, 2),
                "width": round(size - 1, 2),
                "height": round(tall - 1, 2),
            }
            parts.append(tag("rect", **place, class_=kind, fill_opacity=round(count / rows, 3), tip=tip))
            if count and size > 22:
                middle: dict[str, Any] = {"x": round(x + size / 2, 2), "y": round(y + tall / 2 + 4, 2)}
                parts.append(tag("text", f"{count:,}", **middle, class_="tick mid"))
    bottom = TOP + len(shown) * tall
    for column, said in enumerate(shown):
        x = round(left + (column + 0.5) * size, 2)
        parts.append(tag("text", short(labels[said], max(2, int(size / 7))), x=x, y=bottom + 15, class_="tick mid"))
    parts.append(tag("text", "predicted", x=(left + RIGHT) / 2, y=bottom + 34, class_="axis mid"))
    told = f"Rows by true label (down) and predicted label (across), {len(shown)} of {len(labels)} labels."
    return svg(name, bottom + 42, "True and predicted labels", told, parts, WIDTH)


def _roc(plot: Plot, name: str) -> str:
    across, up = Axis([0.0, 1.0], LEFT, RIGHT), Axis([0.0, 1.0], BOTTOM, TOP)
    path = "M" + "L".join(f"{across(x)} {up(y)}" for x, y in zip(plot["x"], plot["y"], strict=True))
    chance = f"M{across(0.0)} {up(0.0)}L{across(1.0)} {up(1.0)}"
    parts = [*lines_of(up, LEFT, RIGHT), *columns_of(across, TOP, BOTTOM)]
    parts += [tag("path", d=chance, class_="line l"), tag("path", d=path, class_="line h")]
    parts.append(_below("false alarms, as a share of the other rows"))
    told = f"Share of {short(plot['label'], 40)} that is found against the share of other rows that is taken for it."
    return svg(name, BOTTOM + 46, "Found against false alarms", told, parts, WIDTH)


def _scatter(plot: Plot, name: str) -> str:
    true, said = _finite(plot["true"]), _finite(plot["predicted"])
    across, up = Axis(true, LEFT, RIGHT), Axis(said, BOTTOM, TOP)
    parts = [*lines_of(up, LEFT, RIGHT), *columns_of(across, TOP, BOTTOM)]
    low, high = max(min(true), min(said)), min(max(true), max(said))
    if low < high:
        parts.append(tag("path", d=f"M{across(low)} {up(low)}L{across(high)} {up(high)}", class_="line l"))
    for x, y in zip(true, said, strict=True):
        tip = f"true {number(x)}, predicted {number(y)}"
        parts.append(tag("circle", cx=across(x), cy=up(y), r=2.6, class_="spot h", tip=tip))
    parts.append(_below("true value; predicted upwards"))
    return svg(name, BOTTOM + 46, "Predicted against true values", f"{len(true)} test rows.", parts, WIDTH)


def _bars(plot: Plot, name: str) -> str:
    pairs = list(zip(map(str, plot["names"]), map(float, plot["values"]), strict=True))[:MOST_BARS]
    bottom, left = TOP + 24 * len(pairs), 130
    axis = Axis([0.0, 1.0], left, RIGHT - 34)
    parts = columns_of(axis, TOP, bottom)
    for at, (label, value) in enumerate(pairs):
        y = TOP + 24 * at
        parts.append(tag("text", short(label, 18), x=left - 8, y=y + 16, class_="tick end", tip=label))
        wide = round(max(axis(value) - axis(0.0), 0.5), 2)
        parts.append(tag("rect", x=axis(0.0), y=y + 6, width=wide, height=12, rx=2, class_="bar chosen"))
        parts.append(tag("text", number(value, 2), x=axis(value) + 6, y=y + 16, class_="tick"))
    told = f"{short(plot['of'], 30)} of {len(pairs)} of {len(plot['names'])}."
    return svg(name, bottom + 28, f"{plot['of']} by kind", told, parts, WIDTH)


def _bands(plot: Plot, name: str) -> str:
    true = _finite(plot["true"])
    lines = {str(quantile): _finite(values) for quantile, values in plot["quantiles"].items()}
    across = Axis([1.0, float(max(len(true), 2))], LEFT, RIGHT)
    up = Axis([*true, *(value for values in lines.values() for value in values)], BOTTOM, TOP)
    parts = [*lines_of(up, LEFT, RIGHT), *columns_of(across, TOP, BOTTOM)]

    def path(values: Sequence[float]) -> str:
        return "L".join(f"{across(step + 1.0)} {up(value)}" for step, value in enumerate(values))

    ends = list(lines.values())
    if len(ends) > 1:
        back = "L".join(f"{across(step + 1.0)} {up(v)}" for step, v in reversed(list(enumerate(ends[-1]))))
        parts.append(tag("path", d=f"M{path(ends[0])}L{back}Z", class_="band"))
    for quantile, values in lines.items():
        if quantile == "0.5":
            parts.append(tag("path", d=f"M{path(values)}", class_="line h"))
    parts.append(tag("path", d=f"M{path(true)}", class_="line l"))
    for step, value in enumerate(true):
        parts.append(tag("circle", cx=across(step + 1.0), cy=up(value), r=2.6, class_="spot l"))
    parts.append(_below("steps ahead; dashed: true"))
    told = f"Mean over test rows of the true values and of quantiles {', '.join(lines)}, by step."
    return svg(name, BOTTOM + 46, "Forecast by step", told, parts, WIDTH)


def _histogram(plot: Plot, name: str) -> str:
    edges = _finite(plot["edges"])
    shares = {str(part): _finite(values) for part, values in plot["shares"].items()}
    across, up = Axis(edges, LEFT, RIGHT), Axis([0.0, *(v for values in shares.values() for v in values)], BOTTOM, TOP)
    parts = [*lines_of(up, LEFT, RIGHT), *columns_of(across, TOP, BOTTOM)]
    if edges[0] < 0 < edges[-1]:
        parts.append(tag("line", x1=across(0.0), x2=across(0.0), y1=TOP, y2=BOTTOM, class_="zero"))
    kinds = {"anomalous": "line worse", "normal": "line h"}
    for part, values in shares.items():
        corners = [f"{across(x)} {up(v)}" for (a, b), v in zip(pairwise(edges), values, strict=True) for x in (a, b)]
        parts.append(tag("path", d="M" + "L".join(corners), class_=kinds.get(part, "line l"), tip=part))
    parts.append(_below("score; above 0 is called an anomaly"))
    told = f"Share of rows by score: {', '.join(shares)}."
    return svg(name, BOTTOM + 46, "Scores of test rows", told, parts, WIDTH)


def _below(text: str) -> str:
    return tag("text", text, x=(LEFT + RIGHT) / 2, y=BOTTOM + 38, class_="axis mid")


def _finite(values: Sequence[Any]) -> list[float]:
    found = [float(value) for value in values]
    if not found or not all(map(math.isfinite, found)):
        raise ValueError("a picture needs finite numbers")
    return found


KINDS: Final[Mapping[str, Callable[[Plot, str], str]]] = MappingProxyType(
    {
        "bands": _bands,
        "bars": _bars,
        "confusion": _confusion,
        "histogram": _histogram,
        "roc": _roc,
        "scatter": _scatter,
    }
)
