"""A network in memory that delays, repeats, reorders and drops, under the same sessions and rounds."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from commonroot.simulations import network
from commonroot.simulations.bench import Row
from commonroot.simulations.network import Weather
from commonroot.simulations.processes import free_port
from commonroot.simulations.trial import Shape, audit, copied, plant, undisturbed, versions
from commonroot.simulations.weather import by_round

_ROUNDS = 12


def run(root: Path, console: Console) -> list[Row]:
    """The same federation under several skies."""
    console.print("a network in memory delays, repeats, reorders and drops …")
    shape = Shape(departments=4, rounds=_ROUNDS, upload=20, opening=20, gather=30, absence=10)
    federation = plant(root / "planted", shape, port=free_port())
    clear = versions(undisturbed(copied(federation, root / "clear"), _ROUNDS))
    skies: dict[str, list[Weather]] = {
        "every parcel late by up to 8 s, and so out of order": [network.delay(8)],
        "half of the parcels twice": [network.repeat(0.5)],
        "late and twice": [network.delay(4), network.repeat(0.5)],
    }
    rows = []
    for at, (what, weather) in enumerate(skies.items()):
        found = versions(undisturbed(copied(federation, root / f"sky-{at}"), _ROUNDS, [by_round(at, weather)]))
        wrong = sum(a != b for a, b in zip(found, clear, strict=True))
        rows.append(Row(f"versions that differ under a network with {what}", wrong, "<=", 0))
    lossy = copied(federation, root / "lossy")
    battered = undisturbed(lossy, _ROUNDS, [by_round(9, [network.drop(0.04)])])
    told = audit(battered, _ROUNDS)
    rows.append(Row("rounds completed where every 25th parcel is lost", len(versions(battered)) - 1, ">=", _ROUNDS))
    rows.append(Row("the same: versions twice or missing, sets or answers changed, chains broken",
                    told.rounds_twice + told.versions_missing + told.sets_changed + told.answers_changed
                    + told.chains_broken, "<=", 0))  # fmt: skip
    return rows
