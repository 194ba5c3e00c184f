"""A department's network: the shared backbone that the charter names, and a private linear head on top of it.

    rows (n, inputs) → backbone → representation (n, widths[-1]) → head → outputs (n, task.outputs)

The backbone's parameters carry exactly the names and shapes of ``BackboneSpec.shapes``; everything in and out is a
NumPy array by name, so nothing outside this file and ``trainer`` needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from commonroot.common.backbone import BackboneSpec
from commonroot.common.errors import ManifestError

Arrays = dict[str, NDArray[np.float32]]


class Backbone(nn.Module):
    """Linear, activation, Linear, activation …"""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        sizes = (spec.inputs, *spec.widths)
        self.layers = nn.ModuleList(_empty_linear(sizes[at], sizes[at + 1]) for at in range(len(spec.widths)))
        self.activation = torch.relu if spec.activation == "relu" else torch.tanh

    def forward(self, rows: Tensor) -> Tensor:
        """(n, inputs) to (n, widths[-1])."""
        for layer in self.layers:
            rows = self.activation(layer(rows))
        return rows


class DepartmentModel(nn.Module):
    """Backbone and head.  Parameters are whatever memory held until ``load``."""

    def __init__(self, spec: BackboneSpec, outputs: int) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = Backbone(spec)
        self.head = _empty_linear(spec.outputs, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        out: Tensor = self.head(self.backbone(rows))
        return out

    def load(self, backbone: Mapping[str, NDArray[Any]], head: Mapping[str, NDArray[Any]]) -> None:
        """Take over a backbone (names of ``BackboneSpec.shapes``) and a head (``weight``, ``bias``).

        Raises ManifestError for a missing tensor or one of another shape.
        """
        _fill(self.backbone, backbone, what="backbone")
        _fill(self.head, head, what="head")

    def export_backbone(self) -> Arrays:
        """A copy of the backbone by the names of ``BackboneSpec.shapes``."""
        return _copy(self.backbone)

    def export_head(self) -> Arrays:
        """A copy of the head: ``weight`` (outputs, widths[-1]) and ``bias`` (outputs,)."""
        return _copy(self.head)


def initial_head(spec: BackboneSpec, outputs: int, seed: int) -> Arrays:
    """A head from a private seed: weights uniform in ±1/√inputs, bias zero."""
    random = np.random.default_rng([0x68656164, seed])
    limit = spec.outputs**-0.5
    weight = random.uniform(-limit, limit, size=(outputs, spec.outputs)).astype(np.float32)
    return {"weight": weight, "bias": np.zeros(outputs, dtype=np.float32)}


def _empty_linear(inputs: int, outputs: int) -> nn.Linear:
    """Without values: they come from a broadcast or a seed, never from torch's global generator."""
    return nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")


def _fill(module: nn.Module, arrays: Mapping[str, NDArray[Any]], *, what: str) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name not in arrays:
                raise ManifestError(f"the {what} has no tensor {name!r}")
            array = np.asarray(arrays[name], dtype=np.float32)
            if array.shape != tuple(parameter.shape):
                expected = tuple(parameter.shape)
                raise ManifestError(f"tensor {name!r} of the {what}: expected shape {expected}, found {array.shape}")
            parameter.copy_(torch.from_numpy(array.copy()))


def _copy(module: nn.Module) -> Arrays:
    return {name: parameter.detach().numpy().copy() for name, parameter in module.named_parameters()}
