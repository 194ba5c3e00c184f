"""Stars of raw Amazon reviews in four categories (Blitzer, Dredze, Pereira, ACL 2007): 1, 2, 4 or 5.

Title and text are given.  The published files look like XML and are not; they are read by the lines that hold tags.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Final

import polars as pl

from commonroot.simulations.datasets.sentiment import CATEGORIES
from commonroot.simulations.datasets.tables import section, stratified, write_parquet
from commonroot.simulations.datasets.world import Dataset, World

_TEST: Final = 0.25
VOCABULARY: Final = 32_768
#: Words, then pairs of words.
LENGTH: Final = 384
_FIELD: Final = re.compile(r"<(rating|title|review_text)>\n(.*?)\n</\1>", re.DOTALL)


def reviews(path: Path) -> pl.DataFrame:
    """``text`` (title, then review) and ``stars`` of one published file."""
    text = gzip.decompress(path.read_bytes()).decode("latin-1")
    found = []
    for block in text.split("</review>"):
        fields = dict(_FIELD.findall(block))
        if "rating" in fields:
            words = f"{fields.get('title', '')}. {fields.get('review_text', '')}"
            found.append((" ".join(words.split()), float(fields["rating"])))
    return pl.DataFrame(found, schema={"text": pl.String, "stars": pl.Float64}, orient="row")


def write(source: Path, target: Path, *, seed: int) -> World:
    """Four categories of 2,000 reviews, a quarter of which test."""
    departments = {}
    for name in CATEGORIES:
        both = (reviews(source / "raw" / f"{name}_{side}.review.gz") for side in ("negative", "positive"))
        # some reviews were published twice; a copy in the test rows would be known already
        own = pl.concat(both).unique(maintain_order=True)
        learn, test = stratified(own["stars"].to_numpy(), share=_TEST, seed=seed)
        for part, at in (("learn", learn), ("test", test)):
            write_parquet(target / f"{name}-{part}.parquet", own[at])
        departments[name] = section(
            target,
            name,
            suffix=".parquet",
            target_column="stars",
            task={"kind": "rating", "lowest": 1.0, "highest": 5.0},
            features=[{"column": "text", "kind": "text"}],
            seed=seed,
        )
    charter = {
        "rounds": 7,
        "method": {
            "name": "fedavg-ft",
            "options": {"epochs": 2, "head": "shared", "outputs": 1, "fine_tune_epochs": 1},
        },
        # embeddings begin at random and most words are rare: what no review asks for has to decay
        "training": {
            "optimizer": "adam",
            "learning_rate": 0.01,
            "batch": 32,
            "update_clip": 400.0,
            "weight_decay": 1.0,
        },
        "backbone": {"family": "ngrams", "vocabulary": VOCABULARY, "length": LENGTH, "width": 16},
    }
    return World(departments, charter, "four product categories predict the stars of a review")


DATASET = Dataset("stars", "amazon-mdsd", "stars of reviews in four product categories", {"raw": write})
