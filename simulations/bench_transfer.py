"""Does transfer help, and does it harm nobody?  Real departments, simulated over several seeds.

For every dataset and protocol: the best model each department trains alone, all rows in one place, each method with and
without the guard; the mean gain with an interval over departments and seeds, who is significantly worse, rounds and
bytes.  ``commonroot bench transfer`` asks the acceptance table below; with ``--data`` and ``--method`` any part of it,
and any method beside it.  Rows whose method is not installed stand there with that reason.

    OUT/transfer.json          the rows: what, target, value, holds
    OUT/transfer/summary.json  every arm and department
    OUT/transfer/report.html   the same to look at
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ValidationError
from rich.console import Console

from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write, storage_errors
from commonroot.simulations.arms import POOLED
from commonroot.simulations.bench import Row
from commonroot.simulations.datasets import get
from commonroot.simulations.transfer_cells import OWN, Cell
from commonroot.simulations.transfer_report import tables, write_page
from commonroot.simulations.transfer_summary import Arm, Reading, arms, as_json, label, worse
from commonroot.simulations.transfer_workers import run_cells
from commonroot.strategies import GATHERINGS, STRATEGIES

OPTIONS: Final = ("methods", "seeds", "first_seed", "workers", "cache")
CACHE: Final = Path("runs/cache/transfer")
WORKERS: Final = 2
#: Where every installed method is compared, unless methods are named.
COMPARED: Final = (("heart", "flamby"), ("digits", "het"), ("digits", "tiny"))
#: Where training on everybody's rows would cost as much again and says little; ``--method pooled`` asks for it.
NOT_POOLED: Final = frozenset({"films", "sales", "school"})
#: Protocols in which a department has no labels to pool.
UNLABELLED: Final = frozenset({("sentiment", "unlabelled")})
Relation = Literal["<=", ">=", ""]
Measure = Callable[[Arm], float]
#: A department that loses this many points is badly off, whatever the tests say.
BADLY: Final = -3.0


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the acceptance table: a measure of the charter's own method must stand in this relation to a bound.

    needs  a method without which the row cannot be measured
    """

    dataset: str
    protocol: str
    what: str
    measure: Measure
    relation: Relation
    bound: float
    needs: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Dataset and protocol."""
        return self.dataset, self.protocol


def kept_score(arm: Arm) -> float:
    """Mean metric of the models kept."""
    return arm.score("kept")


def mean_gain(arm: Arm) -> float:
    """Mean gain of the models kept over the best local ones."""
    return arm.mean_gain().mean


def least_gain(arm: Arm) -> float:
    """Mean gain over seeds of the department that gains least."""
    return min(statistics.mean(one.gains["kept"]) for one in arm.departments)


def least_error_gone(arm: Arm) -> float:
    """% of squared error gone in the department that loses most, each a mean over seeds, from R²."""

    def gone(alone: float, kept: float) -> float:
        return 100.0 * (1.0 - (1.0 - kept) / (1.0 - alone))

    return min(statistics.mean(map(gone, one.alone, one.kept)) for one in arm.departments)


def number_worse(arm: Arm) -> float:
    """Departments significantly worse than their best local model."""
    return float(len(worse(arm.findings())))


def losing(points: float) -> Measure:
    """Departments whose mean gain is below -points."""

    def measure(arm: Arm) -> float:
        return float(sum(statistics.mean(one.gains["kept"]) < -points for one in arm.departments))

    return measure


def small(most: int) -> Measure:
    """Mean gain of departments with so many learning rows at most, in whichever seed they had them."""

    def measure(arm: Arm) -> float:
        rows = [row for cell in arm.cells for row in cell["departments"] if row["n_train"] <= most]
        return statistics.mean(row["gain"] for row in rows) if rows else math.nan

    return measure


def kept_by(department: str) -> Measure:
    """Metric of the model that one department kept."""

    def measure(arm: Arm) -> float:
        found = [one for one in arm.departments if one.name == department]
        return statistics.mean(found[0].kept) if found else math.nan

    return measure


def figure(name: str) -> Measure:
    """One of the dataset's own figures."""
    return lambda arm: arm.figure(name)


_WORSE: Final = "departments significantly worse than their best local model"
_DIGITS: Final = {"het": 1.5, "tiny": 25.0, "skew": 0.0, "dom": 0.0, "bad": 2.5, "dir": 9.0}
_SALES: Final = ("weeks-6", "weeks-13")

