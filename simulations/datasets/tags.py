"""Sentences made from templates, with names of things in them to be found: token tagging in three departments.

This is made, not real: there is no token-tagging set under a licence that lets it be fetched here.  Each department has
words and entity types of its own (purchasing: vendors and amounts; service: machines and parts; sales: customers and
cities), all share the kinds of sentences, and a third of the names in the test sentences never occur in learning.  Nor
does what a sentence is about, its first name, occur on both sides of a department's own split: models are chosen by
what they make of names they have not seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from commonroot.simulations.datasets.tables import section, write_parquet
from commonroot.simulations.datasets.world import Dataset, World

_FIRST: Final = ("North", "Alder", "Silver", "Old", "Harbour", "Green", "Stone", "River", "High", "Red", "Lake", "Iron")
_SECOND: Final = {
    "VENDOR": ("Works", "Supplies", "Trading", "Foundry", "Timber", "Paper"),
    "MACHINE": ("Press", "Lathe", "Conveyor", "Boiler", "Mixer", "Crane"),
    "CUSTOMER": ("Bakery", "Clinic", "School", "Hotel", "Garage", "Library"),
    "CITY": ("ford", "bridge", "ton", "haven", "field", "mouth"),
    "PART": ("valve", "bearing", "belt", "seal", "pump", "sensor"),
}
_TEMPLATES: Final = {
    "purchasing": (
        "we ordered {AMOUNT} from {VENDOR} last week",
        "{VENDOR} still owes us {AMOUNT} for the returned pallets",
        "please pay {VENDOR} before friday",
        "the offer of {VENDOR} over {AMOUNT} is too high",
    ),
    "service": (
        "the {PART} of the {MACHINE} leaks again",
        "{MACHINE} stopped this morning , somebody must look at the {PART}",
        "replaced the {PART} , {MACHINE} runs",
        "no fault found on {MACHINE} after two hours",
    ),
    "sales": (
        "{CUSTOMER} in {CITY} wants another offer",
        "visited {CUSTOMER} yesterday , next time in {CITY}",
        "the order of {CUSTOMER} goes to {CITY} on monday",
        "nobody answered at {CUSTOMER} this week",
    ),
}
LEARN: Final = {"purchasing": 600, "service": 200, "sales": 120}
TEST: Final = 300
VOCABULARY: Final = 4096
LENGTH: Final = 24


def _names(kind: str, *, unseen: bool) -> list[str]:
    """Names of a kind; about a third of all are kept for test sentences."""
    if kind == "AMOUNT":
        return [f"{at * (37 if unseen else 41)} euros" for at in range(3, 60)]
    pairs = itertools.product(_FIRST, _SECOND[kind])
    glue = "" if kind == "CITY" else " "
    made = [f"{first}{glue}{second}" for first, second in pairs]
    return [name for at, name in enumerate(made) if unseen or at % 3]


def sentence(random: np.random.Generator, template: str, *, unseen: bool) -> tuple[list[str], list[str]]:
    """Words and their BIO tags."""
    words: list[str] = []
    tags: list[str] = []
    for piece in template.split():
        if piece.startswith("{"):
            kind = piece.strip("{}")
            options = _names(kind, unseen=unseen)
            name = options[int(random.integers(len(options)))].split()
            words += name
            tags += [f"B-{kind}", *(f"I-{kind}" for _ in name[1:])]
        else:
            words.append(piece)
            tags.append("O")
    return words, tags


def first_name(words: Sequence[str], tags: Sequence[str]) -> str:
    """The first entity of a sentence."""
    start = next(at for at, tag in enumerate(tags) if tag != "O")
    end = next((at for at in range(start + 1, len(tags)) if not tags[at].startswith("I-")), len(tags))
    return " ".join(words[start:end])


def _sentences(random: np.random.Generator, templates: Sequence[str], count: int, *, unseen: bool) -> pl.DataFrame:
    made = [sentence(random, templates[int(random.integers(len(templates)))], unseen=unseen) for _ in range(count)]
    return pl.DataFrame(
        {
            "text": [" ".join(words) for words, _ in made],
            "tags": [" ".join(tags) for _, tags in made],
            "about": [first_name(words, tags) for words, tags in made],
        }
    )


def write(source: Path, target: Path, *, seed: int) -> World:
    """Three departments with 600, 200 and 120 sentences for learning; ``source`` is not read."""
    departments = {}
    for at, (name, templates) in enumerate(_TEMPLATES.items()):
        random = np.random.default_rng([0x74616773, seed, at])
        write_parquet(target / f"{name}-learn.parquet", _sentences(random, templates, LEARN[name], unseen=False))
        write_parquet(target / f"{name}-test.parquet", _sentences(random, templates, TEST, unseen=True))
        departments[name] = section(
            target,
            name,
            suffix=".parquet",
            target_column="tags",
            task={"kind": "tagging"},
            features=[{"column": "text", "kind": "tokens"}],
            split={"kind": "grouped", "column": "about", "validation": 0.25, "seed": seed},
        )
    charter = {
        "rounds": 12,
        "method": {
            "name": "fedper",
            "options": {"backbone_epochs": 2, "fine_tune_head_epochs": 2, "fine_tune_epochs": 4},
        },
        "training": {"batch": 32, "optimizer": "adam", "learning_rate": 0.005},
        "backbone": {"family": "transformer", "vocabulary": VOCABULARY, "length": LENGTH, "width": 32, "layers": 1},
    }
    return World(departments, charter, "three departments find names in sentences (made from templates)")


DATASET = Dataset("tags", "", "names in sentences, made from templates", {"templates": write})
