"""Benchmarks: each writes ``runs/bench/NAME.json``, a list of {what, target, value, holds}.

A row may also say where the ``limit`` of the machine lies, and ``why`` it does not hold.

``holds`` is computed from value and target, and nothing is rounded in its favour.  Times are medians, and where a peer
exists the row is a ratio measured in the same run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console
from rich.table import Table

from commonroot.common.errors import ConfigError, UnknownBenchmark
from commonroot.files import atomic_write


@dataclass(frozen=True, slots=True)
class Row:
    """One measured claim: ``value`` must be at most (or at least) ``bound``; without a bound it only informs.

    ``limit`` is the best value that the machine allows, measured in the same run; ``why`` is told where the row misses.
    A value of None was not measured, which ``why`` explains; such a row does not hold.
    """

    what: str
    value: float | None
    relation: Literal["<=", ">=", ""] = ""
    bound: float = 0.0
    limit: float | None = None
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether the value meets the target."""
        if self.value is None:
            return False
        if self.relation == "<=":
            return self.value <= self.bound
        return self.value >= self.bound if self.relation == ">=" else True

    @property
    def target(self) -> str:
        """The target in words."""
        return f"{self.relation} {self.bound:g}" if self.relation else "none"

    def as_json(self) -> dict[str, object]:
        """The row as it is written."""
        row: dict[str, object] = {"what": self.what, "target": self.target, "value": self.value, "holds": self.holds}
        if self.limit is not None:
            row["limit"] = self.limit
        if self.why and not self.holds:
            row["why"] = self.why
        return row


#: Name → module with a function ``run(console) -> list[Row]``; imported only when asked for.
#: One that has ``CASES`` takes the names of those to run, where data lies, and a folder for details.
BENCHMARKS: Final[dict[str, str]] = {
    "crash": "commonroot.simulations.bench_crash",
    "data": "commonroot.simulations.bench_data",
    "data-deployed": "commonroot.simulations.bench_data_deployed",
    "guard": "commonroot.simulations.bench_guard",
    "latency": "commonroot.simulations.bench_latency",
    "payload": "commonroot.simulations.bench_payload",
    "secure-sum": "commonroot.simulations.bench_secure_sum",
    "simulation": "commonroot.simulations.bench_simulation",
    "soak": "commonroot.simulations.bench_soak",
    "transfer": "commonroot.simulations.bench_transfer",
}


def run_benchmark(
    name: str,
    folder: Path,
    console: Console,
    *,
    only: Sequence[str] = (),
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Run one benchmark, write its file, and return its rows.

    only, data  of benchmarks of several cases: those to run, and where published data lies
    options     what only some benchmarks take; each says which in its ``OPTIONS``

    Raises UnknownBenchmark; ConfigError for cases or options that a benchmark does not have.
    """
    if name not in BENCHMARKS:
        raise UnknownBenchmark(f"no benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    folder = folder.resolve()  # processes that a benchmark starts stand elsewhere
    module = import_module(BENCHMARKS[name])
    given = dict(options or {})
    foreign = sorted(given.keys() - set(getattr(module, "OPTIONS", ())))
    if foreign:
        raise ConfigError(f"the benchmark {name!r} takes no {', '.join(foreign)}")
    if hasattr(module, "CASES"):
        rows = module.run(console, only, data=data, out=folder / name, **given)
    elif only:
        raise ConfigError(f"the benchmark {name!r} is one whole and has no cases to choose from")
    else:
        rows = module.run(console)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / f"{name}.json", json.dumps([row.as_json() for row in rows], indent=2).encode())
    return list(rows)


def table(name: str, rows: list[Row]) -> Table:
    """The rows for people."""
    out = Table("what", "target", "value", "holds", "limit", title=f"bench {name}")
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:.4g}"
        what = row.what if row.holds or not row.why else f"{row.what}\n  {row.why}"
        value = "–" if row.value is None else f"{row.value:.4g}"
        out.add_row(what, row.target, value, "yes" if row.holds else "NO", limit)
    return out
