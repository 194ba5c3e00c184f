"""Head outputs as each task's prediction array, as nodes; see ``predictive`` of the tasks."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from commonroot.client.models import UNSEEN
from commonroot.client.out.onnx_graph.graph import Graph
from commonroot.client.tasks.tagging import CERTAIN, OUTSIDE
from commonroot.common.errors import ConfigError

Head = Callable[[Graph, Any, str], str]
#: Least squared error that an anomaly's logarithm is taken of.
_LEAST_ERROR: Final = 1e-12


def spread(graph: Graph, raw: str, present: list[int], *, outputs: int, given: int) -> str:
    """Logits of the labels that fitting saw as logits of all labels: ``client.models.spread``.

    given  how many columns ``raw`` has
    """
    single = outputs == 1
    labels = 2 if single else outputs
    if given == 1 and len(present) == 2:
        nothing = graph.node("Mul", raw, graph.constant(0.0))
        raw = graph.node("Concat", nothing, raw, axis=-1)
    if len(present) < labels:
        least = graph.node("ReduceMin", raw, graph.whole(-1), keepdims=1)
        low = graph.node("Sub", least, graph.constant(UNSEEN))
        columns = [low] * labels
        for at, label in enumerate(present):
            columns[label] = graph.columns(raw, at, at + 1)
        raw = graph.node("Concat", *columns, axis=-1)
    if not single:
        return raw
    return graph.node("Sub", graph.columns(raw, 1, 2), graph.columns(raw, 0, 1))


def settled(graph: Graph, task: Any, raw: str, flat: str, *, tokens: bool) -> str:
    """Outputs as the task has them against the rows themselves: ``settled`` of the tasks.

    Anomalies become the log of the mean squared error; tags of padding are outside for certain.
    """
    if task.kind == "tagging" and tokens:
        padding = graph.node("Equal", graph.cast("rows", "int64"), graph.whole(0))
        outside = np.where(np.arange(len(task.tags)) == task.tags.index(OUTSIDE), CERTAIN, 0.0)
        return graph.node("Where", graph.node("Unsqueeze", padding, graph.whole(2)), graph.constant(outside), raw)
    if task.kind != "anomaly":
        return raw
    missed = graph.node("Sub", raw, flat)
    error = graph.node("ReduceMean", graph.node("Mul", missed, missed), graph.whole(1), keepdims=1)
    return graph.node("Log", graph.node("Max", error, graph.constant(_LEAST_ERROR)))


def _softmax(graph: Graph, task: Any, outputs: str) -> str:
    return graph.node("Softmax", outputs, axis=-1)


def _binary(graph: Graph, task: Any, outputs: str) -> str:
    nothing = graph.node("Mul", outputs, graph.constant(0.0))
    return graph.node("Softmax", graph.node("Concat", nothing, outputs, axis=-1), axis=-1)


def _sigmoid(graph: Graph, task: Any, outputs: str) -> str:
    return graph.node("Sigmoid", outputs)


def _scaled(graph: Graph, task: Any, outputs: str) -> str:
    return graph.node("Add", graph.node("Mul", outputs, graph.constant(task.scale)), graph.constant(task.centre))


def _value(graph: Graph, task: Any, outputs: str) -> str:
    return graph.node("Squeeze", _scaled(graph, task, graph.columns(outputs, 0, 1)), graph.whole(1))


def _clipped(lowest: str | float, highest: str) -> Head:
    def head(graph: Graph, task: Any, outputs: str) -> str:
        low = getattr(task, lowest) if isinstance(lowest, str) else lowest
        value = _value(graph, task, outputs)
        least = graph.node("Max", value, graph.constant(low))
        return graph.node("Min", least, graph.constant(getattr(task, highest)))

    return head


def _forecast(graph: Graph, task: Any, outputs: str) -> str:
    quantiles = len(task.quantiles)
    shaped = graph.node("Reshape", outputs, graph.whole(-1, task.horizon, quantiles))
    if quantiles > 1:  # ascending
        shaped, _ = graph.split("TopK", shaped, graph.whole(quantiles), outputs=2, axis=2, largest=0, sorted=1)
    return _scaled(graph, task, shaped)


def _first(graph: Graph, task: Any, outputs: str) -> str:
    return graph.node("Squeeze", graph.columns(outputs, 0, 1), graph.whole(1))


HEADS: Final[MappingProxyType[str, Head]] = MappingProxyType(
    {
        "anomaly": _first,
        "binary": _binary,
        "classification": _softmax,
        "fault": _softmax,
        "forecast": _forecast,
        "life": _clipped(0.0, "cap"),
        "multilabel": _sigmoid,
        "rating": _clipped("lowest", "highest"),
        "regression": _value,
        "tagging": _softmax,
    }
)


def head_of(kind: str) -> Head:
    """The nodes of a kind of task.  Raises ConfigError for a task that this program does not bring along."""
    if kind not in HEADS:
        raise ConfigError(f"a task of kind {kind!r} cannot be written as ONNX")
    return HEADS[kind]


def shape_of(task: Any, shape: tuple[int, ...]) -> tuple[int | None, ...]:
    """Of one row's prediction; ``shape`` is one row's own."""
    if task.kind in ("regression", "rating", "life", "anomaly"):
        return ()
    if task.kind == "forecast":
        return (task.horizon, len(task.quantiles))
    if task.kind == "tagging":
        return (shape[0], task.outputs)
    return (2,) if task.kind == "binary" else (task.outputs,)


def unit(task: Any) -> float:
    """What a difference of predictions is told in: 1 for probabilities, the training spread for values."""
    return float(np.float64(getattr(task, "scale", 1.0))) if task.kind != "anomaly" else 1.0
