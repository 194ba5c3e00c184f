"""Turbofan engines run to failure in four fleets (NASA C-MAPSS, Saxena, Goebel, Simon, Eklund, 2008, simulated): how
many cycles are left, counted from at most 125?

Each fleet's published training engines are dealt to learning, validation and test; windows of 30 cycles of one engine
predict what it has left at their end.  Nothing of a test engine is ever seen in learning.

Two fleets fly under six operating conditions, whose effect on a sensor is far larger than that of wear.  So a sensor is
given as its distance from what it reads on average under the same condition in the fleet's learning engines, in
standard deviations (as Peel, 2008, and most after him have it).
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
#: The columns as they are published.
CHANNELS: Final = (*(f"setting_{at}" for at in (1, 2, 3)), *(f"sensor_{at:02d}" for at in range(1, 22)))
#: Sensors that move with wear; the others stand still in every fleet once the condition is taken off.
SENSORS: Final = tuple(f"sensor_{at:02d}" for at in (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21))
STEPS: Final = 30
CAP: Final = 125.0
#: Of a sensor that stands still under a condition but for rounding, this counts as its standard deviation.
_LEAST_SPREAD: Final = 1e-6
#: Engines of each fleet that learn (a third of them choose) and that test.
DEALT: Final = {"forty": (60, 40)}


def cycles(source: Path, fleet: str) -> pl.DataFrame:
    """One row a cycle: ``engine``, ``cycle``, the channels, and ``left``, capped."""
    text = gzip.decompress((source / f"train_{fleet}.txt.gz").read_bytes()).decode()
    raw = np.fromstring(text, sep=" ").reshape(-1, 2 + len(CHANNELS))
    frame = pl.DataFrame(raw, schema=["engine", "cycle", *CHANNELS], orient="row")
    left = (pl.col("cycle").max().over("engine") - pl.col("cycle")).clip(upper_bound=CAP)
    return frame.with_columns(left.alias("left"), pl.col("engine").cast(pl.Int64), pl.col("cycle").cast(pl.Int64))


def under_conditions(learn: pl.DataFrame, test: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both parts with each of ``SENSORS`` standardised by the learning part's moments under the same condition.

    A condition is an altitude, ``setting_1`` to the next thousand feet; the other two settings follow from it.
    """
    condition = pl.col("setting_1").round(0).cast(pl.Int64).alias("condition")
    learn, test = learn.with_columns(condition), test.with_columns(condition)
    moments = learn.group_by("condition").agg(
        *(pl.col(name).mean().alias(f"{name} mean") for name in SENSORS),
        *(pl.col(name).std().alias(f"{name} spread") for name in SENSORS),
    )
    spread = {name: pl.col(f"{name} spread").clip(lower_bound=_LEAST_SPREAD) for name in SENSORS}
    scaled = [((pl.col(name) - pl.col(f"{name} mean")) / spread[name]).alias(name) for name in SENSORS]

    def standardised(part: pl.DataFrame) -> pl.DataFrame:
        beside = part.join(moments, on="condition", how="left", maintain_order="left")
        return beside.select("engine", "cycle", *scaled, "left")

    return standardised(learn), standardised(test)


def write(source: Path, target: Path, *, seed: int, engines: tuple[int, int]) -> World:
    """Four fleets; 60 engines learn, a third of which validate, and 40 test."""
    learning, testing = engines
    departments = {}
    for fleet in FLEETS:
        own = cycles(source, fleet)
        random = np.random.default_rng([0x656E67696E65, seed])
        dealt = random.permutation(own["engine"].unique(maintain_order=True).to_numpy())
        name = fleet.lower()
        parts = (dealt[:learning], dealt[learning : learning + testing])
        learn, test = under_conditions(*(own.filter(pl.col("engine").is_in(some)) for some in parts))
        write_parquet(target / f"{name}-learn.parquet", learn)
        write_parquet(target / f"{name}-test.parquet", test)
        departments[name] = section(
            target,
            name,
            suffix=".parquet",
            target_column="left",
            task={"kind": "life", "cap": CAP},
            features=list(SENSORS),
            window={"group": "engine", "order": "cycle", "steps": STEPS},
            split={"kind": "grouped", "column": "engine", "validation": 1 / 3, "seed": seed},
        )
    charter = {
        "rounds": 8,
        "method": {
            "name": "fedper",
            "options": {"backbone_epochs": 1, "fine_tune_head_epochs": 1, "fine_tune_epochs": 1},
        },
        "training": {"batch": 128, "optimizer": "adam", "learning_rate": 0.003},
        "backbone": {"family": "tcn", "steps": STEPS, "channels": len(SENSORS), "width": 24, "layers": 3},
    }
    return World(departments, charter, "four fleets predict the cycles an engine has left")


DATASET = Dataset(
    "engines",
    "cmapss",
    "remaining life of engines in four fleets",
    {name: partial(write, engines=dealt) for name, dealt in DEALT.items()},
)
