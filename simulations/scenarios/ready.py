"""The scenarios that come with the program, by what their files say."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path

from commonroot.common.charter import model_from_toml
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write, storage_errors
from commonroot.simulations.datasets import find as find_data
from commonroot.simulations.datasets import get
from commonroot.simulations.datasets.download import published
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.worlds import Published


@dataclass(frozen=True, slots=True)
class Ready:
    """One scenario.

    name      of its file
    shows     in one sentence
    text      the file
    download  the dataset that has to be fetched first, or None
    folder    of that dataset, below the place where data lies
    """

    name: str
    shows: str
    text: str = field(repr=False)
    download: str | None
    folder: str | None

    @property
    def there(self) -> bool:
        """Whether its data is on this machine."""
        return self.folder is None or find_data(self.folder) is not None

    def write(self, path: Path) -> Path:
        """As a file of the user's own, or NAME.toml in a folder; the file.

        Raises ConfigError where there is one already.
        """
        if path.is_dir():
            path = path / f"{self.name}.toml"
        if path.exists():
            raise ConfigError(f"{path} exists", hint="name another file")
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, self.text.encode())
        return path


def ready() -> list[Ready]:
    """Every scenario, by name."""
    here = resources("commonroot.simulations.scenarios")
    names = sorted(entry.name for entry in here.iterdir() if entry.name.endswith(".toml"))
    return [_read(name.removesuffix(".toml"), here.joinpath(name).read_text(encoding="utf-8")) for name in names]


def find(name: str) -> Ready:
    """A scenario by name.  Raises ConfigError."""
    known = {one.name: one for one in ready()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ConfigError(f"no scenario {name!r}", hint=hint)
    return known[name]


def _read(name: str, text: str) -> Ready:
    first = text.split("\n#\n")[0]
    shows = " ".join(line.removeprefix("#").strip() for line in first.splitlines()).partition(": ")[2].removesuffix(".")
    world = model_from_toml(Scenario, text, path=f"{name}.toml").world
    folder = get(world.name).folder if isinstance(world, Published) else ""
    needs = world.name if isinstance(world, Published) and folder in published() else None
    return Ready(name, shows, text, needs, folder or None)
