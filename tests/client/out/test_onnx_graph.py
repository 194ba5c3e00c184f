"""ONNX: what onnxruntime computes from the file is what the predictor computes, for every kind of model and task."""

from __future__ import annotations

import builtins
import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from commonroot.client.baselines import Recipe, fit
from commonroot.client.data import Features, Rows, Scaler
from commonroot.client.models import Model
from commonroot.client.out.onnx_graph import heads, kinds
from commonroot.client.out.onnx_graph.graph import Graph
from commonroot.client.out.onnx_graph.network import network
from commonroot.client.out.onnx_graph.write import TOLERANCE, checked, compare, write
from commonroot.client.predictor import Predictor
from commonroot.client.tasks import Binary, Classification, Regression
from commonroot.common.errors import ConfigError

onnxruntime = pytest.importorskip("onnxruntime")
WIDTH = 4
X = np.random.default_rng(5).normal(size=(60, WIDTH)).astype(np.float32)
LABEL = ((X[:, 0] > 0) + (X[:, 1] > 0.5)).astype(np.int64)
TASKS = {
    "classification": (Classification(("a", "b", "c")), LABEL),
    "binary": (Binary(("no", "yes")), (LABEL > 0).astype(np.int64)),
    "regression": (Regression(1e6, 3e5), 1e6 + 3e5 * X[:, 0].astype(np.float64)),
}
RECIPES = {
    "linear": Recipe("linear", 1.0),
    "rbf": Recipe("rbf", 1.0, 1.0),
    "trees": Recipe("trees", 0.1, 5),
}
FEATURES = Features.of_numbers(tuple("wxyz"), Scaler(np.zeros(WIDTH), np.ones(WIDTH)))


def predictor_of(task, *models):
    return Predictor(task, FEATURES, tuple((1 / len(models), model) for model in models))


def layers(task, *, tanh=False, seed=3):
    random = np.random.default_rng(seed)
    sizes = (WIDTH, 8, 6)
    arrays = {}
    for at, (one, two) in enumerate(itertools.pairwise(sizes)):
        arrays[f"backbone/layers.{at}.weight"] = random.normal(size=(two, one)).astype(np.float32)
        arrays[f"backbone/layers.{at}.bias"] = random.normal(size=two).astype(np.float32)
    arrays["head/weight"] = random.normal(size=(task.outputs, 6)).astype(np.float32)
    arrays["head/bias"] = random.normal(size=task.outputs).astype(np.float32)
    backbone = {"family": "mlp", "inputs": WIDTH, "widths": [8, 6], "activation": "tanh" if tanh else "relu"}
    return Model("network", arrays, 1.7, network={"backbone": backbone, "per_token": False})


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", TASKS)
def test_a_baseline_is_the_same_in_onnx(kind, recipe):
    task, y = TASKS[kind]
    model = replace(fit(RECIPES[recipe], task, Rows(X, y)), temperature=0.7)
    _, parity = checked(predictor_of(task, model), X)
    assert parity.rows == len(X) and parity.difference <= 1e-9


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("kind", TASKS)
def test_a_network_is_the_same_in_onnx(kind, tanh):
    task, _ = TASKS[kind]
    _, parity = checked(predictor_of(task, layers(task, tanh=tanh)), X)
    assert parity.difference <= 1e-5


@pytest.mark.parametrize("kind", TASKS)
def test_a_mixture_of_everything_is_the_same_in_onnx(kind):
    task, y = TASKS[kind]
    models = [fit(recipe, task, Rows(X, y)) for recipe in RECIPES.values()]
    constant = Model("constant", {"values": np.linspace(-1, 1, task.outputs)})
    _, parity = checked(predictor_of(task, *models, layers(task), constant), X)
    assert parity.difference <= TOLERANCE


def test_labels_that_fitting_never_saw_are_the_same_in_onnx():
    """two labels of four seen: one logit becomes two, the others get the least less 3"""
    task = Classification(("a", "b", "c", "d"))
    seen = Rows(X, np.where(LABEL > 0, 3, 1).astype(np.int64))
    for recipe in RECIPES.values():
        model = fit(recipe, task, seen)
        assert "present" in model.arrays
        assert checked(predictor_of(task, model), X)[1].difference <= 1e-9


