"""``kind = "dataset"``: the departments of a published dataset, as ``simulations.datasets`` makes them.

[world]
kind = "dataset"
name = "films"
protocol = "occupations"           # the dataset's usual one where not given
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from commonroot.client.data import DataConfig
from commonroot.common.errors import ConfigError
from commonroot.simulations.datasets import find, get


class Published(BaseModel):
    """A published dataset.

    name      as ``commonroot download`` lists it
    protocol  a way to ask it, as ``commonroot bench transfer`` names it
    data      a folder where published data lies, relative to the scenario; beside it $COMMONROOT_DATA and downloads are
              looked at
    seed      of the split; the scenario's own where not given
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dataset"]
    name: str
    protocol: Annotated[str | None, Field(validate_default=True)] = None
    data: Path | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            get(name)
        except ConfigError as error:
            raise ValueError(f"{error}; {error.advice}") from error
        return name

    @field_validator("protocol")
    @classmethod
    def _of_it(cls, protocol: str | None, info: ValidationInfo) -> str | None:
        if "name" in info.data:
            known = tuple(get(info.data["name"]).protocols)
            if protocol is not None and protocol not in known:
                raise ValueError(f"{info.data['name']} has no protocol {protocol!r}; known: {', '.join(known)}")
        return protocol

    @property
    def names(self) -> tuple[str, ...]:
        """None: only the dataset knows them."""
        return ()

    def write(self, folder: Path, *, seed: int, beside: Path, data: Path | None = None) -> dict[str, DataConfig]:
        """As ``Parts.write``; ``data`` comes before the section's own folder."""
        dataset = get(self.name)
        own = None if self.data is None else beside / self.data
        source = find(dataset.folder, data or own) if dataset.folder else folder
        if source is None:
            raise ConfigError(
                f"world.name: the files of {self.name!r} are not on this machine",
                hint=f"commonroot download {self.name}",
            )
        world = dataset.write(source, folder, seed=seed if self.seed is None else self.seed, protocol=self.protocol)
        return {name: DataConfig.model_validate(section) for name, section in world.departments.items()}
