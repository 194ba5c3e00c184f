"""100,000 ratings of 1,682 films (MovieLens 100K, Harper and Konstan, 2015), by six groups of occupations.

Departments are customer segments: nobody's customers rate in two of them.  A fifth of each customer's ratings test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from commonroot.simulations.datasets.tables import section, write_parquet
from commonroot.simulations.datasets.world import Dataset, World

FILMS: Final = 1682
GROUPS: Final = {
    "students": ("student",),
    "technical": ("engineer", "programmer", "technician", "scientist"),
    "teaching": ("educator", "librarian"),
    "arts": ("artist", "entertainment", "writer"),
    "office": ("administrator", "executive", "marketing", "salesman", "lawyer", "doctor", "healthcare"),
    "others": ("other", "none", "retired", "homemaker"),
}
_TEST: Final = 0.2


def ratings(source: Path) -> pl.DataFrame:
    """``group``, ``user``, ``item`` (1 … 1,682) and ``rating`` (1 … 5)."""
    given = pl.read_csv(
        source / "u.data", separator="\t", has_header=False, new_columns=["user", "item", "rating", "time"]
    )
    people = pl.read_csv(
        source / "u.user", separator="|", has_header=False, new_columns=["user", "age", "gender", "occupation", "zip"]
    )
    groups = {occupation: group for group, some in GROUPS.items() for occupation in some}
    named = people.select("user", pl.col("occupation").replace_strict(groups).alias("group"))
    return given.join(named, on="user", how="left", maintain_order="left").select(
        "group", "user", "item", pl.col("rating").cast(pl.Float64)
    )


def write(source: Path, target: Path, *, seed: int) -> World:
    """Six segments, 80 % of each one's ratings for learning."""
    found = ratings(source)
    departments = {}
    for at, name in enumerate(GROUPS):
        own = found.filter(pl.col("group") == name).drop("group")
        test = np.random.default_rng([0x66696C6D, seed, at]).random(len(own)) < _TEST
        for part, rows in (("learn", ~test), ("test", test)):
            write_parquet(target / f"{name}-{part}.parquet", own.filter(pl.Series(rows)))
        departments[name] = section(
            target,
            name,
            suffix=".parquet",
            target_column="rating",
            task={"kind": "recommendation", "user": "user", "item": "item", "lowest": 1.0, "highest": 5.0},
            seed=seed,
        )
    charter = {
        "rounds": 15,
        "method": {"name": "als", "options": {"strength": 12.0}},
        "backbone": {"family": "factors", "items": FILMS, "width": 10},
    }
    return World(departments, charter, "six customer segments learn which films they would like")


DATASET = Dataset("films", "movielens-100k", "ratings of films in six customer segments", {"occupations": write})
