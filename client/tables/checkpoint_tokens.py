"""A text column as the token ids of a pretrained encoder: its own tokenizer's, from this machine's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.part import Arrays
from commonroot.common.backbone import PretrainedSpec


@dataclass(frozen=True, slots=True)
class CheckpointTokens:
    """The ids of ``client/backbones/pretrained``: one more than the tokenizer's, 0 is padding.

    spec  which checkpoint, with the hashes of its files
    """

    kind: ClassVar[str] = "checkpoint"

    column: str
    spec: PretrainedSpec

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def names(self) -> tuple[str, ...]:
        return (f"{self.column} tokens",)

    def kinds(self) -> dict[str, str]:
        return {self.column: "text"}

    def encode(self, frame: pl.DataFrame, folder: Path) -> NDArray[np.int32]:
        """Raises BackboneMissing or BackboneMismatch where the checkpoint is not here or not the charter's."""
        from commonroot.client.backbones.pretrained import tokenize  # torch takes its time to load

        series = frame[self.column]
        if not len(series):
            return np.zeros((0, *self.spec.input.shape), dtype=np.int32)
        return tokenize(self.spec, series.cast(pl.String).fill_null("").to_list())

    def to_json(self) -> dict[str, Any]:
        return {"column": self.column, "spec": self.spec.model_dump(mode="json")}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: Arrays) -> Self:
        return cls(str(record["column"]), PretrainedSpec.model_validate(record["spec"]))
