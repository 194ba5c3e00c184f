"""``kind = "digits"``: the five departments of the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from commonroot.client.data import DataConfig
from commonroot.simulations import digits


class Five(BaseModel):
    """Five departments made from scikit-learn's handwritten digits, with four kinds of task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["digits"]

    @property
    def names(self) -> tuple[str, ...]:
        """In order."""
        return tuple(share.name for share in digits.SHARES)

    def write(self, folder: Path, *, seed: int, beside: Path, data: Path | None = None) -> dict[str, DataConfig]:
        """As ``Parts.write``; nothing is looked for."""
        return digits.write_departments(folder, seed=seed)
