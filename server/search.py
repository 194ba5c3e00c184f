"""Choosing between charters: each is run and then evaluated, and only sums of validation losses are compared.

A search is nothing that the coordinator remembers.  It is a queue of runs, training and evaluation by turns, whose
charters departments approve like any others; what came of it is read from the journal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from commonroot.common.charter import SignedCharter
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write
from commonroot.server.backbones import BackboneStore
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Run
from commonroot.strategies import build
from commonroot.strategies.evaluation import CHOICES, Evaluation, evaluation_of, outcome_of
from commonroot.strategies.statistics import Statistics

#: Two charters are told apart by this many standard errors of the difference of their gains.
APART: Final = 2.0


def queue_search(
    folder: CoordinatorFolder, drafts: Sequence[Path], *, counts: bool = False, backbone: Path | None = None
) -> list[dict[str, Any]]:
    """Sign these charters and an evaluation of each, and queue their runs in that order; those queued before stay.

    counts    evaluations also count, deniably, what departments keep
    backbone  the file that warm starts name

    Returns ``charter``, ``hash``, ``file`` and ``run`` of each, all of which departments approve.  Raises ConfigError
    for a draft that does not fit, or that is itself an evaluation or statistics, before anything is queued.
    """
    signed = [folder.sign_charter(path, backbone=backbone) for path in drafts]
    for (one, _), path in zip(signed, drafts, strict=True):
        if one.charter.method.name in (Evaluation.name, Statistics.name):
            raise ConfigError(f"{path}: method {one.charter.method.name!r} leads to no model that could be chosen")
    if len({one.charter.digest for one, _ in signed}) < len(signed):
        raise ConfigError("the same charter stands twice", hint="change its method, its options or its seed")
    journal = folder.journal()
    try:
        there = {run.digest: run.run for run in journal.runs()}
        asked = _evaluations(journal.runs())
        wanted = []
        for one, path in signed:
            wanted.append((one, path))
            if one.charter.digest.hex() not in asked:  # one evaluation is all that departments answer
                wanted.append(sign_evaluation(folder, one, counts=counts))
            else:
                digest = asked[one.charter.digest.hex()].digest
                wanted.append((asked[one.charter.digest.hex()].charter, folder.root / "charters" / f"{digest}.json"))
        return [
            {
                "charter": one.charter.name,
                "hash": (name := one.charter.digest.hex()),
                "file": str(path),
                "run": there[name] if name in there else journal.queue(one),
            }
            for one, path in wanted
        ]
    finally:
        journal.close()


def sign_evaluation(
    folder: CoordinatorFolder, of: SignedCharter, *, counts: bool = False
) -> tuple[SignedCharter, Path]:
    """The signed charter that evaluates the runs of another, and where it lies."""
    draft = folder.root / "charters" / f"evaluation-{of.charter.digest.hex()[:16]}.toml"
    atomic_write(draft, evaluation_of(of.charter, counts=counts).to_toml().encode())
    return folder.sign_charter(draft)


def results_of(folder: CoordinatorFolder) -> list[dict[str, Any]]:
    """Every training run, and what its evaluation opened.

    run, charter (its name), hash, method, rounds, state, reason   of the training run
    evaluation         hash of the charter that evaluates it; None where there is none
    evaluation_state   of its run
    departments        names of those in the sum; empty before it is opened
    …                  and what ``strategies.evaluation.outcome_of`` says, once it is
    """
    journal = folder.journal()
    try:
        runs = journal.runs()
        asked = _evaluations(runs)
        store = BackboneStore(folder.root / "backbones")
        return [
            _row(run) | _opened(journal, store, asked.get(run.digest))
            for run in runs
            if run.charter.charter.method.name not in (Evaluation.name, Statistics.name)
        ]
    finally:
        journal.close()


def write_best(folder: CoordinatorFolder, rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write the best row's charter as a draft in TOML.  Raises ConfigError where nothing is evaluated yet."""
    found = best(rows)
    if found is None:
        raise ConfigError(
            "nothing is evaluated yet, so no charter is the best", hint="`coordinator search` queues evaluations"
        )
    journal = folder.journal()
    try:
        charter = next(run.charter.charter for run in journal.runs() if run.digest == found["hash"])
    finally:
        journal.close()
    atomic_write(path, charter.to_toml().encode())


