"""A run's history as options for Apache ECharts.  Colours suit a light and a dark ground."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from commonroot.server.reports import closed, having

Options = dict[str, Any]

_GREEN, _BLUE, _SAND, _GREY = "#3d9079", "#5b8bd0", "#c99a45", "#8594a3"
#: More points than a screen has columns show nothing more.
_MOST: Final = 1500
_NO_ROUND: Final = "No round has closed yet."


Run = Mapping[str, Any]


def loss(run: Run | None) -> Options:
    """Mean losses of the sums, over versions of the backbone."""
    lines = []
    for name, label, colour in (("loss", "training", _BLUE), ("held_out", "held out", _GREEN)):
        # not every version is scored on held-out rows; lines are drawn through those that are not
        if known := _some(having(closed(run), name)):
            versions = [one["version"] + 1 for one in known]
            lines.append(_line(label, versions, [one["report"][name] for one in known], colour))
    return _chart(lines, nothing="No losses are summed by this method." if closed(run) else _NO_ROUND)


def seconds(run: Run | None) -> Options:
    """How long rounds took."""
    shown = _some(closed(run))
    points = [one["version"] + 1 for one in shown], [one["report"]["seconds"] for one in shown]
    return _chart([_line("seconds", *points, _SAND)])


def members(run: Run | None) -> Options:
    """Departments that were asked, and those in the sum."""
    shown = _some(closed(run))
    versions = [one["version"] + 1 for one in shown]
    asked = [len(one["report"]["cohort"]) for one in shown]
    inside = [len(one["report"]["survivors"]) for one in shown]
    chart = _chart(
        [_line("asked", versions, asked, _GREY, step=True), _line("in the sum", versions, inside, _GREEN, step=True)],
    )
    chart["yAxis"] |= {"min": 0, "minInterval": 1}
    return chart


def clipped(run: Run | None) -> Options:
    """Share of the numbers that were clipped, in percent."""
    shown = _some(closed(run))
    points = [one["version"] + 1 for one in shown], [100 * one["report"]["clipped_share"] for one in shown]
    chart = _chart([_line("clipped", *points, _BLUE)])
    chart["yAxis"] |= {"min": 0}
    return chart


#: Name → title, and what makes it.
ALL: Final[Mapping[str, tuple[str, Callable[[Run | None], Options]]]] = {
    "loss": ("Loss: mean over the sum, 1 is chance", loss),
    "members": ("Departments", members),
    "seconds": ("Seconds of a round", seconds),
    "clipped": ("Clipped numbers, %", clipped),
}


def _said(text: str) -> Options:
    style = {"text": text, "fill": _GREY, "font": "14px system-ui, sans-serif"}
    return {"type": "text", "left": "center", "top": "middle", "style": style}


def _some(rounds: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All of them, or so many that a plot can show; the newest is always among them."""
    step = -(-len(rounds) // _MOST) or 1
    return rounds[::-1][::step][::-1]


def _line(name: str, x: Sequence[float], y: Sequence[float], colour: str, *, step: bool = False) -> Options:
    points = [[at, float(f"{value:.5g}")] for at, value in zip(x, y, strict=True)]
    return {
        "name": name,
        "type": "line",
        "data": points,
        "showSymbol": len(points) < 25,
        "symbolSize": 5,
        "color": colour,
        "lineStyle": {"width": 2},
        **({"step": "middle"} if step else {}),
    }


def _chart(lines: list[Options], *, nothing: str = _NO_ROUND) -> Options:
    axis = {
        "axisLine": {"lineStyle": {"color": _GREY}},
        "axisLabel": {"color": _GREY},
        "splitLine": {"lineStyle": {"color": _GREY, "opacity": 0.18}},
    }
    legend = {"left": 0, "top": 0, "textStyle": {"color": _GREY}, "icon": "roundRect", "itemHeight": 4}
    return {
        "animation": False,
        "aria": {"enabled": True},
        "grid": {"left": 4, "right": 14, "top": 34 if len(lines) > 1 else 14, "bottom": 4, "containLabel": True},
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {"type": "value", "minInterval": 1, "min": 0, "max": "dataMax", **axis},
        "yAxis": {"type": "value", "scale": True, **axis},
        "legend": {**legend, "show": len(lines) > 1},
        "series": lines,
        "graphic": [] if any(line["data"] for line in lines) else [_said(nothing)],
    }
