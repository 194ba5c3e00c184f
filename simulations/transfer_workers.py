"""Cells of the transfer benchmark over worker processes; see ``cell_pool``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from commonroot.simulations.cell_pool import Work, run_missing
from commonroot.simulations.transfer_cells import Cell, Result, kept


def run_cells(
    cells: Sequence[Cell], folder: Path, data: Path | None, *, workers: int, console: Console
) -> tuple[dict[Cell, Result], dict[Cell, str]]:
    """Every cell's result, known ones from the cache; and for cells that could not be run, why.

    Raises ConfigError where another benchmark uses the same cache.
    """
    work = Work[Cell](
        "commonroot.simulations.transfer_worker",
        (str(folder), *([] if data is None else [str(data)])),
        request=_request,
        name=lambda cell: cell.name,
        like=lambda cell: f"{cell.dataset} {cell.protocol} {cell.method}",
        turn=lambda cell: cell.seed,
    )
    busy = (f"another benchmark uses {folder}", "wait for it, or choose another --cache")
    return run_missing(
        cells, folder, work, lambda cell: kept(cell, folder, data), workers=workers, console=console, busy=busy
    )


def _request(cell: Cell) -> dict[str, Any]:
    return asdict(cell)
