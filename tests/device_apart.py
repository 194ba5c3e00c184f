"""A device beside the processor, made of the processor's memory: what forgets to move there or back fails here too.

Its tensors hold what theirs would, and refuse what a GPU's refuse: to meet a tensor of the processor that is more than
a single number, and to be read as an array.  It computes as the processor does, so results have the same bits.
"""

from __future__ import annotations

import types
from contextlib import contextmanager
from functools import cache

import torch
from torch.overrides import TorchFunctionMode

NAME = "apart"


class Apart(torch.Tensor):
    """A tensor of the device."""


class _Placing(TorchFunctionMode):
    """Puts tensors there that ask for it, and keeps the two kinds from meeting."""

    def __torch_function__(self, function, _types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        owner = getattr(function, "__self__", None)
        if name == "__get__" and args and isinstance(args[0], Apart):
            if owner is torch.Tensor.device:
                return torch.device(NAME, 0)
            if owner is torch.Tensor.is_cpu:
                return False
        if name in ("numpy", "__array__") and isinstance(args[0], Apart):
            raise TypeError(f"can't convert {NAME} device type tensor to numpy")
        if function is torch._has_compatible_shallow_copy_type and len({isinstance(one, Apart) for one in args}) > 1:
            return False  # a module that moves there is given new parameters
        if function is torch.Tensor.cpu:
            return _plain(args[0])
        if function is torch.Tensor.to:
            return _moved(args, kwargs)
        there = "device" in kwargs and kwargs["device"] is not None and torch.device(kwargs["device"]).type == NAME
        if there:
            kwargs["device"] = "cpu"
        given = list(_tensors((args, kwargs)))
        apart = [one for one in given if isinstance(one, Apart)]
        copying = function in (torch.Tensor.copy_,) or name == "__set__"
        if apart and not copying and any(not isinstance(one, Apart) and one.dim() for one in given):
            raise RuntimeError(
                f"expected all tensors on the same device, but found some on {NAME} and some on cpu: {name}"
            )
        with torch._C.DisableTorchFunctionSubclass():
            found = function(*args, **kwargs)
        return _there(found) if (there or apart) and name != "__set__" else found


def _moved(args, kwargs):
    """``tensor.to(…)`` with the device first, as a keyword, or not at all; a module says (device, None, bool)."""
    tensor, *rest = args
    asked = kwargs.pop("device", None)
    if asked is None and rest and isinstance(rest[0], torch.device | str):
        asked, *rest = rest
    rest = [one for one in rest if isinstance(one, torch.dtype)]
    found = tensor.to(*rest, **kwargs) if rest or kwargs.get("dtype") is not None else tensor
    there = isinstance(tensor, Apart) if asked is None else torch.device(asked).type == NAME
    return _there(found) if there else _plain(found)


def _there(found):
    if isinstance(found, torch.Tensor):
        with torch._C.DisableTorchFunctionSubclass():
            return found if isinstance(found, Apart) else found.as_subclass(Apart)
    if isinstance(found, list | tuple) and not isinstance(found, torch.Size):
        each = [_there(one) for one in found]
        return type(found)(*each) if hasattr(found, "_fields") else type(found)(each)
    return found


def _plain(tensor):
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.detach().as_subclass(torch.Tensor) if isinstance(tensor, Apart) else tensor


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


@cache
def _registered() -> None:
    torch.utils.rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    module.device_count = lambda: 1
    module.is_available = lambda: True
    module.current_device = lambda: 0
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = module.manual_seed = lambda seed: None  # it draws from the processor's generator
    module.get_rng_state = lambda device=0: torch.get_rng_state()
    module.set_rng_state = lambda state, device=0: torch.set_rng_state(state)
    module.get_device_name = lambda device: "made of memory"
    torch._register_device_module(NAME, module)


@contextmanager
def a_device_apart():
    """While it lasts, there is such a device; its name."""
    _registered()
    with _Placing():
        yield NAME
