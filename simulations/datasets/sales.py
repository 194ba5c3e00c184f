"""Weekly sales of 45 stores by product group (Walmart Recruiting, 2014): next week's sales, and how much to order.

The last 13 weeks test, each week forecast from those before it; stores have 6, 13 or 40 weeks to learn from.  Only the
2,660 series without gaps are used.  Sales are given and predicted as a multiple of their own level, the mean of the
four weeks before, so that a stationer and a grocer have one scale; ``level`` stands beside each row, for the report.
Thirteen weeks say too little of sixty product groups, of temperatures to come or of holidays for any of them to be
learned from; what the same weeks did a year before says it better.
"""

from __future__ import annotations

import io
import zipfile
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl

from commonroot.simulations.datasets.tables import section, write_parquet
from commonroot.simulations.datasets.world import Dataset, World

STORES: Final = 45
WEEKS: Final = 143
TEST_WEEKS: Final = 13
HISTORIES: Final = (13, 6, 40)
#: Weeks that a row looks back.
LAGS: Final = (1, 2, 3, 4)
YEAR: Final = 52
#: Ratios beyond this say that the level was next to nothing.
LARGEST: Final = 5.0
#: Of a unit short and of one left over.
UNDER, OVER = 3.0, 1.0
#: What a forecast gives; the third is what to order.
QUANTILES: Final = (0.1, 0.5, UNDER / (UNDER + OVER), 0.9)
FEATURES: Final = (*(f"week_{lag}" for lag in LAGS), "year_before", "year_ahead", "markdown")


def weeks(source: Path) -> pl.DataFrame:
    """One row a series and week that has a year and four weeks before it: features, ``level``, ``ratio``, ``date``."""
    with zipfile.ZipFile(source / "train.csv.zip") as archive:
        sales = pl.read_csv(io.BytesIO(archive.read("train.csv")), try_parse_dates=True)
    about = pl.read_csv(source / "features.csv", null_values="NA", try_parse_dates=True)
    marked = pl.sum_horizontal(pl.col(f"MarkDown{at}").fill_null(0.0) for at in range(1, 6))
    about = about.select("Store", "Date", (marked / 1e4).alias("markdown"))
    series = ("Store", "Dept")
    sold = pl.col("Weekly_Sales")
    level = pl.mean_horizontal(sold.shift(lag).over(series) for lag in LAGS).clip(lower_bound=1.0)
    # what the same week did a year before, and the week after that one, against the level of that time
    then = pl.mean_horizontal(sold.shift(YEAR + lag).over(series) for lag in LAGS).clip(lower_bound=1.0)

    def ratio(value: pl.Expr, to: pl.Expr) -> pl.Expr:
        return (value / to).clip(-LARGEST, LARGEST)

    return (
        sales.filter(pl.len().over(series) == WEEKS)
        .sort(*series, "Date")
        .with_columns(
            level.alias("level"),
            ratio(sold, level).alias("ratio"),
            *(ratio(sold.shift(lag).over(series), level).alias(f"week_{lag}") for lag in LAGS),
            ratio(sold.shift(YEAR).over(series), then).alias("year_before"),
            ratio(sold.shift(YEAR - 1).over(series), then).alias("year_ahead"),
        )
        .filter(pl.int_range(pl.len()).over(series) >= YEAR + max(LAGS))
        .join(about, on=["Store", "Date"], how="left", maintain_order="left")
        .select(
            pl.col("Store").alias("store"),
            pl.col("Date").alias("date"),
            pl.format("g{}", pl.col("Dept")).alias("group"),
            *FEATURES,
            "level",
            "ratio",
            sold.alias("sales"),
        )
    )


def write(source: Path, target: Path, *, seed: int, history: int) -> World:
    """45 stores with so many weeks to learn from; the split is by time, whatever the seed."""
    found = weeks(source)
    dates = found["date"].unique().sort()
    first_test, first = dates[-TEST_WEEKS], dates[-TEST_WEEKS - history]
    kept = [*FEATURES, "date", "ratio"]
    departments = {}
    for store in range(1, STORES + 1):
        name = f"store-{store:02d}"
        own = found.filter(pl.col("store") == store)
        learn = own.filter((pl.col("date") >= first) & (pl.col("date") < first_test))
        test = own.filter(pl.col("date") >= first_test)
        write_parquet(target / f"{name}-learn.parquet", learn.select(kept))
        write_parquet(target / f"{name}-test.parquet", test.select(kept))
        write_parquet(target / f"{name}-levels.parquet", test.select("date", "group", "level", "sales"))
        departments[name] = section(
            target,
            name,
            suffix=".parquet",
            target_column="ratio",
            task={"kind": "forecast", "quantiles": QUANTILES, "under_cost": UNDER, "over_cost": OVER},
            features=list(FEATURES),
            split={"kind": "time", "column": "date", "validation": 0.2, "seed": seed},
        )
    charter = {
        # in multiples of its level one store's week is like another's: one head for all, and a network that has learned
        # from few weeks of many stores
        "rounds": 12,
        "method": {
            "name": "fedavg-ft",
            "options": {"epochs": 1, "head": "shared", "outputs": len(QUANTILES), "fine_tune_epochs": 2},
        },
        "training": {"batch": 64, "optimizer": "adam", "learning_rate": 0.003},
        "backbone": {"family": "mlp", "inputs": len(FEATURES), "widths": [64, 64]},
    }
    return World(departments, charter, f"45 stores forecast next week's sales from {history} weeks of history")


DATASET = Dataset(
    "sales",
    "walmart-store-dept",
    "weekly sales of 45 stores",
    {f"weeks-{history}": partial(write, history=history) for history in HISTORIES},
)
