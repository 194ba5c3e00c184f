"""A process that runs cells of a sweep; see ``simulations.cell_worker``.

in   {"key": …, "quick": …, "device": …, "scenario": {…}}
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from commonroot.logs import Tell
from commonroot.simulations.cell_worker import serve
from commonroot.simulations.sweeps.cells import run_cell


def main() -> None:
    """``python -m commonroot.simulations.sweeps.worker FOLDER``."""
    folder = Path(sys.argv[1])

    def run(request: dict[str, Any], tell: Tell) -> None:
        run_cell(request, folder, tell)

    serve(run)


if __name__ == "__main__":
    main()
