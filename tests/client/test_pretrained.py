"""Pretrained encoders from a folder: what is shared, what stays, and every way in which a checkpoint is not the one."""

from __future__ import annotations

import importlib.util

import numpy as np
import polars as pl
import pytest
import tiny_checkpoint
import torch

from commonroot.client.backbones import build
from commonroot.client.backbones.checkpoint import describe, to_toml
from commonroot.client.backbones.pretrained import FOLDER, load_encoder, tokenize
from commonroot.client.data import DataConfig, Features, Rows, prepare
from commonroot.client.tasks import Binary
from commonroot.client.trainer import Trainer, train_pooled
from commonroot.common.charter import Draft, Method, Training
from commonroot.common.errors import BackboneMismatch, BackboneMissing, ConfigError
from commonroot.strategies import build as build_strategy
from commonroot.strategies import seal
from commonroot.strategies.base import Phase

BOTH = frozenset({"backbone", "head"})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of checkpoints with one tiny BERT of random weights, and its tokenizer."""
    return tiny_checkpoint.make(tmp_path_factory.mktemp("checkpoints")).parent


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.setenv(FOLDER, str(made))


def spec_of(made, **options):
    return describe(made / "tiny-bert", rank=2, length=8, **options)


def draft_of(spec):
    training = Training(learning_rate=0.1)
    return Draft(federation="f", name="n", rounds=2, method=Method(name="fedper"), backbone=spec, training=training)


def rows_of(spec, n=24):
    texts = ["the soup was very good", "the soup was bad"] * (n // 2)
    return Rows(tokenize(spec, texts), (np.arange(n) % 2).astype(np.int64))


def trained(draft, rows, *, epochs=2, version=1):
    trainer = Trainer(draft, Binary(("good", "bad")), 5)
    received = build_strategy(draft).initial(draft)
    phases = [Phase(parts=BOTH, epochs=epochs)]
    return received, trainer.start(), trainer.train(phases, received, trainer.start(), rows, None, version=version)


@pytest.mark.parametrize(("share", "shared", "private"), [("share-a", "lora_a", "lora_b"), ("freeze-a", "lora_b", "")])
def test_the_tensors_that_are_shared_and_those_that_stay(made, share, shared, private):
    spec = spec_of(made, share=share)
    assert {name.rpartition(".")[2] for name, _ in spec.shapes()} == {shared}
    assert {name.rpartition(".")[2] for name, _ in spec.private_shapes()} == ({private} if private else set())
    terms = {term.name for term in seal(draft_of(spec)).terms}
    assert f"update/encoder.layer.0.attention.self.query.{shared}" in terms
    assert not any(private and name.endswith(private) for name in terms)


@pytest.mark.parametrize("share", ["share-a", "freeze-a"])
def test_before_training_it_is_the_checkpoint_itself(made, share):
    """B is zero: the mean of the encoder's last states over the tokens, by another path"""
    spec = spec_of(made, share=share)
    rows = rows_of(spec, 4)
    module = build(spec)
    draft = draft_of(spec)
    with torch.no_grad():
        values = {**spec.initial(draft.training.seed), **{n: np.zeros(s, np.float32) for n, s in spec.private_shapes()}}
        for name, parameter in module.named_parameters():
            if name in values:
                parameter.copy_(torch.from_numpy(values[name]))
        encoder = load_encoder("transformers", made / "tiny-bert").eval()
        for row, found in zip(rows.x, module(torch.from_numpy(rows.x)), strict=True):
            ids = torch.from_numpy(row[row > 0].astype(np.int64) - 1)[None]
            expected = encoder(input_ids=ids).last_hidden_state[0].mean(dim=0)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", ["share-a", "freeze-a"])
