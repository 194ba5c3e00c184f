"""The report's pictures: plain SVG text, no script, colours by CSS class so that light and dark share one drawing.

Every chart has a title and a description for screen readers, never tells two things apart by colour alone, and stands
above a table of the same numbers.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

WIDTH = 960  # of the two wide charts, in the page's pixels
_LABELS = 200  # room for department names on the left
_VALUES = 190  # room for a gain and its interval on the right


def esc(value: object) -> str:
    """Text that is safe in HTML, in SVG and inside quoted attributes."""
    return html.escape(str(value), quote=True)


def number(value: float | None, digits: int = 3) -> str:
    """A number with a real minus sign, or a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−")


def points(value: float | None) -> str:
    """A gain in points, always with its sign."""
    if value is None or not math.isfinite(value):
        return "–"
    rounded = round(value, 1)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else '±'}{abs(rounded):.1f}"


def gained(value: float | None, row: Row) -> str:
    """A gain as it is told: points are bare, the share of an error that is gone carries its %."""
    text = points(value)
    return f"{text} %" if row.get("unit") == "%" and text != "–" else text


def unit_of(rows: Sequence[Row]) -> str:
    """What gains of these departments are counted in."""
    found = {row.get("unit") or "points" for row in rows}
    return "points, % where an error is the metric" if len(found) > 1 else found.pop() if found else "points"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover [low, high]: steps of 1, 2 or 5 times a power of ten."""
    size = max(abs(low), abs(high), 1.0)
    span = high - low if high - low > 1e-6 * size else size  # values that differ by less are one value to the eye
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


def interval(row: Row, between: str = " … ") -> str:
    """The interval of a department's gain, or a dash where no test rows gave one."""
    return "–" if row["interval"] is None else between.join(points(end) for end in row["interval"])


def verdict(row: Row) -> str:
    """``better``, ``worse`` or ``undecided``: on which side of zero the 95 % interval of a department's gain lies."""
    if row["interval"] is None:
        return "undecided"
    low, high = row["interval"]
    return "better" if low > 0 else "worse" if high < 0 else "undecided"


class Axis:
    """A linear scale from values to pixels whose ends are round numbers."""

    def __init__(self, values: Iterable[float], start: float, end: float, about: int = 5) -> None:
        known = [value for value in values if math.isfinite(value)] or [0.0]
        self.ticks = ticks(min(known), max(known), about)
        self._low, self._high, self._start, self._end = self.ticks[0], self.ticks[-1], start, end

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 2)

    def label(self, tick: float) -> str:
        """A tick with as many digits as tell it from its neighbours."""
        step = self.ticks[1] - self.ticks[0]
        return number(tick, max(0, -math.floor(math.log10(step) + 1e-9)))


def tag(name: str, text: str | None = None, *, tip: str = "", **attributes: object) -> str:
    """One element; attributes ``class_`` and ``fill_opacity`` become ``class`` and ``fill-opacity``; all escaped."""
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{esc(value)}"' for key, value in attributes.items())
    inner = (f"<title>{esc(tip)}</title>" if tip else "") + (esc(text) if text is not None else "")
    return f"<{name}{pairs}>{inner}</{name}>" if inner else f"<{name}{pairs}/>"


