"""The networks behind ``common.backbone``: one module per family, its parameters named exactly as the spec's tensors.

Everybody builds the same network from installed code and fills it with arrays by name; no code comes from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from commonroot.client.backbones.mlp import Mlp
from commonroot.client.backbones.ngrams import Ngrams
from commonroot.client.backbones.rescnn import Rescnn
from commonroot.client.backbones.resmlp import Resmlp
from commonroot.client.backbones.tcn import Tcn
from commonroot.client.backbones.transformer import Transformer
from commonroot.common.backbone import (
    BackboneSpec,
    InstalledSpec,
    MlpSpec,
    NgramsSpec,
    PretrainedSpec,
    RescnnSpec,
    ResmlpSpec,
    TcnSpec,
    TransformerSpec,
)
from commonroot.common.errors import BackboneMismatch, BackboneMissing, ManifestError

__all__ = ["build", "fill", "named"]


def build(spec: BackboneSpec) -> nn.Module:
    """The family's network: ``forward(x)`` to (n, spec.outputs) and, where it reads tokens, ``tokens(ids)``.

    Its parameters hold nothing of use before ``fill``.  Only those of ``spec.shapes()`` and ``spec.private_shapes()``
    are to be trained; anything else is frozen and part of the network itself.

    Raises BackboneMissing where a package, library or checkpoint is not here; BackboneMismatch where it is another one.
    """
    module = _built(spec)
    wanted = dict((*spec.shapes(), *spec.private_shapes()))
    found = {name: tuple(parameter.shape) for name, parameter in module.named_parameters() if parameter.requires_grad}
    if found != wanted:
        odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        here, there = found.get(odd[0], "nothing"), wanted.get(odd[0], "nothing")
        raise BackboneMismatch(f"tensor {odd[0]!r} of the backbone: the charter says {there}, the network has {here}")
    return module


def _built(spec: BackboneSpec) -> nn.Module:
    match spec:
        case MlpSpec():
            return Mlp(spec)
        case ResmlpSpec():
            return Resmlp(spec)
        case NgramsSpec():
            return Ngrams(spec)
        case TransformerSpec():
            return Transformer(spec)
        case TcnSpec():
            return Tcn(spec)
        case RescnnSpec():
            return Rescnn(spec)
        case PretrainedSpec():
            from commonroot.client.backbones.pretrained import build_pretrained  # transformers take seconds to load

            return build_pretrained(spec)
        case InstalledSpec():
            from commonroot.client.backbones.installed import build_installed

            return build_installed(spec)
    raise BackboneMissing(f"this version has no network for backbones of family {spec.family!r}")


def named(module: nn.Module, names: Mapping[str, Any] | tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Some of a module's parameters, in the order of ``names``."""
    found = dict(module.named_parameters())
    return {name: found[name] for name in names}


def fill(parameters: Mapping[str, nn.Parameter], arrays: Mapping[str, NDArray[Any]], *, what: str) -> None:
    """Copy arrays into parameters by name.  Raises ManifestError for a missing tensor or one of another shape."""
    for name, parameter in parameters.items():
        if name not in arrays:
            raise ManifestError(f"the {what} has no tensor {name!r}")
        array, place = np.asarray(arrays[name]), parameter.detach()
        if array.shape != place.shape:
            shape = tuple(place.shape)
            raise ManifestError(f"tensor {name!r} of the {what}: expected shape {shape}, found {array.shape}")
        if place.is_cpu:
            np.copyto(place.numpy(), array, casting="unsafe")
        else:
            place.copy_(torch.from_numpy(np.array(array, dtype=np.float32)))
