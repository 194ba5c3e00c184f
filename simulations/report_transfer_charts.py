"""Pictures that compare methods: held-out loss over rounds, and what departments' guards kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from commonroot.client.drawing.charts import Axis, columns_of, lines_of, number, short, svg, tag

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 460, 52, 350, 12, 196
#: Lines are told apart by their names at the right, and by dashes.
DASHES: Final = ("", "7 5", "2 4", "10 3 2 3", "1 3", "14 6", "5 2", "8 2 2 2 2 2")
#: Kinds of models in the order of their bars; whatever else a guard kept comes after.
KINDS: Final = ("alone", "both", "federated")
_BAR: Final = {"alone": "bar alone", "both": "bar federated", "federated": "bar chosen"}


def curves(found: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> str:
    """Held-out loss by round, one line a method; empty where no method has rounds.  ``name`` is unique on the page."""
    known = {
        method: [(float(row["round"]), float(row["held_out"])) for row in rows if math.isfinite(row["held_out"])]
        for method, rows in found.items()
    }
    known = {method: some for method, some in known.items() if some}
    if not known:
        return ""
    across = Axis([0.0, *(x for some in known.values() for x, _ in some)], LEFT, RIGHT)
    up = Axis([y for some in known.values() for _, y in some], BOTTOM, TOP)
    parts = [*lines_of(up, LEFT, RIGHT), *columns_of(across, TOP, BOTTOM)]
    labels = _apart({method: up(some[-1][1]) for method, some in known.items()})
    for at, (method, some) in enumerate(known.items()):
        path = "M" + "L".join(f"{across(x)} {up(y)}" for x, y in some)
        kind, tip = ("line h" if at == 0 else "line l"), f"{method}: {number(some[-1][1])} at the end"
        parts.append(tag("path", d=path, class_=kind, stroke_dasharray=DASHES[at % len(DASHES)], tip=tip))
        end = across(some[-1][0])
        parts.append(
            tag("text", short(method, 14), x=max(end, RIGHT) + 8, y=labels[method] + 4, class_="tick", tip=tip)
        )
    parts.append(tag("text", "round", x=(LEFT + RIGHT) / 2, y=BOTTOM + 36, class_="axis mid"))
    told = f"Held-out loss, 1 is guessing, of {', '.join(known)}."
    return svg(name, BOTTOM + 46, "Held-out loss over rounds", told, parts, WIDTH)


def _apart(places: Mapping[str, float], least: float = 13.0) -> dict[str, float]:
    """Heights of labels moved down until none covers another."""
    out: dict[str, float] = {}
    last = -math.inf
    for method, y in sorted(places.items(), key=lambda item: item[1]):
        last = max(y, last + least)
        out[method] = last
    return out


def choices(found: Mapping[str, Mapping[str, int]], name: str) -> str:
    """What guards kept, as shares of departments and seeds, one bar a method; the table beside it has the numbers."""
    some = {method: counts for method, counts in found.items() if sum(counts.values())}
    if not some:
        return ""
    kinds = [*KINDS, *sorted({kind for counts in some.values() for kind in counts} - set(KINDS))]
    step, left = 30, 108
    bottom = TOP + step * len(some)
    axis = Axis([0.0, 1.0], left, WIDTH - 12)
    parts = columns_of(axis, TOP, bottom)
    for at, (method, counts) in enumerate(some.items()):
        y, total, start = TOP + step * at + 6, sum(counts.values()), 0.0
        parts.append(tag("text", short(method, 15), x=left - 8, y=y + 13, class_="tick end", tip=method))
        for kind in kinds:
            count = counts.get(kind, 0)
            if not count:
                continue
            x, width = axis(start), round(axis(start + count / total) - axis(start), 2)
            tip = f"{method}: {count} of {total} kept {kind}"
            fill: dict[str, Any] = {"class_": _BAR.get(kind, "bar chosen")}
            if kind not in _BAR:
                fill["fill_opacity"] = 0.55
            parts.append(tag("rect", x=x, y=y, width=width, height=18, tip=tip, **fill))
            if width > 7 * len(kind):
                shade = "mid" if kind == "alone" else "inside mid"
                parts.append(tag("text", kind, x=round(x + width / 2, 2), y=y + 13, class_=shade))
            start += count / total
    told = "; ".join(
        f"{method}: " + ", ".join(f"{n} {k}" for k, n in counts.items()) for method, counts in some.items()
    )
    return svg(name, bottom + 28, "What guards kept", told, parts, WIDTH)
