"""The network: names and shapes of the charter, arrays in and out, no randomness of its own."""

import numpy as np
import pytest
import torch

from commonroot.client.model import DepartmentModel, initial_head
from commonroot.common.backbone import BackboneSpec
from commonroot.common.errors import ManifestError

SPEC = BackboneSpec(inputs=4, widths=(5, 3), activation="tanh")


def loaded(spec=SPEC, outputs=2):
    model = DepartmentModel(spec, outputs)
    model.load(spec.initial(7), initial_head(spec, outputs, 8))
    return model


def test_the_backbone_has_the_names_and_shapes_of_the_charter():
    exported = loaded().export_backbone()
    assert tuple((name, array.shape) for name, array in exported.items()) == SPEC.shapes()


def test_what_is_loaded_is_what_is_exported():
    model = loaded()
    for name, array in SPEC.initial(7).items():
        np.testing.assert_array_equal(model.export_backbone()[name], array)
    for name, array in initial_head(SPEC, 2, 8).items():
        np.testing.assert_array_equal(model.export_head()[name], array)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_it_computes_what_the_formula_says(activation):
    """act(act(x W₀ᵀ + b₀) W₁ᵀ + b₁) Hᵀ + h"""
    spec = SPEC.model_copy(update={"activation": activation})
    backbone, head = spec.initial(7), initial_head(spec, 2, 8)
    act = np.tanh if activation == "tanh" else lambda values: np.maximum(values, 0)
    x = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    hidden = act(act(x @ backbone["layers.0.weight"].T + 0) @ backbone["layers.1.weight"].T + 0)
    with torch.inference_mode():
        found = loaded(spec)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, hidden @ head["weight"].T + head["bias"], rtol=1e-5, atol=1e-6)


def test_exports_are_copies():
    model = loaded()
    model.export_head()["weight"][:] = 99
    assert (model.export_head()["weight"] != 99).all()


def test_building_and_loading_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    loaded()
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_head_is_a_function_of_its_seed():
    one, again, other = (initial_head(SPEC, 3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one["weight"], again["weight"])
    assert not np.array_equal(one["weight"], other["weight"])
    assert np.abs(one["weight"]).max() <= 3**-0.5 and (one["bias"] == 0).all()


def test_tensors_of_another_shape_or_name_are_refused():
    model, head = loaded(), initial_head(SPEC, 2, 8)
    with pytest.raises(ManifestError, match=r"head: expected shape \(2, 3\), found \(3, 3\)"):
        model.load(SPEC.initial(7), initial_head(SPEC, 3, 8))
    with pytest.raises(ManifestError, match="no tensor 'bias'"):
        model.load(SPEC.initial(7), {"weight": head["weight"]})
