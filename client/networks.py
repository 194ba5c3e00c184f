"""Stored networks, evaluated by the very code that trains them; see ``models``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from commonroot.client.model import DepartmentModel, evaluate
from commonroot.common.backbone import BackboneSpec
from commonroot.common.errors import ForeignState, ManifestError


def outputs(network: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], x: NDArray[Any]) -> NDArray[np.float64]:
    """Head outputs (n, outputs) or (n, length, outputs) float64 of rows x.

    network  ``backbone``, the fields of its spec, and ``per_token``
    arrays   ``backbone/…``, ``head/…`` and ``adapter/…``

    Raises ForeignState for what this version did not write, DataError for rows of another shape; BackboneMissing and
    BackboneMismatch where the backbone's package or checkpoint is not here.
    """
    model = rebuild(network, arrays)
    return evaluate(model, x).astype(np.float64)


def rebuild(network: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> DepartmentModel:
    """The stored network as a module.  Raises as ``outputs`` does."""
    parts: dict[str, dict[str, NDArray[Any]]] = {"backbone": {}, "head": {}, "adapter": {}}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = array
    try:
        spec = BackboneSpec.model_validate(network["backbone"])
        columns = parts["adapter"]["weight"].shape[1] if spec.adapter else None
        width = len(parts["head"]["bias"])
        model = DepartmentModel(spec, width, columns=columns, per_token=bool(network["per_token"]))
        model.load(parts["backbone"], parts["head"], parts["adapter"])
    except (KeyError, TypeError, IndexError, ValidationError, ManifestError) as error:
        raise ForeignState("a stored network cannot be read by this version") from error
    return model
