"""Model transfer: rounds that begin from a backbone somebody trained before, instead of from a seed.

The charter names a safetensors file by its SHA-256: a version that an earlier run stored, or any checkpoint that holds
the backbone's tensors by the charter's names and shapes.  Every department has the file itself, so it still computes
version 0 on its own and holds every broadcast against it; a coordinator can bring in no backbone that departments did
not approve by hash.  Tensors of other names in the file are not used, and heads start as always.

Methods that share nothing start from the seed all the same: they are what a warm start is compared with.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from commonroot.common.charter import Draft
from commonroot.common.errors import BackboneMismatch, ConfigError
from commonroot.common.secure_sum.primitives import sha256
from commonroot.strategies import gathers
from commonroot.strategies.base import Gathering, Strategy
from commonroot.strategies.local import Local


def first_state(
    method: Strategy | Gathering, draft: Draft, read: Callable[[str], bytes]
) -> dict[str, NDArray[np.float32]]:
    """The state before the first round, from the charter's file where it names one.

    read  gives the file of a SHA-256 in hex, and raises BackboneMissing where there is none

    Raises BackboneMismatch where the file is another one, or holds no backbone of this charter; ConfigError where the
    method trains nothing.
    """
    state, wanted = method.initial(draft), draft.training.warm_start
    if wanted is None or isinstance(method, Local):
        return state
    if gathers(method):
        raise ConfigError(f"method {draft.method.name!r} trains nothing, so it has no warm start")
    return state | _backbone(draft, set(state), wanted, read(wanted))


def _backbone(draft: Draft, names: set[str], wanted: str, data: bytes) -> dict[str, NDArray[np.float32]]:
    what = f"the backbone {wanted[:16]}… that the charter starts from"
    if sha256(data).hex() != wanted:
        raise BackboneMismatch(f"{what} is another file: its SHA-256 differs")
    try:
        held = load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BackboneMismatch(f"{what} is no safetensors file of numbers that can be read here") from error
    out = {}
    for name, shape in draft.network.shapes():
        if name not in names:  # private in the departments
            continue
        if name not in held:
            raise BackboneMismatch(f"{what} has no tensor {name!r}")
        array = np.asarray(held[name])
        with np.errstate(over="ignore"):  # what is finite in the file may be none in single precision
            single = array.astype(np.float32)
        if array.shape != tuple(shape) or array.dtype.kind != "f" or not np.isfinite(single).all():
            raise BackboneMismatch(f"{what}: tensor {name!r} is not of shape {tuple(shape)}, or not of finite numbers")
        out[name] = single
    return out