def svg(name: str, height: float, title: str, description: str, parts: Iterable[str], width: int = WIDTH) -> str:
    """A picture with a title and a description for those who do not see it; ``name`` is unique on the page."""
    return (
        f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{esc(title)}</title><desc id="{name}-d">{esc(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def short(text: object, most: int = 26) -> str:
    """A text cut where it would be too wide."""
    text = str(text)
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def columns_of(axis: Axis, top: float, bottom: float) -> list[str]:
    """Vertical grid lines with their numbers below."""
    parts = []
    for tick in axis.ticks:
        at = axis(tick)
        parts.append(tag("line", x1=at, x2=at, y1=top, y2=bottom, class_="zero" if tick == 0 else "grid"))
        parts.append(tag("text", axis.label(tick), x=at, y=bottom + 17, class_="tick mid"))
    return parts


def lines_of(axis: Axis, left: float, right: float) -> list[str]:
    """Horizontal grid lines with their numbers at the left."""
    parts = []
    for tick in axis.ticks:
        at = axis(tick)
        parts.append(tag("line", x1=left, x2=right, y1=at, y2=at, class_="zero" if tick == 0 else "grid"))
        parts.append(tag("text", axis.label(tick), x=left - 8, y=at + 4, class_="tick end"))
    return parts


def gains(departments: Sequence[Row], name: str = "gains") -> str:
    """Gain over training alone per department: a dot with its 95 % interval, the best first; without one, no dot."""
    rows = sorted((row for row in departments if row["gain"] is not None), key=lambda row: -float(row["gain"]))
    top, step = 8, 34
    bottom = top + step * len(rows)
    axis = Axis(
        [0.0, *(float(v) for row in rows for v in (row["gain"], *row["interval"]))], _LABELS, WIDTH - _VALUES, 7
    )
    parts = columns_of(axis, top, bottom)
    for at, row in enumerate(rows):
        y, kind = top + step * (at + 0.5), verdict(row)
        low, high = row["interval"]
        x = axis(row["gain"])
        told, unit = gained(row["gain"], row), "" if row.get("unit") == "%" else " points"
        tip = f"{row['name']}: {told}{unit}, 95 % interval {points(low)} to {points(high)} ({kind})"
        parts.append(tag("text", short(row["name"]), x=_LABELS - 14, y=y + 4, class_="name end", tip=str(row["name"])))
        parts.append(tag("line", x1=axis(low), x2=axis(high), y1=y, y2=y, class_=f"whisker {kind}"))
        for end in (low, high):
            parts.append(tag("line", x1=axis(end), x2=axis(end), y1=y - 5, y2=y + 5, class_=f"whisker {kind}"))
        if kind == "worse":
            parts.append(tag("path", d=f"M{x} {y - 7}l7 7l-7 7l-7 -7z", class_=f"dot {kind}", tip=tip))
        else:
            parts.append(tag("circle", cx=x, cy=y, r=6, class_=f"dot {kind}", tip=tip))
        parts.append(tag("text", gained(row["gain"], row), x=WIDTH - 112, y=y + 4, class_=f"value end {kind}"))
        parts.append(tag("text", f"{points(low)} … {points(high)}", x=WIDTH - 4, y=y + 4, class_="tick end"))
    parts.append(
        tag("text", f"{unit_of(rows)} over training alone, with 95 % interval", x=_LABELS, y=bottom + 38, class_="axis")
    )
    counts = {kind: sum(verdict(row) == kind for row in rows) for kind in ("better", "undecided", "worse")}
    description = ", ".join(f"{count} {kind}" for kind, count in counts.items()) + ". The table below has the numbers."
    return svg(name, bottom + 46, "Gain of each department over training alone", description, parts)


SCORES = ("alone", "federated", "chosen")


def scores(departments: Sequence[Row]) -> str:
    """What each department scores alone, with the federated model, and with the model its guard chose.

    Errors have units of their own, so their bars are relative: the department's longest is as long as 1.
    """
    top, step = 8, 58
    bottom = top + step * len(departments)
    values = [float(row[key]) / _longest(row) for row in departments for key in SCORES if row[key] is not None]
    axis = Axis([0.0, *values], _LABELS, WIDTH - 62)
    parts = columns_of(axis, top, bottom)
    for at, row in enumerate(departments):
        y = top + step * at
        label = short(row["name"])
        parts.append(tag("text", label, x=_LABELS - 14, y=y + 26, class_="name end", tip=str(row["name"])))
        parts.append(tag("text", short(row["metric"], 28), x=_LABELS - 14, y=y + 42, class_="tick end"))
        for line, key in enumerate(SCORES):
            y_bar = y + 9 + 14 * line
            if row[key] is None or not math.isfinite(row[key]):
                parts.append(tag("text", "–", x=axis(0.0) + 6, y=y_bar + 9, class_="tick"))
                continue
            start, end = sorted((axis(0.0), axis(float(row[key]) / _longest(row))))
            tip = f"{row['name']}, {key}: {number(row[key])} {row['metric']}"
            width = round(max(end - start, 0.5), 2)
            parts.append(tag("rect", x=start, y=y_bar, width=width, height=11, rx=2, class_=f"bar {key}", tip=tip))
            parts.append(tag("text", number(row[key]), x=end + 6, y=y_bar + 9.5, class_="tick"))
    description = "Three bars per department: alone, federated, chosen. The table below has the numbers."
    return svg("scores", bottom + 28, "Scores of each department on its own test rows", description, parts)


def _longest(row: Row) -> float:
    """What a department's scores are divided by in the picture."""
    if row.get("better") != "lower":
        return 1.0
    known = [abs(float(row[key])) for key in SCORES if row[key] is not None and math.isfinite(row[key])]
    return max(known, default=1.0) or 1.0


def reliability(found: Mapping[str, Any] | None, name: str) -> str:
    """How often a model is right where it is so sure: dots, larger for more rows, on the dashed line in the best case.

    found  ``error`` and ``bins`` of {confidence, right, rows}; None draws nothing
    """
    if not found or not found["bins"]:
        return ""
    left, right, top, bottom = 66, 448, 12, 228
    across, up = Axis([0.0, 1.0], left, right), Axis([0.0, 1.0], bottom, top)
    parts = [*lines_of(up, left, right), *columns_of(across, top, bottom)]
    parts.append(tag("path", d=f"M{across(0.0)} {up(0.0)}L{across(1.0)} {up(1.0)}", class_="line l"))
    most = max(row["rows"] for row in found["bins"])
    for row in found["bins"]:
        tip = f"{row['rows']} rows {100 * row['confidence']:.0f} % sure: {100 * row['right']:.0f} % right"
        radius = round(3 + 7 * math.sqrt(row["rows"] / most), 1)
        parts.append(
            tag("circle", cx=across(row["confidence"]), cy=up(row["right"]), r=radius, class_="spot h", tip=tip)
        )
    parts.append(
        tag("text", "how sure; upwards: how often right", x=(left + right) / 2, y=bottom + 38, class_="axis mid")
    )
    told = f"Off by {100 * found['error']:.1f} percentage points on average, over {len(found['bins'])} groups of rows."
    return svg(name, bottom + 46, "Sure and right", told, parts, _HALF)


#: The two half-width charts.
_HALF = 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 452, 12, 196


class _Slots:
    """From a round's position in the history to the middle of its slot, in pixels."""

    def __init__(self, history: Sequence[Row]) -> None:
        self.width = (_RIGHT - _LEFT) / max(len(history), 1)

    def __call__(self, at: int) -> float:
        return round(_LEFT + self.width * (at + 0.5), 2)


_HATCH = (
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="6" height="6" class="bar lossy"/><line x1="0" x2="0" y1="0" y2="6" class="hatch"/></pattern></defs>'
)


def losses(history: Sequence[Row], name: str = "losses") -> str:
    """Training and held-out loss of the federation over rounds; a round that was lost leaves a gap, one whose held-out
    rows were not scored none."""
    names = (("loss", "training", "l"), ("held_out", "held out", "h"))
    known = [float(row[key]) for row in history for key, _, _ in names if row.get(key) is not None]
    axis = Axis(known, _BOTTOM, _TOP)
    across = _Slots(history)
    parts = [*lines_of(axis, _LEFT, _RIGHT), *_round_labels(history, across)]
    for key, label, kind in names:
        pen, path, last = "M", [], None
        for at, row in enumerate(history):
            value = row.get(key)
            if value is None or not math.isfinite(value):
                pen = "M" if row.get("loss") is None or value is not None else pen
                continue
            last = (across(at), axis(value))
            path.append(f"{pen}{last[0]} {last[1]}")
            tip = f"round {row['round']}: {label} loss {number(value, 4)}"
            parts.append(tag("circle", cx=last[0], cy=last[1], r=2.6, class_=f"spot {kind}", tip=tip))
            pen = "L"
        if last:
            parts.append(tag("path", d="".join(path), class_=f"line {kind}"))
    description = f"Two lines over {len(history)} rounds, in units of the loss of guessing."
    return svg(name, _BOTTOM + 46, "Loss of the federation over rounds", description, parts, _HALF)


def seconds(history: Sequence[Row], name: str = "seconds") -> str:
    """How long each round took; hatched where some department of the cohort was not in the sum."""
    axis = Axis([0.0, *(float(row["seconds"]) for row in history)], _BOTTOM, _TOP)
    across = _Slots(history)
    width = round(max(min(across.width * 0.72, 34.0), 1.0), 2)
    parts = [
        _HATCH,
        *lines_of(axis, _LEFT, _RIGHT),
        *_round_labels(history, across),
    ]
    for at, row in enumerate(history):
        whole = row["survivors"] == row["cohort"]
        height = round(axis(0.0) - axis(float(row["seconds"])), 2)
        tip = f"round {row['round']}: {number(row['seconds'], 2)} s, {row['survivors']} of {row['cohort']} in the sum"
        kind = "bar federated" if whole else "bar short"
        x, y = round(across(at) - width / 2, 2), round(axis(0.0) - height, 2)
        parts.append(tag("rect", x=x, y=y, width=width, height=height, rx=1.5, tip=tip, class_=kind))
    short = sum(row["survivors"] != row["cohort"] for row in history)
    description = f"One bar per round; {short} of {len(history)} rounds went on without somebody."
    return svg(name, _BOTTOM + 46, "Seconds per round", description, parts, _HALF)


def _round_labels(history: Sequence[Row], across: _Slots) -> list[str]:
    every = max(1, math.ceil(len(history) / 10))
    labels = [
        tag("text", str(row["round"]), x=across(at), y=_BOTTOM + 18, class_="tick mid")
        for at, row in enumerate(history)
        if at % every == 0
    ]
    return [*labels, tag("text", "round", x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 38, class_="axis mid")]
