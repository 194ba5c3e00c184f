"""Networks as arrays: what a plan leaves behind, what a department keeps, and how both become a network again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.model import (
    SHIFT,
    DepartmentModel,
    evaluate,
    initial_adapter,
    initial_head,
)
from commonroot.client.tasks import Task
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft
from commonroot.strategies.base import PLAIN, Form

#: What a department keeps between rounds: ``head/weight``, ``head/bias``, ``adapter/…`` where there is one, and by the
#: method ``head/shift``, ``norm/…`` and ``twin/…``; after training with momentum ``optimizer/head``, that of what moves
#: with the head.
Private = dict[str, NDArray[np.float32]]
HEAD_MOMENTUM: Final = "optimizer/head"


@dataclass(frozen=True, slots=True)
class Net:
    """A trained network as arrays: ``backbone`` by the names of the charter, ``head`` with ``weight`` and ``bias``.

    adapter    with ``weight`` and ``bias`` where the charter has one; private tensors of the backbone by their names
    per_token  the head labels tokens
    """

    backbone: dict[str, NDArray[np.float32]] = field(repr=False)
    head: dict[str, NDArray[np.float32]] = field(repr=False)
    adapter: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    per_token: bool = False

    @property
    def private(self) -> Private:
        """``head/…`` and ``adapter/…``: the part that a department keeps to itself."""
        return under("head", self.head) | under("adapter", self.adapter)


def exported(model: DepartmentModel) -> Net:
    """A copy of a network, its heads put together to one."""
    return Net(model.export_backbone(), model.export_head(), model.export_adapter(), model.per_token)


def loaded(draft: Draft, task: Task, net: Net, columns: int | None) -> DepartmentModel:
    """A network of the plain form."""
    model = DepartmentModel(draft.network, task.outputs, columns=columns, per_token=net.per_token)
    model.load(net.backbone, net.head, net.adapter)
    return model


def first_private(draft: Draft, task: Task, *, secret: int, columns: int | None, form: Form = PLAIN) -> Private:
    """A department's own part before the first round: a head of its own seed unless that is shared, norms that change
    nothing, no bias.

    Raises ConfigError where an adapter's columns are not known.
    """
    spec, seed = draft.network, draft.training.seed
    head = {} if form.head else under("head", initial_head(spec, task.outputs, secret))
    return head | under("adapter", initial_adapter(spec, columns, seed)) | _untrained(spec, form)


def with_missing(
    spec: BackboneSpec, form: Form, received: Mapping[str, NDArray[Any]], private: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Private state with what the form has and it lacks: norms of a backbone that came whole, or as before training."""
    norms = {f"norm/{name}": received[name] for name in form.norms if name in received}
    return {**_untrained(spec, form), **norms, **private}


def _untrained(spec: BackboneSpec, form: Form) -> Private:
    found: Private = {SHIFT: np.zeros(spec.outputs, dtype=np.float32)} if form.shift else {}
    for name, shape in spec.shapes():
        if name in form.norms:
            found[f"norm/{name}"] = np.full(shape, float(name.endswith("gain")), dtype=np.float32)
    return found


def whole_backbone(
    spec: BackboneSpec, received: Mapping[str, NDArray[Any]], private: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The backbone of a broadcast, with the norms that a department has for itself."""
    own = part("norm", private)
    return {name: np.asarray(own[name] if name in own else received[name]) for name, _ in spec.shapes()}


def represent(
    draft: Draft,
    backbone: Mapping[str, NDArray[Any]],
    x: NDArray[Any],
    private: Mapping[str, NDArray[Any]] | None = None,
    *,
    tokens: bool = False,
) -> NDArray[np.float32]:
    """What the backbone makes of rows: (n, …) to (n, outputs) float32, or (n, length, outputs) of ``tokens``.

    private  as a department keeps it; its ``adapter/…`` is used where the charter has one, and its ``norm/…``
    """
    spec, private = draft.network, private or {}
    model = DepartmentModel(spec, 1, columns=x.shape[-1], per_token=tokens)
    model.load(whole_backbone(spec, backbone, private), initial_head(spec, 1, 0), part("adapter", private))
    return evaluate(model, x, representation=True)


def under(part: str, arrays: Mapping[str, NDArray[np.float32]]) -> Private:
    """``NAME`` as ``part/NAME``."""
    return {f"{part}/{name}": array for name, array in arrays.items()}


def part(name: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The inverse: what stands under ``name/``, without that."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
