"""The networks: named as the charter names them, blind to padding and to the future, and exact when repeated."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_tasks import CASES, THREE, texts
from one_thread import one_thread

from commonroot.client.backbones import build
from commonroot.client.model import DepartmentModel, evaluate, initial_head
from commonroot.client.trainer import Trainer, represent, train_alone
from commonroot.common.backbone import InstalledSpec, NgramsSpec, RowInput, TcnSpec, TransformerSpec
from commonroot.common.charter import Draft, Method, Training
from commonroot.common.errors import BackboneMismatch, BackboneMissing, ConfigError, DataError
from commonroot.strategies import build as build_strategy
from commonroot.strategies.base import Phase

BOTH = frozenset({"backbone", "head"})


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


def draft_of(spec, **training):
    method = Method(name="fedper")
    return Draft(federation="f", name="n", rounds=2, method=method, backbone=spec, training=Training(**training))


def filled(spec, *, outputs=3, seed=7, **options):
    model = DepartmentModel(spec, outputs, **options)
    model.load(spec.initial(seed), initial_head(spec, outputs, 8))
    return model


def trained(family, *, epochs=1, secret=5):
    spec, make = CASES[family]
    draft = draft_of(spec)
    trainer = Trainer(draft, THREE, secret)
    received = build_strategy(draft).initial(draft)
    return trainer.train([Phase(parts=BOTH, epochs=epochs)], received, trainer.start(), make(40, 1), None, version=1)


def fingerprint(found):
    digest = hashlib.sha256()
    for arrays in (found.net.backbone, found.net.private):
        for name in sorted(arrays):
            digest.update(arrays[name].tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("family", CASES)
def test_parameters_have_the_names_and_shapes_of_the_charter_in_its_order(family):
    spec, make = CASES[family]
    model = filled(spec)
    assert tuple((name, array.shape) for name, array in model.export_backbone().items()) == spec.shapes()
    assert {name for name, _ in build(spec).named_parameters()} == {name for name, _ in spec.shapes()}
    assert evaluate(model, make(5, 1).x).shape == (5, 3)


@pytest.mark.parametrize("family", CASES)
def test_a_family_learns_under_the_usual_settings(family):
    """its task cannot be guessed above half; the settings are the charter's defaults"""
    spec, make = CASES[family]
    held = make(200, 2)
    epochs = 30 if family in ("mlp", "resmlp") else 8
    twin = train_alone(draft_of(spec), THREE, make(240, 1), held, secret=3, epochs=[epochs])
    assert (twin.outputs[0].argmax(axis=1) == held.y).mean() > 0.7


@pytest.mark.parametrize("family", CASES)
def test_a_repeated_round_gives_the_same_bytes_and_leaves_the_global_generator_alone(family):
    before = torch.random.get_rng_state()
    assert fingerprint(trained(family)) == fingerprint(trained(family))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_round_repeated_by_another_process_gives_the_same_bytes():
    """what a department does after a crash; with one thread, as daemons have it"""
    folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    code = (
        f"import sys, torch; torch.set_num_threads(1); sys.path[:0] = {folders!r};"
        "from test_backbones import CASES, fingerprint, trained;"
        "print(*[fingerprint(trained(family)) for family in CASES])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [fingerprint(trained(family)) for family in CASES]


def test_dropout_is_drawn_from_the_secret():
    assert fingerprint(trained("resmlp", secret=5)) != fingerprint(trained("resmlp", secret=6))


@pytest.mark.parametrize("family", ["ngrams", "transformer"])
def test_padding_says_nothing(family):
    """the same texts in a longer frame; and what stands under id 0 is never read"""
    spec, _ = CASES[family]
    x = texts(6, 1).x
    longer = spec.model_copy(update={"length": 20})
    arrays = spec.initial(7)
    spoilt = {name: array.copy() for name, array in longer.initial(7).items()}
    for name in arrays:
        spoilt[name][tuple(slice(size) for size in arrays[name].shape)] = arrays[name]
    spoilt["embedding.weight"][0] = 1e3
    wide = np.pad(x, ((0, 0), (0, 8)))
    here, there = represent(draft_of(spec), arrays, x), represent(draft_of(longer), spoilt, wide)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["ngrams", "transformer"])
def test_a_text_of_nothing_but_padding_is_a_number(family):
    spec, _ = CASES[family]
    assert np.isfinite(evaluate(filled(spec), np.zeros((2, 12), np.int32))).all()


def test_the_mean_over_tokens_represents_a_text_in_a_transformer():
    spec, x = CASES["transformer"][0], texts(4, 1).x
    each = represent(draft_of(spec), spec.initial(7), x, tokens=True)
    assert each.shape == (4, 12, 32)
    here = (x > 0)[:, :, None]
    whole = represent(draft_of(spec), spec.initial(7), x)
    np.testing.assert_allclose((each * here).sum(axis=1) / here.sum(axis=1), whole, rtol=1e-4, atol=1e-5)


def test_the_order_of_tokens_matters_to_a_transformer_and_not_to_a_bag():
    x = texts(4, 1).x
    backwards = np.where(x > 0, x, 0).copy()
    for row in backwards:
        row[row > 0] = row[row > 0][::-1]
    bag, small = CASES["ngrams"][0], CASES["transformer"][0]
    np.testing.assert_allclose(
        represent(draft_of(bag), bag.initial(7), x), represent(draft_of(bag), bag.initial(7), backwards), atol=1e-5
    )
    one, other = (represent(draft_of(small), small.initial(7), ids) for ids in (x, backwards))
    assert np.abs(one - other).max() > 1e-3


