"""A department's network: its own adapter where the charter has one, the shared backbone, and its own linear head.

    rows (n, columns) → adapter → (n, …input) → backbone → representation (n, spec.outputs) → head → (n, outputs)

While it is trained it may be of a richer ``Form``: o = G(z) + H(z + β), with the head G of a family and a private bias
β.  All of that is one linear map of z, which is what ``export_head`` gives and what is stored.

A head that labels tokens reads a representation of each: (n, length, spec.outputs) to (n, length, outputs).  The
backbone's parameters carry exactly the names and shapes of ``BackboneSpec.shapes``; everything in and out is a NumPy
array by name, so nothing outside this file, ``steps`` and ``trainer`` needs torch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from commonroot.client.accelerator import PROCESSOR, where
from commonroot.client.backbones import build, fill, named
from commonroot.client.backbones.parts import linear
from commonroot.client.vectors import Vector
from commonroot.common.backbone import (
    BackboneSpec,
    MlpSpec,
    NgramsSpec,
    RescnnSpec,
    ResmlpSpec,
    RowInput,
    TcnSpec,
    TokenInput,
    TransformerSpec,
)
from commonroot.common.errors import ConfigError, DataError
from commonroot.strategies.base import PLAIN, Form
from commonroot.strategies.families import family_tensors
from commonroot.strategies.fedavg import COMMON_HEAD

Arrays = dict[str, NDArray[np.float32]]
#: What never leaves, by name: ``head/weight``, ``head/bias``, ``head/shift`` (β), ``adapter/…``, ``norm/…``.
HEAD: Final = ("weight", "bias")
SHIFT: Final = "head/shift"
#: Rows are evaluated in blocks of at most this many …
MOST_ROWS: Final = 4096
#: … and of about this many values inside the network, so that memory stays bounded however many rows there are.
MOST_VALUES: Final = 1 << 22


class DepartmentModel(nn.Module):
    """Adapter, backbone and head.  Parameters are whatever memory held until ``load``.

    columns    of this department's rows; needed where the charter's backbone has an adapter
    per_token  the head labels tokens
    form       what it has besides; which parts are shared

    Raises ConfigError where the task does not fit the backbone; what ``backbones.build`` raises.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        outputs: int,
        *,
        columns: int | None = None,
        per_token: bool = False,
        form: Form = PLAIN,
    ) -> None:
        super().__init__()
        spec.check_heads(per_token=per_token)
        self.spec = spec
        self.per_token = per_token
        self.form = form
        self.backbone = build(spec)
        self.adapter = linear(adapter_columns(spec, columns), spec.input.shape[0]) if spec.adapter else None
        self.head = linear(spec.outputs, outputs)
        self.shift = nn.Parameter(torch.empty(spec.outputs)) if form.shift else None
        self.family = linear(spec.outputs, outputs) if form.family is not None else None
        self._shape = None if spec.adapter else spec.input.shape
        self.device = where()
        if self.device != PROCESSOR:
            self.to(self.device)
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        """(n, …) to (n, outputs), or (n, length, outputs) of tokens."""
        return self.read(self.represent(rows))

    def read(self, represented: Tensor) -> Tensor:
        """(…, spec.outputs) to (…, outputs): the heads alone."""
        out: Tensor = self.head(represented if self.shift is None else represented + self.shift)
        return out if self.family is None else out + self.family(represented)

    def represent(self, rows: Tensor) -> Tensor:
        """(n, …) to (n, spec.outputs), or (n, length, spec.outputs) of tokens.  Flat rows are taken in C order."""
        if self.adapter is not None:
            rows = self.adapter(rows)
        elif self._shape is not None and len(self._shape) > 1 and rows.dim() == 2:
            rows = rows.reshape(len(rows), *self._shape)
        out: Tensor = self.backbone.tokens(rows) if self.per_token else self.backbone(rows)  # type: ignore[operator]
        return out

    @cached_property
    def shared(self) -> Mapping[str, nn.Parameter]:
        """What is averaged, by its name in the broadcast: the backbone but for private norms, and shared heads."""
        found = {name: tensor for name, tensor in self._backbone.items() if name not in self.form.norms}
        if self.form.head:
            found |= {there: getattr(self.head, name) for there, name in zip(COMMON_HEAD, HEAD, strict=True)}
        if self.family is not None and self.form.family is not None:
            names = family_tensors(self.form.family)
            found |= {there: getattr(self.family, name) for there, name in zip(names, HEAD, strict=True)}
        return found

    @cached_property
    def private(self) -> Mapping[str, nn.Parameter]:
        """``head/…``, ``adapter/…`` and ``norm/…``: everything else that is trained."""
        found = {} if self.form.head else {f"head/{name}": getattr(self.head, name) for name in HEAD}
        if self.shift is not None:
            found[SHIFT] = self.shift
        found |= {f"adapter/{name}": tensor for name, tensor in self._adapter.items()}
        return found | {f"norm/{name}": self._backbone[name] for name in sorted(self.form.norms)}

    @cached_property
    def shared_vector(self) -> Vector:
        """What is averaged, as one vector: made once, and filled by ``take`` and ``load``."""
        return Vector(self.shared)

    @cached_property
    def private_vector(self) -> Vector:
        """The same of what is private."""
        return Vector(self.private)

    @cached_property
    def _backbone(self) -> Mapping[str, nn.Parameter]:
        """The backbone's tensors that a charter lists, in packing order."""
        return named(self.backbone, tuple(name for name, _ in self.spec.shapes()))

    @cached_property
    def _adapter(self) -> Mapping[str, nn.Parameter]:
        found = {} if self.adapter is None else {name: getattr(self.adapter, name) for name in HEAD}
        return found | named(self.backbone, tuple(name for name, _ in self.spec.private_shapes()))

    def take(self, shared: Mapping[str, NDArray[Any]], private: Mapping[str, NDArray[Any]]) -> None:
        """Take over what ``shared`` and ``private`` list.  Raises ManifestError as ``load`` does."""
        fill(self.shared, shared, what="broadcast")
        fill(self.private, private, what="private state")

    def load(
        self,
        backbone: Mapping[str, NDArray[Any]],
        head: Mapping[str, NDArray[Any]],
        adapter: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Take over a backbone (names of ``BackboneSpec.shapes``), a head (``weight``, ``bias``) and an adapter.

        Raises ManifestError for a missing tensor or one of another shape.
        """
        fill(self._backbone, backbone, what="backbone")
        fill({name: getattr(self.head, name) for name in HEAD}, head, what="head")
        fill(self._adapter, adapter or {}, what="adapter")

    def export_backbone(self) -> Arrays:
        """A copy of the backbone by the names of ``BackboneSpec.shapes``."""
        return _copy(self._backbone)

    def export_head(self) -> Arrays:
        """One linear head for all heads together: ``weight`` (outputs, spec.outputs) and ``bias`` (outputs,).

        G(z) + H(z + β) = (W_G + W_H) z + (b_G + b_H + W_H β), the last product in float64.
        """
        out = _copy({name: getattr(self.head, name) for name in HEAD})
        if self.shift is not None:
            moved = out["weight"].astype(np.float64) @ self.shift.detach().cpu().numpy().astype(np.float64)
            out["bias"] = (out["bias"] + moved).astype(np.float32)
        if self.family is not None:
            out = {name: out[name] + getattr(self.family, name).detach().cpu().numpy() for name in HEAD}
        return out

    def export_adapter(self) -> Arrays:
        """A copy of the adapter: ``weight`` (input width, columns), ``bias``, and private tensors of the backbone."""
        return _copy(self._adapter)

    def export_shared(self) -> Arrays:
        """A copy of ``shared``."""
        return _copy(self.shared)

    def export_private(self) -> Arrays:
        """A copy of ``private``."""
        return _copy(self.private)


#: Families whose networks hold nothing but what ``take`` fills, so that one can serve again.
_REUSED: Final = (MlpSpec, ResmlpSpec, NgramsSpec, TransformerSpec, TcnSpec, RescnnSpec)


def workbench(
    spec: BackboneSpec, outputs: int, columns: int | None, per_token: bool, form: Form, place: int
) -> DepartmentModel:
    """A network to train on, the same one whenever the same is asked for in this thread: making one takes longer than
    some of its rounds.  Its parameters are what the last user left.

    place  tells networks apart that are needed at the same time

    Raises as ``DepartmentModel`` does.
    """
    if isinstance(spec, _REUSED):
        return _bench(spec, outputs, columns, per_token, form, place, where(), threading.get_ident())
    return DepartmentModel(spec, outputs, columns=columns, per_token=per_token, form=form)


@lru_cache(maxsize=16)
def _bench(
    spec: BackboneSpec,
    outputs: int,
    columns: int | None,
    per_token: bool,
    form: Form,
    place: int,
    device: torch.device,
    thread: int,
) -> DepartmentModel:
    del place, device, thread
    return DepartmentModel(spec, outputs, columns=columns, per_token=per_token, form=form)


def adapter_columns(spec: BackboneSpec, columns: int | None) -> int:
    """How many columns an adapter reads.  Raises ConfigError where nobody says."""
    if columns is None:
        raise ConfigError(f"a backbone of family {spec.family!r} with an adapter needs to know the rows' columns")
    return columns


def initial_head(spec: BackboneSpec, outputs: int, seed: int) -> Arrays:
    """A head from a private seed: weights uniform in ±1/√inputs, bias zero."""
    random = np.random.default_rng([0x68656164, seed])
    limit = spec.outputs**-0.5
    weight = random.uniform(-limit, limit, size=(outputs, spec.outputs)).astype(np.float32)
    return {"weight": weight, "bias": np.zeros(outputs, dtype=np.float32)}


def initial_adapter(spec: BackboneSpec, columns: int | None, seed: int) -> Arrays:
    """What a department's own tensors in front of and inside the backbone begin with; empty where there are none.

    As many columns as the backbone reads are passed through as they are.  Others are mixed so that standardised columns
    keep their size, by the charter's seed: departments whose columns are the same begin with the same mixture.
    """
    arrays = {name: np.zeros(shape, dtype=np.float32) for name, shape in spec.private_shapes()}
    if not spec.adapter:
        return arrays
    columns, width = adapter_columns(spec, columns), spec.input.shape[0]
    random = np.random.default_rng([0x61646170, seed, columns])
    limit = math.sqrt(3.0 / columns)
    mixing = np.eye(width) if columns == width else random.uniform(-limit, limit, size=(width, columns))
    return arrays | {"weight": mixing.astype(np.float32), "bias": np.zeros(width, dtype=np.float32)}


def check_rows(spec: BackboneSpec, x: NDArray[Any]) -> None:
    """Raise DataError where rows are not of the shape or type that the backbone reads."""
    expected = spec.input
    if isinstance(expected, TokenInput) != (x.dtype.kind in "iu"):
        found = "whole numbers" if x.dtype.kind in "iu" else f"{x.dtype} values"
        raise DataError(
            f"the backbone ({spec.family}) reads {expected.kind}s of {expected.dtype}; the rows hold {found}"
        )
    fits = x.ndim == 2 if spec.adapter else math.prod(x.shape[1:]) == math.prod(expected.shape)
    if not fits or (isinstance(expected, RowInput | TokenInput) and x.ndim != 2):
        shape = "any number of columns" if spec.adapter else f"shape {expected.shape}"
        raise DataError(f"the backbone ({spec.family}) reads {expected.kind}s of {shape}; the rows have {x.shape[1:]}")


def as_batch(spec: BackboneSpec, x: NDArray[Any]) -> Tensor:
    """A few rows as a tensor that may be written to.  Raises DataError for token ids beyond the vocabulary."""
    found = np.asarray(x, dtype=spec.input.dtype)
    if isinstance(spec.input, TokenInput) and found.size:
        least, most = int(found.min()), int(found.max())
        if least < 0 or most >= spec.input.vocabulary:
            outside = least if least < 0 else most
            raise DataError(f"token id {outside} is outside the backbone's vocabulary of {spec.input.vocabulary}")
    return torch.from_numpy(found if found.flags.writeable else found.copy())


def block_rows(spec: BackboneSpec) -> int:
    """How many rows are evaluated at a time."""
    values = math.prod(spec.input.shape) * (1 if isinstance(spec.input, RowInput) else max(8, spec.outputs))
    return max(1, min(MOST_ROWS, MOST_VALUES // values))


def evaluate(model: DepartmentModel, x: NDArray[Any], *, representation: bool = False) -> NDArray[np.float32]:
    """Head outputs of rows, or their representation, by blocks.  Raises as ``check_rows`` and ``as_batch`` do."""
    check_rows(model.spec, x)
    size = block_rows(model.spec)
    what = model.represent if representation else model
    with torch.inference_mode():
        rows = (as_batch(model.spec, x[at : at + size]) for at in range(0, max(len(x), 1), size))
        blocks = [what(block.to(model.device)).cpu().numpy() for block in rows]
    return np.concatenate(blocks).astype(np.float32, copy=False)


def _copy(parameters: Mapping[str, nn.Parameter]) -> Arrays:
    return {name: np.array(parameter.detach().cpu().numpy()) for name, parameter in parameters.items()}