CASES: Final = (
    Case("sentiment", "even", "mean accuracy", kept_score, ">=", 0.815),
    Case("sentiment", "uneven", "mean accuracy", kept_score, ">=", 0.80),
    Case("sentiment", "uneven", "mean gain of departments with 50 labels", small(50), ">=", 10.0),
    Case("sentiment", "unlabelled", "points over source-only", figure("over_source_only"), ">=", 0.5, needs="dann"),
    Case("heart", "flamby", "mean gain over the best local model", mean_gain, ">=", -0.5),
    Case("heart", "flamby", _WORSE, number_worse, "<=", 0),
    Case("school", "quarter", "explained variance of all students", figure("explained_chosen"), ">=", 0.36),
    Case("school", "quarter", "% of squared error gone, worst school over seeds", least_error_gone, ">=", -10.0),
    Case("school", "quarter", "the same in the mean seed's own worst school", figure("worst_mse_gain"), ">=", -10.0),
    Case("films", "occupations", "mean RMSE", kept_score, "<=", 0.925),
    Case("films", "occupations", "largest |RMSE - pooled|", figure("largest_difference_to_pooled"), "<=", 1e-6),
    Case("films", "occupations", "least gain of a group, %", least_gain, ">=", 0.0),
    Case("engines", "forty", "mean RMSE", kept_score, "<=", 16.9),
    Case("engines", "forty", "mean RMSE (stretch)", kept_score, "<=", 14.8),
    Case("engines", "forty", "fleets whose mean gain is below 0", losing(0.0), "<=", 0),
    *(Case("sales", name, "mean gain over the best local model, %", mean_gain, ">=", 0.5) for name in _SALES),
    *(Case("sales", name, "stores worse by more than 1 %", losing(1.0), "<=", 4) for name in (*_SALES, "weeks-40")),
    Case("office", "surf", "mean accuracy", kept_score, ">=", 0.533),
    Case("office", "googlenet", "mean accuracy", kept_score, ">=", 0.970),
    Case("valves", "benchmark", "mean F1", kept_score, ">=", 0.75),
    Case("valves", "benchmark", "lines whose mean gain is below 0", losing(0.0), "<=", 0),
    Case("clothing", "recommended", "AUC, Intimate", kept_by("intimate"), ">=", 0.94),
    Case("clothing", "recommended", _WORSE, number_worse, "<=", 0),
    *(Case("digits", name, "mean gain over the best local model", mean_gain, ">=", b) for name, b in _DIGITS.items()),
)  # fmt: skip


def run(
    console: Console,
    names: Sequence[str] = (),
    *,
    data: Path | None = None,
    out: Path | None = None,
    methods: Sequence[str] = (),
    seeds: int = 1,
    first_seed: int = 1,
    workers: int = WORKERS,
    cache: Path = CACHE,
) -> list[Row]:
    """Run what is asked for, or the acceptance table, and return its rows.

    names       datasets, as ``NAME`` (its protocols of the table, or all) or ``NAME:PROTOCOL``
    methods     beside the charter's own and ``pooled``, as ``NAME`` or ``NAME:OPTION=VALUE,…``
    seeds       how many, from ``first_seed`` on
    out, cache  folders for what was found and for cells that are done

    Raises ConfigError for an unknown dataset or protocol, or where there is nothing to run.
    """
    places = _places(names)
    several = range(first_seed, first_seed + seeds)
    cells = [Cell(*place, method, seed) for seed in several for place in places for method in _methods(place, methods)]
    if not cells:
        raise ConfigError("nothing to run", hint="--seeds 1 or more")
    results, failed = run_cells(cells, cache, data, workers=workers, console=console)
    found = arms(results)
    for one in tables(found):
        console.print(one)
    for cell, why in failed.items():
        console.print(f"not run: {cell.name}: {why}", highlight=False, soft_wrap=True)
    rows = acceptance(found, failed, places, several) + told(found)
    if out is not None:
        with storage_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        summary = {"seeds": list(several), "rows": [row.as_json() for row in rows], **as_json(found, failed)}
        atomic_write(out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False).encode())
        write_page(summary, out / "report.html")
    return rows


def _places(names: Sequence[str]) -> list[tuple[str, str]]:
    tabled = list(dict.fromkeys(case.place for case in CASES if not case.needs or installed(case.needs)))
    if not names:
        return tabled
    out: list[tuple[str, str]] = []
    for name in names:
        dataset, _, protocol = name.partition(":")
        known = get(dataset).protocols
        if protocol and protocol not in known:
            raise ConfigError(f"{dataset} has no protocol {protocol!r}", hint=f"known: {', '.join(known)}")
        usual = [place for place in tabled if place[0] == dataset] or [(dataset, each) for each in known]
        out += [(dataset, protocol)] if protocol else usual
    return list(dict.fromkeys(out))


