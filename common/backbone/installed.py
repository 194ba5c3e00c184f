"""A backbone of one's own, from a package that every department has installed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from commonroot.common.backbone.inputs import Input
from commonroot.common.backbone.spec import BackboneSpec, Shapes, checked_shapes


class InstalledSpec(BackboneSpec):
    """Code that departments find under the entry point group ``commonroot.backbones``; no code is ever sent.

    The charter lists the tensors, so the coordinator needs neither the package nor torch, and a department whose
    package has other tensors refuses (``client/backbones/installed.py`` says what the entry point must give).  Names
    that end in ``bias`` or ``shift`` start at zero, in ``gain`` at one, all others as in ``BackboneSpec.spread``.

    name       of the entry point
    version    that the package must have; any where empty
    reads      what the backbone reads, for example ``{ kind = "row", width = 12 }``
    width      of the representation
    tensors    ``[["layer.weight", [16, 12]], …]``, in packing order
    per_token  whether it also represents single tokens
    options    handed to the package as they are
    """

    family: Literal["installed"] = "installed"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    version: Annotated[str, Field(max_length=64)] = ""
    reads: Input
    width: Annotated[int, Field(ge=1, le=1_000_000)]
    tensors: Annotated[Shapes, Field(min_length=1), AfterValidator(checked_shapes)]
    per_token: bool = False
    options: Annotated[dict[str, bool | int | float | str], Field(default_factory=dict)]

    @property
    def input(self) -> Input:
        """``reads``."""
        return self.reads

    @property
    def outputs(self) -> int:
        """``width``."""
        return self.width

    @property
    def reads_tokens(self) -> bool:
        """``per_token``."""
        return self.per_token

    def shapes(self) -> Shapes:
        """``tensors``."""
        return self.tensors
