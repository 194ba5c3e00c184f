"""How fast a table becomes rows, beside the columnar library's own read of the same file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from commonroot.client.tables.config import DataConfig
from commonroot.client.tables.prepare import prepare


def measure_loading(config: DataConfig, *, folder: Path = Path(), repeats: int = 3) -> dict[str, float | int]:
    """Seconds to load, check, split, fit and encode a .csv or .parquet, and for polars to read it; the best of each.

    ``ratio`` is polars' time over ours: 1 is as fast as the read alone.
    """
    if config.path is None or config.path.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError("a .csv or .parquet is measured")
    path = folder / config.path
    read: Callable[[], object] = (
        (lambda: pl.read_csv(path, separator=config.separator))
        if path.suffix.lower() == ".csv"
        else (lambda: pl.read_parquet(path))
    )
    rows = 0

    def ours() -> None:
        nonlocal rows
        found = prepare(config, folder=folder)
        rows = len(found.train) + len(found.validation) + len(found.test)

    theirs, own = _best(read, repeats), _best(ours, repeats)
    return {"rows": rows, "bytes": path.stat().st_size, "polars": theirs, "prepare": own, "ratio": theirs / own}


def _best(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)
