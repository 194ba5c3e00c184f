"""Women's clothing reviews of one shop, by its six departments: does the reviewer recommend it, and how many stars?

recommended  binary, scored by the area under the curve
stars        1 … 5

Text and age of the reviewer are given.  Departments hold from 119 reviews (Trend) to 10,468 (Tops); a fifth tests.
"""

from __future__ import annotations

import io
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl

from commonroot.simulations.datasets.tables import section, stratified, write_parquet
from commonroot.simulations.datasets.world import Dataset, World

DEPARTMENTS: Final = ("Tops", "Dresses", "Bottoms", "Intimate", "Jackets", "Trend")
_FILE: Final = "Womens Clothing E-Commerce Reviews.csv"
_TEST: Final = 0.2
VOCABULARY: Final = 32_768
#: Words, then pairs of words.
LENGTH: Final = 256


def reviews(source: Path) -> pl.DataFrame:
    """Reviews with text: ``department``, ``text``, ``age``, ``stars``, ``recommended``."""
    with zipfile.ZipFile(source / f"{_FILE}.zip") as archive:
        raw = pl.read_csv(io.BytesIO(archive.read(_FILE)))
    titled = pl.concat_str(pl.col("Title").fill_null(""), pl.col("Review Text"), separator=" ")
    return (
        raw.drop_nulls("Review Text")
        .filter(pl.col("Department Name").is_in(DEPARTMENTS))
        .select(
            pl.col("Department Name").alias("department"),
            titled.str.strip_chars().alias("text"),
            pl.col("Age").cast(pl.Float64).alias("age"),
            pl.col("Rating").cast(pl.Float64).alias("stars"),
            pl.when(pl.col("Recommended IND") == 1).then(pl.lit("yes")).otherwise(pl.lit("no")).alias("recommended"),
        )
    )


def write(source: Path, target: Path, *, seed: int, predict: str) -> World:
    """One department of the federation for each department of the shop."""
    found = reviews(source)
    departments = {}
    task: Any = {"kind": "binary", "metric": "AUC"}
    if predict == "stars":
        task = {"kind": "rating", "lowest": 1.0, "highest": 5.0}
    for name in DEPARTMENTS:
        own = found.filter(pl.col("department") == name)
        learn, test = stratified(own["stars"].to_numpy(), share=_TEST, seed=seed)
        for part, at in (("learn", learn), ("test", test)):
            write_parquet(target / f"{name.lower()}-{part}.parquet", own[at].select("text", "age", predict))
        labels = {"labels": ["no", "yes"]} if predict == "recommended" else {}
        departments[name.lower()] = section(
            target,
            name.lower(),
            suffix=".parquet",
            target_column=predict,
            task=task,
            features=[{"column": "text", "kind": "text"}],
            seed=seed,
            **labels,
        )
    charter = {
        "rounds": 6,
        # praise sounds alike in every department, so one head serves all
        "method": {
            "name": "fedavg-ft",
            "options": {"epochs": 1, "head": "shared", "outputs": 1, "fine_tune_epochs": 1},
        },
        # embeddings begin at random and most words are rare: what no review asks for has to decay
        "training": {
            "optimizer": "adam",
            "learning_rate": 0.01,
            "batch": 64,
            "update_clip": 400.0,
            "weight_decay": 0.5,
        },
        "backbone": {"family": "ngrams", "vocabulary": VOCABULARY, "length": LENGTH, "width": 16},
    }
    return World(departments, charter, f"six departments of a shop predict {predict} from a review")


DATASET = Dataset(
    "clothing",
    "womens-clothing-reviews",
    "reviews of clothes in six departments",
    {name: partial(write, predict=name) for name in ("recommended", "stars")},
)