def test_training_moves_the_low_rank_change_and_nothing_else_and_repeats_exactly(made, share):
    spec = spec_of(made, share=share)
    draft, rows = draft_of(spec), rows_of(spec)
    received, private, found = trained(draft, rows)
    assert set(found.result.shared) == {name for name, _ in spec.shapes()}
    assert any(not np.array_equal(received[name], array) for name, array in found.net.backbone.items())
    kept = {name for name in found.private if name.startswith("adapter/")}
    assert kept == {f"adapter/{name}" for name, _ in spec.private_shapes()}
    assert all(not np.array_equal(private[name], found.private[name]) for name in kept)
    again = trained(draft, rows)[2]
    assert all(np.array_equal(found.net.backbone[name], again.net.backbone[name]) for name in found.net.backbone)


def test_it_learns_and_pools(made):
    spec = spec_of(made)
    draft, rows = draft_of(spec), rows_of(spec)
    assert trained(draft, rows, epochs=15)[2].result.loss < 0.3
    task = Binary(("good", "bad"))
    one, other = train_pooled(draft, [(task, rows), (task, rows.take(np.arange(8)))], secret=1, epochs=2)
    for name in one.backbone:
        np.testing.assert_array_equal(one.backbone[name], other.backbone[name])
    assert any(not np.array_equal(one.adapter[name], other.adapter[name]) for name in one.adapter)


def test_the_section_it_prints_is_the_spec(made):
    spec = spec_of(made)
    text = f'federation = "f"\nname = "n"\nrounds = 1\nmethod = {{ name = "fedper" }}\n{to_toml(spec)}'
    assert Draft.from_toml(text).backbone == spec


def test_tokens_are_the_tokenizers_plus_one_and_padding_is_zero(made):
    """[CLS] the soup was bad [SEP] are words 2 7 6 8 5 3 of the vocabulary"""
    spec = spec_of(made)
    assert tokenize(spec, ["the soup was bad"]).tolist() == [[3, 8, 7, 9, 6, 4, 0, 0]]


def test_a_text_of_nothing_but_padding_still_gives_numbers(made):
    module = build(spec_of(made))
    with torch.no_grad():
        assert torch.isfinite(module(torch.zeros((2, 8), dtype=torch.int32))).all()


def test_a_checkpoint_that_is_not_here_is_asked_for(made, monkeypatch, tmp_path):
    spec = spec_of(made)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(BackboneMissing, match=r"'tiny-bert' is not on this machine"):
        build(spec)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda folder: (folder / "config.json").write_text("{}"), BackboneMismatch, "config.json .* is not the char"),
        (lambda folder: (folder / "vocab.txt").unlink(), BackboneMissing, "lacks the file vocab.txt"),
        (lambda folder: (folder / "more.json").write_text("{}"), BackboneMismatch, "more.json that the charter does"),
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b""), BackboneMismatch, "holds pytorch_model.bin"),
        (lambda folder: (folder / "modeling.py").write_text(""), BackboneMismatch, "holds modeling.py"),
    ],
    ids=["changed", "missing", "more", "pickle", "code"],
)
def test_another_checkpoint_is_refused(made, monkeypatch, tmp_path, change, error, says):
    import shutil

    spec = spec_of(made)
    shutil.copytree(made / "tiny-bert", tmp_path / "tiny-bert")
    change(tmp_path / "tiny-bert")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(error, match=says):
        build(spec)


def test_tensors_that_the_checkpoint_does_not_have_are_refused(made):
    spec = spec_of(made)
    wrong = spec.model_copy(update={"lora_a": ((spec.lora_a[0][0], (3, 16)), *spec.lora_a[1:])})
    with pytest.raises(BackboneMismatch, match=r"the charter says \(3, 16\), the network has \(2, 16\)"):
        build(wrong)


def test_layers_that_are_not_there_are_named(made):
    with pytest.raises(BackboneMismatch, match=r"no low-rank change fits layers nowhere"):
        spec_of(made, targets=("nowhere",))


def test_a_layer_with_a_private_name_cannot_be_shared(made, tmp_path):
    """the middle of ``x.adapter.dense`` would be refused by every manifest"""
    from commonroot.common.backbone import PretrainedSpec

    fields = spec_of(made).model_dump()
    fields["lora_a"] = [["encoder.adapter.lora_a", [2, 16]]]
    fields["lora_b"] = [["encoder.adapter.lora_b", [16, 2]]]
    with pytest.raises(ValueError, match=r"'adapter' is private and never leaves"):
        PretrainedSpec.model_validate(fields)