def test_trees_whose_root_is_a_leaf_are_the_same_in_onnx():
    """tree 0 is one leaf of 2, tree 1 splits column 1 at 0 into -1 and 5: 2 - 1 or 2 + 5, and offset 10"""
    arrays = {
        "feature": np.array([[0, 0, 0], [1, 0, 0]]),
        "threshold": np.zeros((2, 3)),
        "left": np.array([[0, 1, 2], [1, 1, 2]]),
        "right": np.array([[0, 1, 2], [2, 1, 2]]),
        "value": np.array([[2.0, 0, 0], [0, -1.0, 5.0]]),
        "offset": np.array([10.0]),
    }
    predictor = predictor_of(Regression(0.0, 1.0), Model("trees", arrays))
    rows = np.array([[0, -1, 0, 0], [0, 0, 0, 0], [0, 0.5, 0, 0]], dtype=np.float32)
    assert predictor.predictive(rows.astype(np.float64)).tolist() == [11, 11, 17]
    assert checked(predictor, rows)[1].difference == 0


def test_one_tree_that_is_one_leaf_is_the_same_in_onnx():
    one = {"feature": np.array([[0]]), "threshold": np.zeros((1, 1)), "value": np.array([[2.5]])}
    one |= {"left": np.array([[0]]), "right": np.array([[0]]), "offset": np.array([1.0])}
    assert checked(predictor_of(Regression(0.0, 1.0), Model("trees", one)), X)[1].difference == 0


def test_a_graph_that_is_not_the_model_is_refused():
    task, y = TASKS["classification"]
    one, other = (fit(RECIPES["linear"], task, Rows(X, labels)) for labels in (y, 2 - y))
    content = write(predictor_of(task, one))
    assert compare(content, predictor_of(task, other), X).difference > 0.1


def test_a_difference_beyond_the_tolerance_is_an_error(monkeypatch):
    """a model that adds 2e-4 of its spread beside what ONNX was told"""
    task = Regression(0.0, 100.0)
    predictor = predictor_of(task, Model("constant", {"values": np.array([1.0])}))
    original = heads.HEADS["regression"]

    def off(graph, task, outputs):
        return graph.node("Add", original(graph, task, outputs), graph.constant(0.02))

    monkeypatch.setattr("commonroot.client.out.onnx_graph.write.head_of", lambda kind: off)
    with pytest.raises(ConfigError, match=r"differs from the model by 2\.0e-04 on 60 rows"):
        checked(predictor, X)


def test_no_rows_prove_nothing():
    predictor = predictor_of(Regression(0.0, 1.0), Model("constant", {"values": np.array([1.0])}))
    with pytest.raises(ConfigError, match="no rows"):
        checked(predictor, X[:0])


def test_what_onnx_cannot_hold_is_said():
    with pytest.raises(ConfigError, match="kind 'oracle'"):
        write(predictor_of(Regression(0.0, 1.0), Model("oracle", {})))
    with pytest.raises(ConfigError, match="kind 'ranking'"):
        heads.head_of("ranking")


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_a_missing_package_is_one_clear_error(module, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **options):
        if name == module:
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    predictor = predictor_of(Regression(0.0, 1.0), Model("constant", {"values": np.array([1.0])}))
    with pytest.raises(ConfigError, match=f"package {module}, which is not installed") as caught:
        checked(predictor, X)
    assert "commonroot[export]" in caught.value.advice


# --- nodes by themselves: kinds, heads and networks of any shape ----------------------------------------------------


def run(rows, shape, build):
    """What ``build(graph)`` gives for rows."""
    graph = Graph()
    content = graph.finish(("rows", str(rows.dtype), rows.shape[1:]), (build(graph), shape))
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"rows": rows})[0]