def _methods(place: tuple[str, str], methods: Sequence[str]) -> list[str]:
    named = [method for method in methods if method not in (OWN, POOLED)]
    if not methods and place in COMPARED:
        named = [name for name, kind in STRATEGIES.items() if name != "local" and _needs_no_options(kind)]
    pooled = [POOLED] if place not in UNLABELLED and (POOLED in methods or place[0] not in NOT_POOLED) else []
    return [OWN, *pooled, *named]


def _needs_no_options(kind: type[BaseModel]) -> bool:
    """Some methods must be told how many outputs a common head has; ``--method`` can say so."""
    try:
        kind.model_validate({})
    except ValidationError:
        return False
    return True


def installed(method: str) -> bool:
    """Is there such a method?"""
    return method in STRATEGIES or method in GATHERINGS


def acceptance(
    found: Sequence[Arm], failed: Mapping[Cell, str], places: Sequence[tuple[str, str]], seeds: Sequence[int]
) -> list[Row]:
    """The table's rows for these places, then those over all of them."""
    own = {(arm.dataset, arm.protocol): arm for arm in found if arm.method == OWN}
    rows = []
    for case in CASES:
        if case.place not in places and not (case.needs and case.dataset in {name for name, _ in places}):
            continue
        what = f"{case.dataset} ({case.protocol}): {case.what}"
        why = _missing(case, own, failed)
        if why:
            rows.append(Row(what, None, case.relation, case.bound, why=why))
            continue
        value = case.measure(own[case.place])
        if math.isnan(value):
            rows.append(Row(what, None, case.relation, case.bound, why="nothing of the kind was reported"))
        else:
            rows.append(Row(what, value, case.relation, case.bound, why=_beside(own[case.place])))
    if own:
        rows += _over_all(found, list(own.values()), len(seeds))
    return rows


def _missing(case: Case, own: Mapping[tuple[str, str], Arm], failed: Mapping[Cell, str]) -> str:
    """Why a row was not measured; nothing where it was."""
    if case.needs and not installed(case.needs):
        return f"no method {case.needs!r} is installed"
    if case.place in own:
        return "" if own[case.place].departments else f"the run is {own[case.place].cells[0]['state']}"
    for cell, why in failed.items():
        if (cell.dataset, cell.protocol, cell.method) == (*case.place, OWN):
            return why
    return "it was not run"


def _beside(arm: Arm) -> str:
    """What departments reach alone, and the mean gain: told where a row misses."""
    gain, unit = arm.mean_gain(), arm.departments[0].unit
    return (
        f"alone {arm.score('alone'):.4g}, kept {arm.score('kept'):.4g}, "
        f"gain {gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}] {unit}, {len(arm.cells)} seed(s)"
    )


def _over_all(found: Sequence[Arm], own: Sequence[Arm], seeds: int) -> list[Row]:
    harmed = [f"{arm.dataset} {arm.protocol} {name}" for arm in own for name in worse(arm.findings())]
    words = "significantly worse" if seeds > 1 else "with evidence of harm (one seed: exact tests on test rows)"
    rows = [Row(f"all rows: departments {words}", float(len(harmed)), "<=", 0, why=", ".join(harmed))]
    digits = [one for arm in own if arm.dataset == "digits" for one in arm.departments if one.unit == "points"]
    cases = [gain for one in digits for gain in one.gains["kept"]]
    if cases:
        badly = 100.0 * sum(gain < BADLY for gain in cases) / len(cases)
        rows.append(Row(f"digits: % of {len(cases)} department × seed cases below {BADLY:g} points", badly, "<=", 3.0))
    ahead = [statistics.mean(margins) for margins in _ahead(found).values() if margins]
    if ahead:
        rows.append(Row("all rows: mean gain kept over the best fixed method, where both ran", min(ahead), ">=", 0.0))
    return rows


def _ahead(found: Sequence[Arm]) -> dict[str, list[float]]:
    """For each fixed method: mean gain kept under the charter's own less what everybody would gain with that method."""
    own = {(arm.dataset, arm.protocol): arm for arm in found if arm.method == OWN}
    out: dict[str, list[float]] = {}
    for arm in found:
        guarded = own.get((arm.dataset, arm.protocol))
        if guarded is not None and arm.method != POOLED and arm.having("federated"):
            ahead = guarded.mean_gain().mean - arm.mean_gain("federated").mean
            out.setdefault(label(arm), []).append(ahead)
    return out


def told(found: Sequence[Arm]) -> list[Row]:
    """Every arm's mean gain, kept and unguarded; these rows only inform."""
    readings: tuple[tuple[Reading, str], ...] = (("kept", "guarded"), ("federated", "everybody keeps it"))
    return [
        Row(f"{arm.dataset} ({arm.protocol}), {label(arm)}, {words}: mean gain", arm.mean_gain(reading).mean)
        for arm in found
        for reading, words in readings
        if arm.having(reading)
    ]
