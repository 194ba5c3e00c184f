"""What a dataset offers: a writer of departments' tables and the charter that its protocol asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import platformdirs

from commonroot.common.errors import ConfigError

#: A department's ``[data]`` section as it would stand in its ``department.toml``; paths are absolute.
Section = dict[str, Any]


@dataclass(frozen=True, slots=True)
class World:
    """A federation of real tables, written and ready to be simulated or deployed.

    departments  name → ``[data]`` section
    charter      the fields of a charter (``rounds``, ``method``, ``backbone`` …) without federation and name
    about        what the departments are and what they predict, in one sentence
    """

    departments: Mapping[str, Section] = field(repr=False)
    charter: Mapping[str, Any] = field(repr=False)
    about: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """One published dataset.

    folder     its folder below the place where data lies
    protocols  ways to ask it, by name; the first is the usual one
    """

    name: str
    folder: str
    about: str
    protocols: Mapping[str, Callable[..., World]]

    def write(self, source: Path, target: Path, *, seed: int, protocol: str | None = None) -> World:
        """Write the departments' tables of a protocol into ``target``.

        source  the dataset's own folder, as ``find`` returns it
        seed    of the split; the same seed gives the same files

        Raises ConfigError for an unknown protocol or where published files are missing.
        """
        chosen = next(iter(self.protocols)) if protocol is None else protocol
        if chosen not in self.protocols:
            raise ConfigError(f"{self.name} has no protocol {chosen!r}", hint=f"known: {', '.join(self.protocols)}")
        target.mkdir(parents=True, exist_ok=True)
        try:
            return self.protocols[chosen](source, target, seed=seed)
        except FileNotFoundError as error:
            # Polars tells the path in its message alone
            missing = Path(error.filename or str(error).rpartition(": ")[2]).name
            raise ConfigError(f"{source} lacks {missing}", hint=f"commonroot download {self.name}") from error


#: Name → module with a ``DATASET``; imported only when asked for.
DATASETS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "clothing": "commonroot.simulations.datasets.clothing",
        "digit-images": "commonroot.simulations.datasets.digit_images",
        "digits": "commonroot.simulations.datasets.digits",
        "engines": "commonroot.simulations.datasets.engines",
        "films": "commonroot.simulations.datasets.films",
        "heart": "commonroot.simulations.datasets.heart",
        "office": "commonroot.simulations.datasets.office",
        "sales": "commonroot.simulations.datasets.sales",
        "school": "commonroot.simulations.datasets.school",
        "sentiment": "commonroot.simulations.datasets.sentiment",
        "stars": "commonroot.simulations.datasets.stars",
        "tags": "commonroot.simulations.datasets.tags",
        "valves": "commonroot.simulations.datasets.valves",
    }
)


def get(name: str) -> Dataset:
    """A dataset by name.  Raises ConfigError."""
    if name not in DATASETS:
        raise ConfigError(f"no dataset {name!r}", hint=f"known: {', '.join(DATASETS)}")
    found: Dataset = import_module(DATASETS[name]).DATASET
    return found


def downloads() -> Path:
    """Where downloads go when nobody says."""
    return Path(platformdirs.user_data_dir("commonroot")) / "data"


def find(folder: str, data: Path | None = None) -> Path | None:
    """Where a dataset's files lie: in ``data``, in $COMMONROOT_DATA, among the downloads, or nowhere."""
    named = os.environ.get("COMMONROOT_DATA")
    for place in (data, Path(named) if named else None, downloads()):
        if place is not None and (place / folder).is_dir():
            return place / folder
    return None
