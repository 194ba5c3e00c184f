"""Wrong files for a warm start are told from right ones before anything runs."""

import hashlib

import numpy as np
import pytest
from safetensors.numpy import save

from commonroot.common.charter import Draft
from commonroot.common.errors import BackboneMismatch
from commonroot.strategies import build
from commonroot.strategies.warm_start import first_state


def draft_of(data):
    return Draft.model_validate(
        {
            "federation": "works",
            "name": "tried",
            "rounds": 1,
            "method": {"name": "fedper"},
            "backbone": {"inputs": 2, "widths": [3]},
            "training": {"warm_start": hashlib.sha256(data).hexdigest()},
        }
    )


def stored(**changes):
    shapes = draft_of(b"").network.shapes()
    return save({name: np.ones(shape) for name, shape in shapes} | changes)


def started(data):
    draft = draft_of(data)
    return first_state(build(draft), draft, lambda digest: data)


def test_a_checkpoint_in_double_precision_is_read_in_single():
    assert all(array.dtype == np.float32 and (array == 1).all() for array in started(stored()).values())


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, -1e39], ids=str)
def test_a_number_that_is_none_in_single_precision_is_refused(value):
    """1e300 is finite in the file and infinite in version 0, which no department could then receive."""
    (name, shape), *_ = draft_of(b"").network.shapes()
    with pytest.raises(BackboneMismatch, match="not of finite numbers"):
        started(stored(**{name: np.full(shape, value)}))


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xff" * 64, stored()[:-1], save({"other": np.ones(1)})])
def test_another_file_is_refused(data):
    with pytest.raises(BackboneMismatch):
        started(data)
