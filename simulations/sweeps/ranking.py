"""Settings, best first: by what their runs were worth on private validation rows, over seeds.  No test row decides.

A setting's score is the mean over its seeds of

    gain       of the federated models over those trained alone, as an evaluation opens it and ``search`` ranks by; or
    held_out   after a quick sweep, the held-out loss that the last round's sum carries (less is better)

Its error is the larger one of the validation rows' own standard error and of the spread over seeds.  What is shown with
``show_test`` are gains on departments' test rows: to be read once, for the setting that was chosen without them.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from commonroot.server.search import APART
from commonroot.simulations.sweeps.cells import Cell, without_seed

Row = dict[str, Any]


def rows_of(cells: Sequence[Cell], results: Mapping[str, Any], failed: Mapping[str, str]) -> list[Row]:
    """One row for each cell: ``setting``, ``seed``, ``key``, ``state``, ``why`` where it is not finished, and its
    scores; ``test_gain`` is the mean over departments, of the federated models, and decides nothing."""
    return [_row(cell, results.get(cell.key), failed.get(cell.key)) for cell in cells]


def _row(cell: Cell, found: Mapping[str, Any] | None, why: str | None) -> Row:
    out: Row = {"setting": cell.setting, "seed": cell.seed, "key": cell.key}
    if found is None:
        return out | {"state": "failed", "why": why or "not run"} | dict.fromkeys(_SCORES)
    validation = found["validation"]
    gains = [row["gain"] for row in found["report"]["table"] if row.get("gain") is not None]
    return out | {
        "state": found["state"],
        "why": found["reason"],
        "alone": validation.get("alone"),
        "federated": validation.get("federated"),
        "gain": validation.get("gain"),
        "error": validation.get("error"),
        "held_out": found["held_out"],
        "rounds": found["rounds"],
        "seconds": found["seconds"],
        "test_gain": statistics.fmean(gains) if gains else None,
    }


_SCORES = ("alone", "federated", "gain", "error", "held_out", "rounds", "seconds", "test_gain")


def ranked(rows: Sequence[Row], *, quick: bool) -> list[Row]:
    """One row for each setting, best first; those without a score last.

    setting, runs (cells that count), of (cells there are), score, error, behind (the best one: [difference, its
    error]), decides (whether that tells them apart; None for the best), and means of alone, federated, held_out,
    seconds and test_gain.  A setting with a failed or stopped cell has no score: its other seeds may be the easy ones.
    """
    which = "held_out" if quick else "gain"
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps(without_seed(row["setting"]), sort_keys=True, default=str), []).append(row)
    found = [_judged(those, which) for those in groups.values()]
    sign = -1.0 if quick else 1.0
    found.sort(key=lambda row: -math.inf if row["score"] is None else sign * row["score"], reverse=True)
    best = found[0] if found and found[0]["score"] is not None else None
    for row in found:
        row |= {"behind": None, "decides": None}
        if best is not None and row is not best and row["score"] is not None:
            behind = sign * (best["score"] - row["score"])
            spread = math.hypot(best["error"] or 0.0, row["error"] or 0.0)
            row |= {"behind": [behind, spread], "decides": behind > APART * spread if spread else None}
    return found


def _judged(rows: Sequence[Row], which: str) -> Row:
    scores = [float(row[which]) for row in rows if row["state"] == "finished" and _is_number(row[which])]
    whole = len(scores) == len(rows)
    return {
        "setting": without_seed(rows[0]["setting"]),
        "runs": len(scores),
        "of": len(rows),
        "score": statistics.fmean(scores) if whole else None,
        "error": _error(rows, scores) if whole else None,
        **{name: _mean(rows, name) for name in ("alone", "federated", "held_out", "seconds", "test_gain")},
        "why": next((row["why"] for row in rows if row["why"]), ""),
    }


def _error(rows: Sequence[Row], scores: Sequence[float]) -> float | None:
    """The larger one of what validation rows and seeds leave open; None where neither says anything."""
    of_rows = [float(row["error"]) for row in rows if _is_number(row["error"])]
    found = [math.hypot(*of_rows) / len(of_rows)] if len(of_rows) == len(rows) else []
    if len(scores) > 1:
        found.append(statistics.stdev(scores) / math.sqrt(len(scores)))
    return max(found, default=None)


def _mean(rows: Sequence[Row], name: str) -> float | None:
    known = [float(row[name]) for row in rows if _is_number(row[name])]
    return statistics.fmean(known) if known else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
