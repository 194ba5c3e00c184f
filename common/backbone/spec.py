"""What every family of backbones says of itself: what it reads, which tensors it has, and their first values.

No torch here, so the coordinator needs none: it handles tensors by name and shape, and every department builds the same
network around them from installed code (``client/backbones``).  A family is a subclass with a literal ``family``; it is
known by that name as soon as its module is imported, which ``commonroot.common.backbone`` does for all of them.
"""

from __future__ import annotations

import difflib
import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, model_validator
from pydantic_core import PydanticCustomError

from commonroot.common.backbone.inputs import Input, RowInput
from commonroot.common.errors import ConfigError, ManifestError
from commonroot.common.manifest import Term

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
FloatArrays = dict[str, NDArray[np.float32]]

#: What a charter means that names no family.
USUAL = "mlp"
_FAMILIES: dict[str, type[BackboneSpec]] = {}


class BackboneSpec(BaseModel):
    """A backbone of whichever family ``family`` names; validating or calling this class gives one of its subclasses.

    adapter  every department puts a private linear map from its own columns in front of the backbone, so departments
             may have different columns; for backbones that read rows
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str = USUAL
    adapter: bool = False

    def __new__(cls, **fields: Any) -> Self:
        """``BackboneSpec(family="mlp", …)`` is an ``MlpSpec``."""
        made = super().__new__(_family_of(fields) if cls is BackboneSpec else cls)
        return cast(Self, made)

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        _FAMILIES[str(cls.model_fields["family"].default)] = cls

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_family(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if cls is not BackboneSpec or not isinstance(value, dict):
            return value if isinstance(value, cls) else handler(value)
        return cast(Self, _family_of(value).model_validate(value))

    @model_validator(mode="after")
    def _reads_what_it_can(self) -> Self:
        if self.adapter and not isinstance(self.input, RowInput):
            raise ValueError(f"family {self.family!r} does not read rows, so it can have no adapter")
        return self

    @property
    @abstractmethod
    def input(self) -> Input:
        """What it reads."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Width of the representation that heads read."""

    @property
    def reads_tokens(self) -> bool:
        """Whether it also has a representation of every token, for heads that label tokens."""
        return False

    @abstractmethod
    def shapes(self) -> Shapes:
        """Every shared tensor by name, in packing order."""

    def private_shapes(self) -> Shapes:
        """Tensors inside the backbone that each department trains for itself and never sends; they start at zero."""
        return ()

    def parameters(self) -> int:
        """Number of shared parameters."""
        return sum(math.prod(shape) for _, shape in self.shapes())

    def spread(self, name: str, shape: tuple[int, ...]) -> tuple[float, int]:
        """(v, fan): the first values of a weight have variance v/fan.

        He, Zhang, Ren, Sun, 2015, arXiv:1502.01852: v = 2 before a ReLU keeps the size of what passes through, fan
        being the number of values that are summed; here of a matrix (out, in) or a kernel (out, in, …).
        """
        return 2.0, math.prod(shape[1:])

    def initial(self, seed: int) -> FloatArrays:
        """The weights of version 0, the same on every machine and for every numpy: uniform, from raw PCG64 output.

        Biases and shifts start at zero, gains at one.
        """
        return draw(self, self.shapes(), seed)

    def check_heads(self, *, per_token: bool) -> None:
        """Raise ConfigError where a task's head cannot stand on this backbone."""
        if per_token and not self.reads_tokens:
            raise ConfigError(
                f"this task labels single tokens, and a backbone of family {self.family!r} has no outputs for them",
                hint=f"families that have: {', '.join(sorted(TOKEN_FAMILIES))}",
            )


#: Families that may stand under a head that labels tokens.
TOKEN_FAMILIES = frozenset({"ngrams", "transformer", "pretrained", "installed"})


def families() -> dict[str, type[BackboneSpec]]:
    """Every family by name."""
    return dict(_FAMILIES)


def draw(spec: BackboneSpec, shapes: Iterable[tuple[str, tuple[int, ...]]], seed: int) -> FloatArrays:
    """First values for tensors by the rules of ``BackboneSpec.initial``."""
    raw = np.random.PCG64(np.random.SeedSequence([0x636F6D6D6F6E, seed]))
    arrays: FloatArrays = {}
    for name, shape in shapes:
        last = name.rpartition(".")[2]
        if last in ("bias", "shift", "gain"):
            arrays[name] = np.full(shape, 1.0 if last == "gain" else 0.0, dtype=np.float32)
            continue
        variance, fan = spec.spread(name, shape)
        if variance == 0.0:
            arrays[name] = np.zeros(shape, dtype=np.float32)
            continue
        unit = (raw.random_raw(math.prod(shape)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        values = (2.0 * unit - 1.0) * math.sqrt(3.0 * variance) / math.sqrt(fan)
        arrays[name] = values.astype(np.float32).reshape(shape)
    return arrays


def checked_shapes(shapes: Shapes) -> Shapes:
    """Tensors that a person listed, where every one may leave a department; ValueError says which may not."""
    names = [name for name, _ in shapes]
    if len(set(names)) != len(names):
        raise ValueError("a tensor is listed twice")
    for name, shape in shapes:
        try:
            Term(name, shape, "fixed16", 1.0)
        except ManifestError as error:
            raise ValueError(str(error).replace("term", "tensor", 1)) from error
    return shapes


def _family_of(fields: dict[str, Any]) -> type[BackboneSpec]:
    name = fields.get("family", USUAL)
    found = _FAMILIES.get(name) if isinstance(name, str) else None
    if found is None:
        close = difflib.get_close_matches(str(name), _FAMILIES, n=1)
        nearest = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(_FAMILIES))}"
        raise PydanticCustomError(
            "family", "no backbone family {name}; {nearest}", {"name": repr(name), "nearest": nearest}
        )
    return found
