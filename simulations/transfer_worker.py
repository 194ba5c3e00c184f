"""A process that runs cells of the transfer benchmark; see ``cell_worker``.

in   {"dataset": …, "protocol": …, "method": …, "seed": …}
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from commonroot.logs import Tell
from commonroot.simulations.cell_worker import RunCell, serve
from commonroot.simulations.transfer_cells import Cell, run_cell


def runner(folder: Path, data: Path | None) -> RunCell:
    """Runs cells of one cache."""

    def run(request: dict[str, Any], tell: Tell) -> None:
        run_cell(Cell(**request), folder, data, tell)

    return run


def main() -> None:
    """``python -m commonroot.simulations.transfer_worker CACHE [DATA]``."""
    serve(runner(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))


if __name__ == "__main__":
    main()