def test_a_step_of_a_temporal_convolution_sees_no_later_step():
    """before the exit, which reads the last step and the mean"""
    spec = TcnSpec(steps=16, channels=2, width=8, layers=3)
    model = filled(spec)
    x = torch.randn((2, 16, 2), generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, 10] += 1
    with torch.inference_mode():
        hidden = []
        for windows in (x, changed):
            out = model.backbone.entry(windows)
            for block in model.backbone.blocks:
                out = block(out)
            hidden.append(out)
    moved = (hidden[0] - hidden[1]).abs().amax(dim=(0, 2)) > 1e-6
    assert not moved[:10].any() and moved[10]


@pytest.mark.parametrize("family", ["tcn", "rescnn"])
def test_flat_rows_are_taken_in_c_order(family):
    spec, make = CASES[family]
    model, x = filled(spec), make(6, 1).x
    np.testing.assert_array_equal(evaluate(model, x), evaluate(model, x.reshape(6, -1)))


def test_evaluation_by_blocks_is_evaluation_at_once(monkeypatch):
    spec, make = CASES["rescnn"]
    model, x = filled(spec), make(50, 1).x
    whole = evaluate(model, x)
    monkeypatch.setattr("commonroot.client.model.MOST_ROWS", 7)
    np.testing.assert_allclose(evaluate(model, x), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "x", "says"),
    [
        ("mlp", np.zeros((2, 5), np.float32), r"reads rows of shape \(6,\); the rows have \(5,\)"),
        ("mlp", np.zeros((2, 6), np.int64), "reads rows of float32; the rows hold whole numbers"),
        ("ngrams", np.zeros((2, 12), np.float32), "reads tokens of int32; the rows hold float32 values"),
        ("ngrams", np.zeros((2, 3, 4), np.int32), r"the rows have \(3, 4\)"),
        ("tcn", np.zeros((2, 15, 2), np.float32), r"reads sequences of shape \(16, 2\)"),
        ("rescnn", np.zeros((2, 63), np.float32), r"reads images of shape \(1, 8, 8\)"),
        ("ngrams", np.full((2, 12), 256, np.int32), "token id 256 is outside the backbone's vocabulary of 256"),
        ("ngrams", np.full((2, 12), -1, np.int32), "token id -1 is outside"),
    ],
)
def test_rows_that_do_not_fit_are_refused_in_words(family, x, says):
    with pytest.raises(DataError, match=says):
        evaluate(filled(CASES[family][0]), x)


def test_a_head_on_tokens_over_rows_is_refused():
    with pytest.raises(ConfigError, match=r"labels single tokens"):
        DepartmentModel(CASES["mlp"][0], 3, per_token=True)


PACKAGE = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, reads, options):
        super().__init__()
        self.layer = nn.Linear(reads.width, options["width"])
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        return torch.relu(self.layer(x)) * self.fixed

def build(reads, options):
    if "fail" in options:
        raise RuntimeError("on purpose")
    return Own(reads, options)

def nothing(reads, options):
    return None
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package of somebody else's, as pip would leave it."""
    (tmp_path / "somebody_elses.py").write_text(PACKAGE)
    info = tmp_path / "somebody_elses-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody-elses\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[commonroot.backbones]\nown = somebody_elses:build\nnothing = somebody_elses:nothing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def own_spec(**changes):
    fields = {
        "name": "own",
        "reads": RowInput(6),
        "width": 5,
        "tensors": (("layer.weight", (5, 6)), ("layer.bias", (5,))),
        "options": {"width": 5},
    }
    return InstalledSpec(**{**fields, **changes})


def test_an_installed_backbone_trains_like_any_other(installed):
    spec = own_spec(version="1.2")
    draft, rows = draft_of(spec), CASES["mlp"][1](60, 1)
    trainer = Trainer(draft, THREE, 5)
    received = build_strategy(draft).initial(draft)
    found = trainer.train([Phase(parts=BOTH, epochs=5)], received, trainer.start(), rows, None, version=1)
    assert set(found.result.shared) == {"layer.weight", "layer.bias"}
    assert found.result.loss < found.result.held_out


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"name": "other"}, BackboneMissing, r"no installed package offers the backbone 'other' \(offered: .*own"),
        ({"version": "1.3"}, BackboneMismatch, "wants version 1.3 of the backbone 'own'; 1.2 is installed"),
        ({"options": {"width": 4}}, BackboneMismatch, r"the charter says \(5,\), the network has \(4,\)"),
        ({"options": {"width": 5, "fail": 1}}, BackboneMismatch, "cannot be built: on purpose"),
        ({"name": "nothing"}, BackboneMismatch, "is no torch module"),
        ({"tensors": (("layer.weight", (5, 6)),)}, BackboneMismatch, "'layer.bias' .* says nothing"),
    ],
    ids=["missing", "version", "shape", "fails", "nothing", "more"],
)
def test_an_installed_backbone_that_is_not_the_charters_is_refused(installed, changes, error, says):
    with pytest.raises(error, match=says):
        build(own_spec(**changes))


def test_the_largest_defaults_stay_small_enough_for_a_laptop():
    """half a million numbers or so a round, which is one or two megabytes"""
    assert max(spec.parameters() for spec in (NgramsSpec(), TransformerSpec())) < 700_000
