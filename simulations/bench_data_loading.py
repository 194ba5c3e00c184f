"""Tables becoming rows: how fast beside the columnar library's own read, and in how much memory however many rows.

Speed: seconds of ``polars.read_csv`` or ``polars.read_parquet`` of a file, every column collected into memory and
nothing else, divided by those of ``prepare``, which opens, checks, splits, fits and encodes the same file.  Both are
called in turns and medians are compared: the CPU time of all threads, which other work on the machine disturbs little,
and beside it what the clock said.

Memory: a process of its own prepares a Parquet table and trains one epoch on it.  Anonymous memory is what the process
needs; its resident memory also counts pages of mapped files that the system may take back at any time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from rich.console import Console

from commonroot.client.drawing.charts import Axis, columns_of, lines_of, number, svg, tag
from commonroot.client.tables.config import DataConfig
from commonroot.client.tables.prepare import prepare
from commonroot.common.errors import RunStopped
from commonroot.files import atomic_write
from commonroot.simulations.bench import Row
from commonroot.simulations.bench_timing import in_turns

#: As it is called among the datasets of ``commonroot bench data``.
NAME: Final = "loading"
#: Rows of a table that is timed, and how often.
TIMED: Final = 1_000_000
TIMES: Final = 5
#: Rows of the tables whose memory is measured.
SIZES: Final = (100_000, 1_000_000, 3_000_000, 10_000_000)
#: Columns of numbers of those.
COLUMNS: Final = 10
#: MiB: for the largest; for any (libraries and a table of 256 MiB that is held with its rows); for nine million more.
MOST: Final = 600.0
ANY: Final = 700.0
MORE: Final = 300.0
_MIB: Final = 1 << 20
_WHY: Final = (
    "a file of codes is read in less time than its rows are written as numbers, without checks, split or scaling"
)


def run(console: Console, *, out: Path | None = None) -> list[Row]:
    """Rows of both; the curve of memory is drawn as ``data-memory.svg`` beside the folder ``out``."""
    with tempfile.TemporaryDirectory() as folder:
        rows = speed(console, Path(folder), rows=TIMED, times=TIMES)
    curve = []
    for size in SIZES:
        console.print(f"memory: {size:,} rows of Parquet, prepared and trained on …")
        curve.append(memory(size))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(out.with_name("data-memory.svg"), drawn(curve).encode())
    return rows + memory_rows(curve)


# --- speed ------------------------------------------------------------------------------------------------------------


def speed(console: Console, folder: Path, *, rows: int, times: int) -> list[Row]:
    """A ratio for each kind of table: 1 is as fast as the read alone."""
    found = []
    for kind, made in (("numbers", number_table), ("mixed", mixed_table)):
        table = made(rows)
        for ending in ("csv", "parquet"):
            path = folder / f"{kind}.{ending}"
            console.print(f"loading: {path.name}, {rows:,} rows …")
            if ending == "csv":
                table.write_csv(path)
            else:
                table.write_parquet(path)
            found += _ratio(path, f"{kind}.{ending}, {rows:,} rows, {table.width} columns", times)
            path.unlink()
    return found


def number_table(rows: int) -> pl.DataFrame:
    """Ten columns of float64 and a label of 0 and 1."""
    random = np.random.default_rng(1)
    columns = {f"c{at}": random.normal(size=rows) * 10 ** (at % 3) for at in range(COLUMNS)}
    noise = random.normal(size=rows)
    return pl.DataFrame(columns | {"label": (columns["c0"] + noise > 0).astype(np.int64)})


def mixed_table(rows: int) -> pl.DataFrame:
    """Numbers, some missing, whole numbers, two categories, some missing, days, and a label of two words."""
    random = np.random.default_rng(2)
    columns = {f"c{at}": random.normal(size=rows) for at in range(6)}
    towns = np.array([f"town {at}" for at in range(12)])
    ways = np.array(["retail", "wholesale", "online"])
    days = np.datetime64("2020-01-01") + random.integers(0, 1500, rows)
    noise = random.normal(size=rows)
    table = pl.DataFrame(
        columns
        | {
            "amount": random.integers(0, 1000, rows),
            "town": towns[random.integers(0, len(towns), rows)],
            "way": ways[random.integers(0, len(ways), rows)],
            "day": days.astype("datetime64[D]"),
            "label": np.where(columns["c0"] + noise > 0, "up", "down"),
        }
    )
    at = pl.int_range(pl.len())
    return table.with_columns(
        c3=pl.when(at % 37 == 0).then(None).otherwise("c3"), way=pl.when(at % 41 == 0).then(None).otherwise("way")
    )


def _ratio(path: Path, of: str, times: int) -> list[Row]:
    config = DataConfig(path=path, target="label", task="binary")
    csv = path.suffix == ".csv"
    read: Callable[[], object] = (lambda: pl.read_csv(path)) if csv else (lambda: pl.read_parquet(path))
    cost = in_turns({"polars": read, "prepare": lambda: prepare(config)}, times)
    theirs, ours = cost["polars"], cost["prepare"]
    ratio = theirs.process / ours.process
    why = _WHY if ratio < 0.5 and not csv else ""
    return [
        Row(f"CPU time, polars' own read ÷ loading and featurising, {of}", ratio, ">=", 0.5, None, why),
        Row(f"the same by the clock, {of}", theirs.wall / ours.wall),
    ]


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(rows: int) -> dict[str, float]:
    """``rows``, and in bytes: ``start`` anonymous memory before the table, ``prepared`` its peak up to encoded rows,
    ``anonymous`` and ``resident`` at the peak of all, ``encoded`` size of the encoded training rows."""
    with tempfile.TemporaryDirectory() as folder:
        write_numbers(Path(folder) / "t.parquet", rows)
        call = [sys.executable, "-c", f"from {__name__} import measured; measured({folder!r})"]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunStopped(f"measuring memory failed: {done.stderr[-500:]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {"rows": rows} | told


def write_numbers(path: Path, rows: int) -> None:
    """Ten columns of float32 and a label, written in bounded memory."""
    at = pl.int_range(rows, eager=False)
    columns = [((at.hash(seed=seed) / 2.0**64 - 0.5) * 4).cast(pl.Float32).alias(f"c{seed}") for seed in range(COLUMNS)]
    label = (pl.col("c0") + pl.col("c1") > 0).cast(pl.Int64).alias("label")
    with path.open("wb") as file:  # opened here: as private as the folder
        pl.select(at.alias("at")).lazy().select(columns).with_columns(label).sink_parquet(file, row_group_size=262_144)


def measured(folder: str) -> None:
    """Prepare and train in this process; prints what ``memory`` gives as JSON."""
    from commonroot.client.trainer import Trainer
    from commonroot.common.backbone.mlp import MlpSpec
    from commonroot.common.charter import Draft, Method, Training
    from commonroot.strategies import Phase, build

    def anonymous() -> int:
        return _status("RssAnon")

    peak, start, stop = 0, anonymous(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, anonymous())
            if stop.wait(0.002):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        config = DataConfig(path=Path("t.parquet"), target="label", task="binary")
        found = prepare(config, folder=Path(folder), root=Path(folder))
        prepared = peak
        draft = Draft(
            federation="memory",
            name="memory",
            rounds=1,
            method=Method(name="fedper"),
            backbone=MlpSpec(inputs=found.inputs, widths=(32, 16)),
            training=Training(batch=1024),
        )
        trainer = Trainer(draft, found.task, 1)
        plan = [Phase(parts=frozenset({"backbone", "head"}), epochs=1)]
        trainer.train(plan, build(draft).initial(draft), trainer.start(), found.train, found.validation, version=1)
    finally:
        stop.set()
        thread.join()
    told: dict[str, Any] = {"start": start, "prepared": prepared, "anonymous": peak, "resident": _status("VmHWM")}
    print(json.dumps(told | {"encoded": found.train.x.nbytes}))


def _status(name: str) -> int:
    """Bytes that the system counts for this process under a name of /proc."""
    with Path("/proc/self/status").open(encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def memory_rows(curve: list[dict[str, float]]) -> list[Row]:
    """What the curve says."""
    last, million = curve[-1], next(one for one in curve if one["rows"] == 1_000_000)
    rows = []
    for one in curve:
        of = f"{one['rows']:,.0f} rows x {COLUMNS} columns of Parquet, prepared and one epoch trained"
        bound: tuple[Any, float] = ("<=", MOST) if one is last else ("", 0.0)
        rows.append(Row(f"anonymous memory at its peak, {of}: MiB", one["anonymous"] / _MIB, *bound))
        rows.append(
            Row(f"resident memory at its peak, pages of mapped files included, {of}: MiB", one["resident"] / _MIB)
        )
    most = max(one["anonymous"] for one in curve) / _MIB
    rows.append(Row("anonymous memory at its peak, the most at any of these sizes: MiB", most, "<=", ANY))
    more = (last["anonymous"] - million["anonymous"]) / _MIB
    rows.append(Row(f"anonymous memory, {last['rows']:,.0f} rows more than 1,000,000 take: MiB", more, "<=", MORE))
    return rows


# --- the curve --------------------------------------------------------------------------------------------------------

_STYLE: Final = """<style>
text { font: 13px system-ui, sans-serif; fill: #333 } .mid { text-anchor: middle } .end { text-anchor: end }
.grid { stroke: #ddd } .zero { stroke: #888 } .line { fill: none; stroke-width: 2 }
.a { stroke: #2563a8 } .r { stroke: #b4531d; stroke-dasharray: 7 4 } .e { stroke: #777; stroke-dasharray: 2 4 }
</style>"""
_LINES: Final = (
    ("anonymous", "anonymous memory", "a"),
    ("resident", "resident memory, mapped pages included", "r"),
    ("encoded", "encoded training rows", "e"),
)


def drawn(curve: list[dict[str, float]]) -> str:
    """Peaks over millions of rows, as an SVG that stands alone."""
    left, right, top, bottom = 90, 930, 40, 360
    up = Axis([0.0, *(one[key] / _MIB for one in curve for key, _, _ in _LINES)], bottom, top)
    across = Axis([0.0, *(one["rows"] / 1e6 for one in curve)], left, right, 10)
    parts = [*lines_of(up, left, right), *columns_of(across, top, bottom)]
    parts.append(tag("text", "MiB", x=left - 8, y=top - 16, class_="end"))
    parts.append(tag("text", "millions of rows", x=(left + right) / 2, y=bottom + 42, class_="mid"))
    for place, (key, label, kind) in enumerate(_LINES):
        dots = [(across(one["rows"] / 1e6), up(one[key] / _MIB)) for one in curve]
        path = "M" + "L".join(f"{x} {y}" for x, y in dots)
        parts.append(tag("path", d=path, class_=f"line {kind}"))
        for (x, y), one in zip(dots, curve, strict=True):
            tip = f"{one['rows']:,.0f} rows: {label} {number(one[key] / _MIB, 0)} MiB"
            parts.append(tag("circle", cx=x, cy=y, r=4, class_=kind, tip=tip))
        y = top + 14 + 20 * place
        parts.append(tag("line", x1=left + 20, x2=left + 60, y1=y, y2=y, class_=f"line {kind}"))
        parts.append(tag("text", label, x=left + 70, y=y + 4))
    title = "Memory of a department that prepares a table and trains on it"
    description = "; ".join(
        f"{one['rows']:,.0f} rows: anonymous {number(one['anonymous'] / _MIB, 0)} MiB, "
        f"resident {number(one['resident'] / _MIB, 0)} MiB"
        for one in curve
    )
    picture = svg("memory", bottom + 60, title, description, parts)
    alone = picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return alone.replace("</desc>", f"</desc>{_STYLE}", 1)