def test_a_bag_counts_ids_weighs_and_normalises_them():
    """ids 1, 1, 2 of rarity 1 and 2: √2·1 and 1·2, over √(2 + 4); 7 is beyond the vocabulary and 0 is padding"""
    arrays = {"weight": np.array([[0.0, 1.0, 10.0]]), "bias": np.array([0.5]), "rarity": np.array([9.0, 1.0, 2.0])}
    rows = np.array([[1, 1, 2, 0], [7, 0, 0, 0]], dtype=np.int32)
    found = run(rows, (1,), lambda graph: kinds.TOKENS["bag"](graph, arrays, "rows"))
    expected = 0.5 + (np.sqrt(2) * 1 + 2 * 10) / np.sqrt(6)
    np.testing.assert_allclose(found, [[expected], [0.5]])


def test_a_window_sums_over_its_neighbours_and_has_none_outside():
    """reach 1, one output: left neighbour weighs 100, self 10, right 1, times the number"""
    arrays = {"reach": np.array(1), "weight": np.array([[[100.0]], [[10.0]], [[1.0]]]), "bias": np.array([0.0])}
    rows = np.array([[[1], [2], [3]]], dtype=np.float32)

    def build(graph):
        return kinds.window(graph, arrays, graph.cast("rows", "float64"), length=3, tokens=False)

    assert run(rows, (3, 1), build).ravel().tolist() == [10 + 2, 100 + 20 + 3, 200 + 30]


def test_a_window_over_tokens_reads_unknown_ones_as_padding():
    weight = np.arange(3 * 4 * 2, dtype=np.float64).reshape(3, 4, 2)
    arrays = {"reach": np.array(1), "weight": weight, "bias": np.array([0.5, 0.0])}
    rows = np.array([[1, 9, 3]], dtype=np.int32)
    found = run(rows, (3, 2), lambda graph: kinds.window(graph, arrays, "rows", length=3, tokens=True))
    ids = [1, 0, 3]
    for at in range(3):
        near = [weight[offset + 1, ids[at + offset]] for offset in (-1, 0, 1) if 0 <= at + offset < 3]
        np.testing.assert_allclose(found[0, at], np.sum(near, axis=0) + np.array([0.5, 0.0]))


def test_a_distance_is_the_log_of_a_squared_length_and_never_of_nothing():
    """(4 - 1)² + (3·(9 - 7))² = 45"""
    arrays = {"centre": np.array([1.0, 7.0]), "directions": np.array([[1.0, 0.0], [0.0, 3.0]])}
    rows = np.array([[4, 9], [1, 7]], dtype=np.float32)
    build = lambda graph: kinds.FLAT["distance"](graph, arrays, graph.cast("rows", "float64"))  # noqa: E731
    np.testing.assert_allclose(run(rows, (1,), build)[:, 0], [np.log(45.0), np.log(1e-12)])


def test_a_projection_puts_rows_together_again_from_its_directions():
    arrays = {"centre": np.array([1.0, 2.0]), "directions": np.array([[1.0, 0.0]])}
    rows = np.array([[4, 9]], dtype=np.float32)
    build = lambda graph: kinds.FLAT["projection"](graph, arrays, graph.cast("rows", "float64"))  # noqa: E731
    assert run(rows, (2,), build).tolist() == [[4, 2]]


