"""A water circuit with eight sensors that somebody disturbs (SKAB, Katser and Kozitsin, 2020): when is it not normal?

Three lines: ``valve1`` (16 experiments), ``valve2`` (4) and ``other`` (14).  As the benchmark has it, the first 400
seconds of each experiment, which are normal, are for learning and the rest tests; labels only score.  Also as there, a
sensor is given as its distance from its mean over those first seconds of its own experiment, in standard deviations:
experiments ran on different days, and what is normal on one is not on another.  A row is one second, as for T² and Q,
the best of the benchmark's published methods that learn no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from commonroot.simulations.datasets.tables import section, write_parquet
from commonroot.simulations.datasets.world import Dataset, World

LINES: Final = ("valve1", "valve2", "other")
SENSORS: Final = (
    "Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure", "Temperature", "Thermocouple", "Voltage",
    "Volume Flow RateRMS",
)  # fmt: skip
NORMAL: Final = 400
#: Of a sensor that stood still, this counts as its standard deviation; accelerometers move by 2e-4.
LEAST_SPREAD: Final = 1e-6


def experiment(path: Path, name: str) -> pl.DataFrame:
    """One row a second: ``experiment``, ``time``, the sensors and ``anomaly`` (``yes`` or ``no``)."""
    raw = pl.read_csv(path, separator=";", try_parse_dates=True)
    marked = pl.when(pl.col("anomaly") > 0).then(pl.lit("yes")).otherwise(pl.lit("no"))
    return raw.select(
        pl.lit(name).alias("experiment"),
        pl.col("datetime").alias("time"),
        *(pl.col(sensor).cast(pl.Float64) for sensor in SENSORS),
        marked.alias("anomaly"),
    ).sort("time", maintain_order=True)


def from_its_start(found: pl.DataFrame) -> pl.DataFrame:
    """An experiment with its sensors standardised by its first, normal, seconds."""
    start = found.select(SENSORS)[:NORMAL].to_numpy()
    means, spreads = start.mean(axis=0).tolist(), np.maximum(start.std(axis=0), LEAST_SPREAD).tolist()
    scaled = [
        ((pl.col(name) - mean) / spread).alias(name) for name, mean, spread in zip(SENSORS, means, spreads, strict=True)
    ]
    return found.with_columns(scaled)


def write(source: Path, target: Path, *, seed: int) -> World:
    """Three lines; the split is the benchmark's own, whatever the seed."""
    departments = {}
    for line in LINES:
        files = sorted((source / line).glob("*.csv"), key=lambda path: int(path.stem))
        if not files:
            raise FileNotFoundError(2, "no experiments", str(source / line / "*.csv"))
        found = [from_its_start(experiment(path, f"{line}-{path.stem}")) for path in files]
        write_parquet(target / f"{line}-learn.parquet", pl.concat([one[:NORMAL] for one in found]))
        write_parquet(target / f"{line}-test.parquet", pl.concat([one[NORMAL:] for one in found]))
        departments[line] = section(
            target,
            line,
            suffix=".parquet",
            target_column="anomaly",
            task={"kind": "anomaly", "anomalous": ["yes"]},
            features=list(SENSORS),
            split={"kind": "grouped", "column": "experiment", "validation": 0.2, "seed": seed},
        )
    charter = {
        "rounds": 6,
        "method": {
            "name": "fedper",
            "options": {"backbone_epochs": 1, "fine_tune_head_epochs": 1, "fine_tune_epochs": 2},
        },
        "training": {"batch": 128, "optimizer": "adam", "learning_rate": 0.003},
        "backbone": {"family": "mlp", "inputs": len(SENSORS), "widths": [32, 4]},
    }
    return World(departments, charter, "three lines of a water circuit find out when it is not normal")


DATASET = Dataset("valves", "skab", "anomalies of a water circuit on three lines", {"benchmark": write})