def best(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row with the largest gain; None where nothing is evaluated yet."""
    return max((row for row in rows if "gain" in row), key=lambda row: float(row["gain"]), default=None)


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, best first, each with ``behind`` the best one and whether that ``decides``; not evaluated ones last.

    behind   [difference of the gains, its standard error], as if the errors of two charters were independent.  They are
             of the same rows, against nearly the same models trained alone, so this is rather too wide than too narrow
    decides  the difference is more than ``APART`` standard errors; None for the best one
    """
    first = best(rows)
    out = []
    for row in sorted(rows, key=lambda row: -float(row.get("gain", -math.inf))):
        about: dict[str, Any] = {"behind": None, "decides": None}
        if first is not None and "gain" in row and row is not first:
            behind, spread = (
                float(first["gain"]) - float(row["gain"]),
                math.hypot(float(first["error"]), float(row["error"])),
            )
            about = {"behind": [behind, spread], "decides": behind > APART * spread}
        out.append(dict(row) | about)
    return out


def table_of(rows: Sequence[Mapping[str, Any]], *, title: str = "charter") -> Table:
    """Compared rows for people.  ``title`` names the first column, which shows ``arm`` or else ``charter``."""
    table = Table(caption="mean losses on validation rows, 1 is guessing; gains over training alone ± standard error")
    for name in (
        title,
        "method",
        "state",
        "departments",
        "alone",
        "federated",
        "gain",
        "against the best",
    ):
        table.add_column(name, overflow="fold", justify="left" if name in (title, "method", "state") else "right")
    for row in compared(rows):
        method = row["method"]
        told = method["name"] + "".join(f" {key}={value}" for key, value in method["options"].items())
        state = row["state"] if row["state"] != "finished" else f"evaluation {row['evaluation_state'] or 'not queued'}"
        start = [_label(row), told, "evaluated" if "gain" in row else state]
        if "gain" not in row:
            table.add_row(*start, *[""] * 5)
            continue
        behind = row["behind"]
        against = "best" if behind is None else f"-{behind[0]:.3f} ± {behind[1]:.3f}"
        table.add_row(
            *start,
            str(len(row["departments"])),
            f"{row['alone']:.3f}",
            f"{row['federated']:.3f}",
            f"{row['gain']:+.3f} ± {row['error']:.3f}",
            against if row["decides"] is not False else f"{against}, undecided",
        )
    return table


def in_words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the comparison says and what it does not, a sentence a line."""
    found = [row for row in compared(rows) if "gain" in row]
    if not found:
        return ["nothing is evaluated yet"]
    gain, error = (float(found[0][name]) for name in ("gain", "error"))
    lines = [f"best: {_label(found[0])}, federated models gain {gain:+.3f} ± {error:.3f}"]
    if gain <= 0:
        lines.append("it is no better than training alone on these rows, so no method is worth choosing by them")
    open_ones = [_label(row) for row in found[1:] if not row["decides"]]
    if open_ones:
        lines.append(f"these rows do not tell it from: {', '.join(open_ones)}")
    if len({tuple(sorted(row["departments"])) for row in found}) > 1:
        lines.append("the sums are not over the same departments")
    for row in found:
        if "choices" in row:
            told = ", ".join(
                f"{name} {row['choices'][name][0]:.1f} ± {row['choices'][name][1]:.1f}" for name in CHOICES
            )
            lines.append(f"{_label(row)}: departments that keep (estimated) {told}")
    return lines


def _evaluations(runs: Iterable[Run]) -> dict[str, Run]:
    """By the hash of the training charter: the finished evaluation, or else the newest."""
    found: dict[str, Run] = {}
    for run in runs:
        method = build(run.charter.charter)
        if isinstance(method, Evaluation) and (method.of not in found or found[method.of].state != "finished"):
            found[method.of] = run
    return found


def _label(row: Mapping[str, Any]) -> str:
    return str(row["arm"]) if "arm" in row else f"{row['charter']} ({row['hash'][:8]})"


def _row(run: Run) -> dict[str, Any]:
    charter = run.charter.charter
    return {
        "run": run.run,
        "charter": charter.name,
        "hash": run.digest,
        "method": charter.method.model_dump(mode="json"),
        "rounds": charter.rounds,
        "state": run.state,
        "reason": run.reason,
    }


def _opened(journal: Journal, store: BackboneStore, evaluation: Run | None) -> dict[str, Any]:
    if evaluation is None:
        return {"evaluation": None, "evaluation_state": None, "departments": []}
    about: dict[str, Any] = {"evaluation": evaluation.digest, "evaluation_state": evaluation.state, "departments": []}
    closed = [one for one in journal.rounds(evaluation.run) if one.state == "closed"]
    if not closed:
        return about
    version = journal.versions(evaluation.run)[-1]
    summed = outcome_of(store.read(version.file, version.digest))
    return about | {"departments": list(closed[-1].report["survivors"])} | summed