@pytest.mark.parametrize(
    ("task", "outputs", "expected"),
    [
        ({"kind": "multilabel", "outputs": 2}, [[0.0, np.log(3)]], [[0.5, 0.75]]),
        ({"kind": "rating", "scale": 2.0, "centre": 3.0, "lowest": 1.0, "highest": 5.0}, [[9.0]], [5.0]),
        ({"kind": "rating", "scale": 2.0, "centre": 3.0, "lowest": 1.0, "highest": 5.0}, [[-9.0]], [1.0]),
        ({"kind": "life", "scale": 10.0, "centre": 50.0, "cap": 125.0}, [[-9.0]], [0.0]),
        ({"kind": "life", "scale": 10.0, "centre": 50.0, "cap": 125.0}, [[1.0]], [60.0]),
        (
            {"kind": "forecast", "scale": 2.0, "centre": 1.0, "horizon": 2, "quantiles": (0.1, 0.5, 0.9)},
            [[3.0, 1.0, 2.0, 0.0, 0.0, -1.0]],
            [[[3.0, 5.0, 7.0], [-1.0, 1.0, 1.0]]],
        ),
        ({"kind": "anomaly"}, [[0.25]], [0.25]),
        ({"kind": "fault", "outputs": 2}, [[0.0, np.log(3)]], [[0.25, 0.75]]),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_heads_of_every_task(task, outputs, expected):
    named = SimpleNamespace(**task)
    rows = np.array(outputs, dtype=np.float32)
    found = run(
        rows,
        heads.shape_of(named, rows.shape[1:]),
        lambda graph: heads.head_of(named.kind)(graph, named, graph.cast("rows", "float64")),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_an_anomaly_is_the_log_of_its_squared_error():
    """row (1, 3) put together as (0, 1): (1 + 4)/2 = 2.5"""
    task = SimpleNamespace(kind="anomaly")

    def build(graph):
        flat = graph.cast("rows", "float64")
        return heads.settled(graph, task, graph.node("Sub", flat, graph.constant([[1.0, 2.0]])), flat, tokens=False)

    np.testing.assert_allclose(run(np.array([[1, 3]], dtype=np.float32), (1,), build), [[np.log(2.5)]])


def modules():
    import torch
    from torch import nn

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(20, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
            self.head = nn.Linear(8, 3)

        def forward(self, ids):
            mask = (ids == 0).unsqueeze(-1)
            found = self.layer(self.table(ids.long()))
            return self.head(found.masked_fill(mask, 0.0).sum(1) / (~mask).sum(1).clamp(min=1))

    torch.manual_seed(1)
    image = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    series = nn.Sequential(nn.Conv1d(5, 4, 3, padding=2, dilation=2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3))
    return {
        "image": (image, (1, 8, 8), "float32"),
        "series": (series, (5, 6), "float32"),
        "tokens": (Tokens(), (7,), "int32"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image", "series", "tokens"])
def test_a_torch_network_of_any_shape_is_grafted_into_the_graph(name):
    import torch

    module, shape, dtype = modules()[name]
    random = np.random.default_rng(2)
    rows = random.integers(0, 20, size=(9, *shape)) if dtype == "int32" else random.normal(size=(9, *shape))
    rows = rows.astype(dtype)

    def build(graph):
        return network(graph, module, "rows", shape=shape, dtype=dtype)

    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(rows)).numpy()
    for part in (slice(None), slice(0, 1)):
        np.testing.assert_allclose(run(rows[part], (3,), build), expected[part], rtol=1e-4, atol=1e-5)


FAMILIES = [
    {"family": "resmlp", "inputs": 4, "width": 8, "blocks": 1},
    {"family": "ngrams", "vocabulary": 30, "length": 6, "width": 8},
    {"family": "transformer", "vocabulary": 30, "length": 6, "width": 8, "heads": 2, "layers": 1},
    {"family": "tcn", "steps": 8, "channels": 2, "width": 6, "layers": 2, "kernel": 3},
    {"family": "rescnn", "channels": 1, "height": 8, "width": 8, "stages": [4]},
]


@pytest.mark.slow
@pytest.mark.parametrize("fields", FAMILIES, ids=lambda fields: fields["family"])
def test_every_family_of_backbones_is_the_same_in_onnx(fields):
    from commonroot.client.model import initial_head
    from commonroot.common.backbone import BackboneSpec

    spec = BackboneSpec.model_validate(fields)
    task = Classification(("a", "b", "c"))
    arrays = {f"backbone/{name}": array for name, array in spec.initial(3).items()}
    arrays |= {f"head/{name}": array for name, array in initial_head(spec, task.outputs, 4).items()}
    model = Model("network", arrays, network={"backbone": spec.model_dump(mode="json"), "per_token": False})
    form = spec.input
    random = np.random.default_rng(7)
    shape = (11, *form.shape)
    rows = random.integers(0, 30, size=shape) if form.dtype == "int32" else random.normal(size=shape)
    predictor = Predictor(task, Features(form, ()), ((1.0, model),))
    assert checked(predictor, rows.astype(form.dtype))[1].difference <= 1e-5
