"""Where this process computes networks: on its processor, or on a device beside it, such as a GPU.

A department's daemon computes on processors.  Simulations may ask for a device; what they end with has other last bits
than a deployment's, because a device adds in another order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from commonroot.common.errors import ConfigError

PROCESSOR: Final = torch.device("cpu")
_where = PROCESSOR


def where() -> torch.device:
    """The device of the networks that this process makes from now on."""
    return _where


@contextmanager
def computing_on(name: str) -> Iterator[None]:
    """Make networks on a device: ``cpu``, ``cuda``, ``cuda:1``, or another of torch's by its name.

    What is computed there is the same each time: faster ways that add in no fixed order are turned off.

    Raises ConfigError for a device that is not here.
    """
    global _where
    before, found = _where, usable(name)
    if found == PROCESSOR:
        _where = found
        try:
            yield
        finally:
            _where = before
        return
    repeatable = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA asks of who wants the same bits each time
    _where = found
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        _where = before
        torch.use_deterministic_algorithms(repeatable[0])
        torch.backends.cudnn.allow_tf32 = repeatable[1]


def usable(name: str) -> torch.device:
    """The device of that name.  Raises ConfigError where there is none, or torch cannot use it."""
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: torch knows no such device", hint="cpu, or cuda for a GPU") from error
    if found.type == "cpu":
        return PROCESSOR
    if found.type == "meta":
        raise ConfigError("device 'meta' computes nothing", hint="cpu, or cuda for a GPU")
    try:
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each build of torch says it in its own way
        raise ConfigError(
            f"device {name!r} cannot be used here: {str(error).splitlines()[0]}",
            hint="the CPU build of torch knows no GPU: install the one for yours, or leave --device out",
        ) from error
    return found
