"""Where this process computes networks: on its processor, or on a device beside it, such as a GPU, that was asked for.

What is computed on a device has other last bits than on a processor, because it adds in another order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch

from commonroot.common.errors import ConfigError, DeviceFailed

PROCESSOR: Final = torch.device("cpu")
#: What CUDA asks of who wants the same bits each time; only two values do.
_WORKSPACE: Final = "CUBLAS_WORKSPACE_CONFIG"
_where = PROCESSOR


def where() -> torch.device:
    """The device of the networks that this process makes from now on."""
    return _where


@contextmanager
def computing_on(name: str) -> Iterator[None]:
    """Make networks on a device: ``cpu``, ``cuda``, ``cuda:1``, or another of torch's by its name.

    What is computed there is the same each time on one kind of device: ways that add in no fixed order, or with fewer
    digits, are turned off, whatever the process had chosen.  Everything is as before afterwards.

    Raises ConfigError for a device that is not here.
    """
    with ExitStack() as undo:
        undo.callback(_put, _where)
        if named(name) != PROCESSOR:
            _repeatable(undo)  # CUDA looks at it before it computes for the first time
        _put(usable(name))
        yield


def usable(name: str) -> torch.device:
    """The device of that name, with its number.  Raises ConfigError where there is none, or torch cannot use it."""
    found = named(name)
    if found == PROCESSOR:
        return found
    try:
        some = torch.ones(2, 2, device=found)
        (some @ some).cpu()
    except (RuntimeError, AssertionError) as error:  # each build of torch says it in its own way
        raise ConfigError(
            f"device {name!r} cannot be used here: {_first_line(error)}",
            hint="the CPU build of torch knows no GPU: install the one for yours, or ask for no device",
        ) from error
    return some.device


def named(name: str) -> torch.device:
    """The device that a name means, here or elsewhere.  Raises ConfigError for one that computes nothing."""
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: torch knows no such device", hint="cpu, or cuda for a GPU") from error
    if found.type == "meta":
        raise ConfigError("device 'meta' computes nothing", hint="cpu, or cuda for a GPU")
    return PROCESSOR if found.type == "cpu" else found


def kind_of(device: torch.device) -> str:
    """What decides a device's bits, for whoever keeps results: ``cpu``, or its type, make and version of CUDA."""
    if device == PROCESSOR:
        return device.type
    about = getattr(getattr(torch, device.type), "get_device_name", None)
    return " ".join(filter(None, [device.type, about and about(device), torch.version.cuda]))


def seed_device(seed: int) -> Callable[[], None]:
    """Seed the generator of this process's device, and of no other; what is returned puts back what it was."""
    module: Any = getattr(torch, _where.type)
    before = module.get_rng_state(_where)
    if own := getattr(module, "default_generators", ()):
        own[_where.index or 0].manual_seed(seed)
    else:
        module.manual_seed(seed)
    return lambda: module.set_rng_state(before, _where)


@contextmanager
def failing_plainly() -> Iterator[None]:
    """What a device fails at, its memory for one, is no fault of a department's data: DeviceFailed says so."""
    try:
        yield
    except RuntimeError as error:
        if _where == PROCESSOR:
            raise
        raise DeviceFailed(f"{_where}: {_first_line(error)}") from error


def _put(device: torch.device) -> None:
    global _where
    _where = device


def _repeatable(undo: ExitStack) -> None:
    """Every choice of the process that bits depend on, until ``undo``."""
    undo.callback(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
    cudnn: Any = torch.backends.cudnn
    for owner, name, value in (
        (torch.utils.deterministic, "fill_uninitialized_memory", False),  # nobody reads it, and filling takes its time
        (cudnn, "benchmark", False),
        (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
        (cudnn.conv, "fp32_precision", "ieee"),
        (cudnn.rnn, "fp32_precision", "ieee"),
    ):
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)
    before = os.environ.get(_WORKSPACE)
    undo.callback(_set_variable, _WORKSPACE, before)
    if before not in (":4096:8", ":16:8"):
        os.environ[_WORKSPACE] = ":4096:8"
    torch.use_deterministic_algorithms(True)


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
