"""How long one deployed round takes: ours with the secure sum, beside Flower's stock plain round, in one run.

Three departments, about 1,000 parameters, real processes over TLS on loopback.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from commonroot.client.data import DataConfig
from commonroot.common.errors import RunStopped
from commonroot.simulations.bench import Row
from commonroot.simulations.founding import found, write_table
from commonroot.simulations.processes import free_port, processes

ROUNDS: Final = 15
_LIMIT: Final = 300.0

_CHARTER = f"""\
federation = "latency"
name = "latency"
rounds = {ROUNDS}
method = {{ name = "fedper" }}
backbone = {{ inputs = 16, widths = [32, 14] }}
"""


def run(console: Console) -> list[Row]:
    """Both sides, one after the other; the same number of departments and parameters."""
    from commonroot.simulations.bench_latency_stock import stock_round_seconds

    console.print(f"a deployed secure federation: 3 departments, {ROUNDS} rounds …")
    ours = secure_round_seconds()
    console.print("Flower's stock deployment: 3 nodes, plain FedAvg, train and evaluate …")
    stock = stock_round_seconds(rounds=3, nodes=3, parameters=1000)
    median, peer = statistics.median(ours), statistics.median(stock)
    return [
        Row(
            "deployed secure round, 3 departments, 1,006 parameters, TLS on loopback: median seconds", median, "<=", 1.0
        ),
        Row("the same, divided by Flower's stock plain round in this run", median / peer, "<=", 0.1),
        Row("Flower's stock plain round (train and evaluate): median seconds", peer),
        Row("deployed secure round: slowest of all", max(ours)),
    ]


def secure_round_seconds() -> list[float]:
    """Seconds from one round's end to the next one's, for every round but the first."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        federation = found(
            root, federation="latency", charter_toml=_CHARTER, departments=_tables(root), port=free_port()
        )
        journal = federation.coordinator.journal()
        try:
            journal.queue(federation.charter)
            with processes(root / "logs") as running:
                running.start_coordinator(federation.coordinator.root)
                for name, department in federation.departments.items():
                    running.start_department(name, department.root)
                deadline = time.monotonic() + _LIMIT
                while len(ended := [r.ended for r in journal.rounds() if r.state == "closed" and r.ended]) < ROUNDS:
                    running.check()
                    if time.monotonic() > deadline:
                        raise RunStopped(f"{len(ended)} of {ROUNDS} rounds in {_LIMIT:.0f} s")
                    time.sleep(0.5)
        finally:
            journal.close()
    return [after - before for before, after in itertools.pairwise(ended)]


def _tables(root: Path) -> dict[str, DataConfig]:
    random = np.random.default_rng(1)
    sections = {}
    for name in ("north", "south", "west"):
        x = random.normal(size=(60, 16))
        path = root / f"{name}.npz"
        write_table(path, x, np.where(x[:, 0] > 0, "up", "down"))
        sections[name] = DataConfig(path=path, target="y", task="binary")
    return sections
