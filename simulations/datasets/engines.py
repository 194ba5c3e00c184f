"""Turbofan engines run to failure in four fleets (NASA C-MAPSS, Saxena, Goebel, Simon, Eklund, 2008, simulated): how
many cycles are left, counted from at most 125?

Each fleet's published training engines are dealt to learning, validation and test; windows of 30 cycles of one engine
predict what it has left at their end.  Nothing of a test engine is ever seen in learning.
"""

from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from commonroot.simulations.datasets.tables import section, write_parquet
from commonroot.simulations.datasets.world import Dataset, World

FLEETS: Final = ("FD001", "FD002", "FD003", "FD004")
#: Settings and sensors of the published columns; some sensors never move in some fleets and stay all the same.
CHANNELS: Final = (*(f"setting_{at}" for at in (1, 2, 3)), *(f"sensor_{at:02d}" for at in range(1, 22)))
STEPS: Final = 30
CAP: Final = 125.0
#: Engines of each fleet that learn and that test.
DEALT: Final = {"forty": (60, 40)}


def cycles(source: Path, fleet: str) -> pl.DataFrame:
    """One row a cycle: ``engine``, ``cycle``, the channels, and ``left``, capped."""
    text = gzip.decompress((source / f"train_{fleet}.txt.gz").read_bytes()).decode()
    raw = np.fromstring(text, sep=" ").reshape(-1, 2 + len(CHANNELS))
    frame = pl.DataFrame(raw, schema=["engine", "cycle", *CHANNELS], orient="row")
    left = (pl.col("cycle").max().over("engine") - pl.col("cycle")).clip(upper_bound=CAP)
    return frame.with_columns(left.alias("left"), pl.col("engine").cast(pl.Int64), pl.col("cycle").cast(pl.Int64))


def write(source: Path, target: Path, *, seed: int, engines: tuple[int, int]) -> World:
    """Four fleets; 60 engines learn, a quarter of which validate, and 40 test."""
    learning, testing = engines
    departments = {}
    for fleet in FLEETS:
        own = cycles(source, fleet)
        random = np.random.default_rng([0x656E67696E65, seed])
        dealt = random.permutation(own["engine"].unique(maintain_order=True).to_numpy())
        name = fleet.lower()
        for part, some in (("learn", dealt[:learning]), ("test", dealt[learning : learning + testing])):
            write_parquet(target / f"{name}-{part}.parquet", own.filter(pl.col("engine").is_in(some)))
        departments[name] = section(
            target,
            name,
            suffix=".parquet",
            target_column="left",
            task={"kind": "life", "cap": CAP},
            features=list(CHANNELS),
            window={"group": "engine", "order": "cycle", "steps": STEPS},
            split={"kind": "grouped", "column": "engine", "validation": 0.25, "seed": seed},
        )
    charter = {
        "rounds": 20,
        "method": {"name": "fedper"},
        "backbone": {"family": "tcn", "steps": STEPS, "channels": len(CHANNELS), "width": 32, "layers": 3},
    }
    return World(departments, charter, "four fleets predict the cycles an engine has left")


DATASET = Dataset(
    "engines",
    "cmapss",
    "remaining life of engines in four fleets",
    {name: partial(write, engines=dealt) for name, dealt in DEALT.items()},
)
