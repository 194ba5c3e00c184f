"""Named terms and one flat vector: what may leave a department, and in which lane each number travels.

A *term* is a named tensor with a shape, a lane type and a bound.  The *manifest* of a federation lists every term that
may ever be sent; a name that is not in it, or that is private by its nature, cannot be packed.  Two lane types:

fixed16  bulk (backbone updates): fixed point inside a bound that each round's header publishes.  The name is that of
         its smallest width; how many bits a lane really has is up to the charter (``secure_sum.lanes``)
fixed64  exact quantities (weights, counts, losses, statistics): 64-bit fixed point inside the term's own bound
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from commonroot.common.errors import ManifestError
from commonroot.common.secure_sum.primitives import tagged_hash

Lane = Literal["fixed16", "fixed64"]
Arrays = Mapping[str, NDArray[np.float32]]
Values = Mapping[str, NDArray[np.floating]]
FloatArray = NDArray[np.float64]

_NAME = re.compile(r"[a-z0-9_]+([./][a-z0-9_]+)*")
#: First parts of names that belong to one department alone and are refused wherever something is about to leave.
PRIVATE = frozenset({"head", "adapter", "norm", "optimizer", "twin", "row", "rows", "guard"})


@dataclass(frozen=True, slots=True)
class Term:
    """One named tensor of the sum.

    name   lower-case parts joined by ``/`` or ``.``; the first part must not be a private one
    shape  of the tensor; ``()`` for a scalar
    lane   ``fixed16`` or ``fixed64``
    bound  every element lies in [-bound, bound]; of a fixed16 term this is the largest bound a round may publish
    """

    name: str
    shape: tuple[int, ...]
    lane: Lane
    bound: float

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ManifestError(f"term {self.name!r}: names are lower-case words joined by '/' or '.'")
        private = PRIVATE.intersection(re.split(r"[./]", self.name))
        if private:
            raise ManifestError(f"term {self.name!r}: {sorted(private)[0]!r} is private and never leaves a department")
        if any(size < 1 for size in self.shape):
            raise ManifestError(f"term {self.name!r}: every dimension must be at least 1, not {self.shape}")
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise ManifestError(f"term {self.name!r}: the bound must be a positive number, not {self.bound}")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """The terms of a federation, in the order in which they are packed."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ManifestError(f"term {twice[0]!r} is listed twice")
        if not names:
            raise ManifestError("a manifest needs at least one term")

    def lane(self, lane: Lane) -> tuple[Term, ...]:
        """The terms that travel in one lane type, in order."""
        return tuple(term for term in self.terms if term.lane == lane)

    def length(self, lane: Lane) -> int:
        """Number of elements in one lane type."""
        return sum(term.size for term in self.lane(lane))

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that name this manifest; both sides compare them."""
        rows = [[t.name, list(t.shape), t.lane, t.bound] for t in self.terms]
        return tagged_hash("manifest", json.dumps(rows, separators=(",", ":")).encode())

    def pack(self, values: Values, lane: Lane) -> FloatArray:
        """One flat float64 vector of a lane's terms.

        Raises ManifestError for a missing, unknown or private name, a wrong shape, or a value that is not finite.
        """
        self._check_names(values)
        flat = np.empty(self.length(lane), dtype=np.float64)
        at = 0
        for term in self.lane(lane):
            value = np.asarray(values[term.name])
            if value.shape != term.shape:
                raise ManifestError(f"term {term.name!r}: expected shape {term.shape}, found {value.shape}")
            if not np.isfinite(value).all():
                raise ManifestError(f"term {term.name!r} holds values that are not finite numbers")
            flat[at : at + term.size] = value.reshape(-1)
            at += term.size
        return flat

    def unpack(self, flat: FloatArray, lane: Lane) -> dict[str, FloatArray]:
        """The inverse of ``pack``: views into ``flat``, by name."""
        if flat.shape != (self.length(lane),):
            raise ManifestError(f"expected a vector of {self.length(lane)} {lane} values, found shape {flat.shape}")
        out: dict[str, FloatArray] = {}
        at = 0
        for term in self.lane(lane):
            out[term.name] = flat[at : at + term.size].reshape(term.shape)
            at += term.size
        return out

    def _check_names(self, values: Values) -> None:
        known = {term.name for term in self.terms}
        for name in values:
            if name not in known:
                raise ManifestError(f"{name!r} is not in the manifest, so it may not be sent")
        missing = [term.name for term in self.terms if term.name not in values]
        if missing:
            raise ManifestError(f"term {missing[0]!r} is missing")


def flatten(arrays: Arrays, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> bytes:
    """A broadcast: float32, little endian, in the order of ``shapes``.  Raises ManifestError where they do not fit."""
    parts = []
    for name, shape in shapes:
        if name not in arrays:
            raise ManifestError(f"tensor {name!r} is missing")
        array = arrays[name]
        if array.shape != tuple(shape):
            raise ManifestError(f"tensor {name!r}: expected shape {tuple(shape)}, found {array.shape}")
        parts.append(np.ascontiguousarray(array, dtype="<f4").reshape(-1).view(np.uint8).data)
    return b"".join(parts)  # one copy, whatever the number of tensors


def unflatten(
    data: bytes | bytearray | memoryview, shapes: Iterable[tuple[str, tuple[int, ...]]], *, own: bool = False
) -> dict[str, NDArray[np.float32]]:
    """The inverse of ``flatten``: fresh arrays by name.  Raises ManifestError for a wrong length or a non-number.

    own  ``data`` belongs to the caller, who leaves it alone from now on: the arrays lie in it, and nothing is copied
    """
    shapes = [(name, tuple(shape)) for name, shape in shapes]
    expected = 4 * sum(math.prod(shape) for _, shape in shapes)
    if len(data) != expected:
        raise ManifestError(f"expected {expected} bytes of tensors, found {len(data)}")
    flat = np.frombuffer(data, dtype="<f4").astype(np.float32, copy=not own)
    if not np.isfinite(flat).all():
        raise ManifestError("the tensors hold values that are not finite numbers")
    out: dict[str, NDArray[np.float32]] = {}
    at = 0
    for name, shape in shapes:
        size = math.prod(shape)
        out[name] = flat[at : at + size].reshape(shape)
        at += size
    return out
