"""A predictor as an ONNX file, and the comparison without which none is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.models import NETWORK, SCORES, Model
from commonroot.client.out.onnx_graph.graph import OPSET, Graph, needs
from commonroot.client.out.onnx_graph.heads import head_of, settled, shape_of, spread, unit
from commonroot.client.out.onnx_graph.kinds import FLAT, TOKENS, window
from commonroot.client.out.onnx_graph.network import network
from commonroot.client.predictor import Predictor, mix
from commonroot.common.errors import ConfigError

#: Largest difference allowed between ONNX and the predictor: of probabilities, or of values in training spreads.
TOLERANCE: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Parity:
    """How far ONNX and the predictor are apart.

    rows        compared
    difference  the largest, of probabilities, or of values in training spreads
    """

    rows: int
    difference: float


def write(predictor: Predictor) -> bytes:
    """The ONNX file: input ``rows``, encoded as the features encode them, output ``predictions``, the task's array.

    Raises ConfigError for what ONNX cannot hold or where the extra ``export`` is missing.
    """
    graph, task, form = Graph(), predictor.task, predictor.features.input
    head = head_of(task.kind)
    total: str | None = None
    for weight, model in predictor.members:
        found = head(graph, task, _calibrated(graph, task, model, form.shape, form.dtype))
        part = graph.node("Mul", found, graph.constant(weight))
        total = part if total is None else graph.node("Add", total, part)
    if total is None:
        raise ConfigError("the predictor holds no model")
    return graph.finish(("rows", form.dtype, form.shape), (total, shape_of(task, form.shape)))


def _calibrated(graph: Graph, task: Any, model: Model, shape: tuple[int, ...], dtype: str) -> str:
    """Rows to calibrated head outputs, as ``Model.outputs``."""
    arrays = model.arrays
    flat = _flat(graph, shape, dtype)
    if model.kind in FLAT:
        raw = FLAT[model.kind](graph, arrays, flat)
    elif model.kind in TOKENS:
        raw = TOKENS[model.kind](graph, arrays, "rows")
    elif model.kind == "window":
        tokens = dtype == "int32"
        rows = "rows" if tokens else graph.cast("rows", "float64")
        raw = window(graph, arrays, rows, length=shape[0], tokens=tokens)
    elif model.kind == NETWORK and model.network is not None:
        from commonroot.client.networks import rebuild  # torch takes its time to load

        raw = network(graph, rebuild(model.network, arrays), "rows", shape=shape, dtype=dtype)
    else:
        raise ConfigError(f"a model of kind {model.kind!r} cannot be written as ONNX")
    if "present" in arrays:
        present = [int(label) for label in arrays["present"]]
        raw = spread(graph, raw, present, outputs=task.outputs, given=_width(model))
    if "residual" in arrays:
        steps = graph.node("Unsqueeze", raw, graph.whole(2))
        raw = graph.node("Add", steps, graph.constant(arrays["residual"]))
        raw = graph.node("Reshape", raw, graph.whole(-1, task.outputs))
    if model.kind not in SCORES:
        raw = settled(graph, task, raw, flat, tokens=dtype == "int32")
    if not task.tempered:
        return raw
    lowered = graph.node("Sub", raw, graph.constant(model.shift))
    return graph.node("Div", lowered, graph.constant(model.temperature))


def _flat(graph: Graph, shape: tuple[int, ...], dtype: str) -> str:
    rows = graph.cast("rows", "float64")
    return rows if len(shape) == 1 else graph.node("Reshape", rows, graph.whole(-1, math.prod(shape)))


def _width(model: Model) -> int:
    """How many columns the raw outputs of a model with labels have."""
    arrays = model.arrays
    if model.kind == "rbf":
        pairs = len(arrays["bias"])
        return 1 if pairs == 1 else round((1 + (1 + 8 * pairs) ** 0.5) / 2)
    ends = {"constant": "values", "trees": "offset", "isolation": "offset"}.get(model.kind, "bias")
    return len(arrays[ends if model.kind != NETWORK else "head/bias"])


def compare(content: bytes, predictor: Predictor, x: NDArray[Any]) -> Parity:
    """Run the file on encoded rows and measure.  Raises ConfigError where it cannot be run or there are no rows."""
    runtime = needs("onnxruntime")
    if not len(x):
        raise ConfigError("there are no rows to compare ONNX with the model on", hint="give some with --rows FILE")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        whole = session.run(None, {"rows": x})[0]
        first = session.run(None, {"rows": x[:1]})[0]  # a size that was mistaken for a constant shows here
    except Exception as error:  # the runtime's own classes share no other base
        raise ConfigError(f"onnxruntime cannot run the graph ({type(error).__name__})") from error
    expected = mix(predictor.task, predictor.members, x)
    if whole.shape != expected.shape or first.shape != expected[:1].shape:
        return Parity(len(x), math.inf)
    apart = np.concatenate([np.abs(whole - expected), np.abs(first - expected[:1])])
    largest = float(apart.max()) / unit(predictor.task)
    return Parity(len(x), largest if math.isfinite(largest) else math.inf)


def checked(predictor: Predictor, x: NDArray[Any]) -> tuple[bytes, Parity]:
    """The file, compared with the predictor on encoded rows.  Raises ConfigError beyond ``TOLERANCE``."""
    content = write(predictor)
    parity = compare(content, predictor, x)
    if not parity.difference <= TOLERANCE:
        raise ConfigError(
            f"the ONNX graph (opset {OPSET}) differs from the model by {parity.difference:.1e} on {parity.rows} rows; "
            f"at most {TOLERANCE:g} is allowed, so nothing was written"
        )
    return content, parity