def test_a_folder_without_a_config_is_no_checkpoint(tmp_path):
    with pytest.raises(BackboneMissing, match=r"holds no config.json"):
        describe(tmp_path)


def test_layers_of_unusual_names_must_be_named(made, monkeypatch):
    monkeypatch.setattr("commonroot.client.backbones.checkpoint.USUAL", (("nowhere",),))
    with pytest.raises(ConfigError, match=r"none of the usual names is among: .*key.*query"):
        spec_of(made)


timm_works = importlib.util.find_spec("timm") and importlib.util.find_spec("torchvision")


@pytest.mark.skipif(not timm_works, reason="timm needs a torchvision that belongs to this torch")
@pytest.mark.parametrize(("name", "targets"), [("vit_tiny_patch16_224", ("qkv",)), ("resnet10t", ("conv2",))])
def test_images_are_encoded_by_timm(made, name, targets):
    import json

    import timm
    from safetensors.torch import save_file

    folder = made / name.replace("_", "-")
    folder.mkdir()
    module = timm.create_model(name, pretrained=False)
    save_file(module.state_dict(), folder / "model.safetensors")
    config = {"architecture": name, "pretrained_cfg": {"input_size": [3, 224, 224]}}
    (folder / "config.json").write_text(json.dumps(config))
    spec = describe(folder, rank=2)
    assert spec.targets == targets and spec.input.shape == (3, 224, 224)
    rows = Rows(np.random.default_rng(1).normal(size=(4, 3, 224, 224)).astype(np.float32), np.array([0, 1, 0, 1]))
    received, _, found = trained(draft_of(spec), rows, epochs=1)
    assert set(found.result.shared) == set(received)


@pytest.mark.parametrize(
    "raised", [RuntimeError("operator torchvision::nms does not exist"), OSError("libcudart.so.12: cannot open")]
)
def test_a_library_that_breaks_while_it_is_imported_is_said(made, monkeypatch, raised):
    """as timm does beside the torchvision of another torch; it is not the checkpoint that is wrong"""

    def broken(name):
        raise raised

    monkeypatch.setattr("commonroot.client.backbones.pretrained.import_module", broken)
    with pytest.raises(BackboneMissing, match="needs timm, which cannot be imported here: 'timm' is missing") as caught:
        load_encoder("timm", made / "tiny-bert")
    assert "torchvision" in caught.value.advice


@pytest.mark.skipif(bool(timm_works), reason="timm works here")
def test_what_timm_lacks_is_said(made):
    import json

    folder = made / "image"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet10t"}))
    with pytest.raises(BackboneMissing, match=r"needs timm, which cannot be imported here: '(timm|torchvision)' is"):
        describe(folder)


def test_a_text_column_becomes_the_tokenizers_ids_and_comes_back_from_a_folder(made, tmp_path):
    spec = spec_of(made)
    texts = ["the soup was very good", "the soup was bad"] * 20
    pl.DataFrame({"text": texts, "y": ["good", "bad"] * 20}).write_parquet(tmp_path / "t.parquet")
    fields = {"path": "t.parquet", "target": "y", "task": "binary", "trusted": ["text"], "features": ["text"]}
    config = DataConfig.model_validate(fields)
    found = prepare(config, folder=tmp_path, spec_input=spec.input, checkpoint=spec)
    expected = {label: tokenize(spec, [text])[0].tolist() for text, label in zip(texts, ("good", "bad"), strict=False)}
    assert [expected[found.task.labels[y]] for y in found.train.y] == found.train.x.tolist()
    again = Features.from_json(found.features.to_json(), {})
    assert again == found.features
    assert again.encode(pl.DataFrame({"text": ["the soup was bad", None]}))[0].tolist() == expected["bad"]
    with pytest.raises(ConfigError, match="cuts words into pieces"):
        prepare(config.model_copy(update={"task": "tagging"}), folder=tmp_path, spec_input=spec.input, checkpoint=spec)
