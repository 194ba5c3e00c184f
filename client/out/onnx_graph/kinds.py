"""Each kind of stored model as nodes: rows to raw head outputs in double precision, as ``client.models`` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.models import LEAST, SLOPE
from commonroot.client.out.onnx_graph.graph import OPSET_ML, Graph
from commonroot.common.errors import ConfigError

#: Trees with more nodes than this are no file that anybody wants.
MOST_NODES: Final = 1 << 20
Arrays = Mapping[str, NDArray[Any]]
Writer = Callable[[Graph, Arrays, str], str]


def _constant(graph: Graph, arrays: Arrays, x: str) -> str:
    """(outputs,), or (length, outputs) of tokens, for every row."""
    values = np.asarray(arrays["values"])
    shape = graph.node("Concat", graph.node("Shape", x, start=0, end=1), graph.whole(*values.shape), axis=0)
    return graph.node("Expand", graph.constant(values[None]), shape)


def _linear(graph: Graph, arrays: Arrays, x: str) -> str:
    weight, bias = graph.constant(arrays["weight"]), graph.constant(arrays["bias"])
    return graph.node("Gemm", x, weight, bias, transB=1)


def _rbf(graph: Graph, arrays: Arrays, x: str) -> str:
    """exp(-γ·max(|x|² + |s|² - 2·x·s, 0)) against every support vector, then pairs against the rest."""
    support = np.asarray(arrays["support"], dtype=np.float64)
    own = graph.node("ReduceSum", graph.node("Mul", x, x), graph.whole(1), keepdims=1)
    cross = graph.node("Mul", graph.node("MatMul", x, graph.constant(support.T)), graph.constant(2.0))
    distance = graph.node("Sub", graph.node("Add", own, graph.constant((support**2).sum(axis=1))), cross)
    distance = graph.node("Max", distance, graph.constant(0.0))
    kernel = graph.node("Exp", graph.node("Mul", distance, graph.constant(-float(arrays["gamma"].item()))))
    decision = graph.node("Gemm", kernel, graph.constant(arrays["dual"]), graph.constant(arrays["bias"]), transB=1)
    pairs = len(arrays["bias"])
    return decision if pairs == 1 else _one_against_rest(graph, decision, pairs)


def _one_against_rest(graph: Graph, decision: str, pairs: int) -> str:
    """Σ log σ(±SLOPE·d) over a class's pairs, as two products with matrices of 0 and 1."""
    classes = round((1 + (1 + 8 * pairs) ** 0.5) / 2)
    first, second = np.triu_indices(classes, 1)
    wins, loses = np.zeros((pairs, classes)), np.zeros((pairs, classes))
    wins[np.arange(pairs), first] = loses[np.arange(pairs), second] = 1.0
    margin = graph.node("Mul", decision, graph.constant(SLOPE))
    won = graph.node("MatMul", softplus(graph, graph.node("Neg", margin)), graph.constant(wins))
    lost = graph.node("MatMul", softplus(graph, margin), graph.constant(loses))
    return graph.node("Neg", graph.node("Add", won, lost))


def softplus(graph: Graph, value: str) -> str:
    """log(1 + e^v) = max(v, 0) + log(1 + e^-|v|), which overflows nowhere."""
    small = graph.node("Exp", graph.node("Neg", graph.node("Abs", value)))
    rest = graph.node("Log", graph.node("Add", small, graph.constant(1.0)))
    return graph.node("Add", graph.node("Max", value, graph.constant(0.0)), rest)


def _trees(graph: Graph, arrays: Arrays, x: str) -> str:
    """One TreeEnsemble: inner nodes first numbered over all trees, then leaves, each giving to its tree's output."""
    arrays = {**arrays, **unshared(arrays)}
    feature, threshold, value = arrays["feature"], arrays["threshold"], arrays["value"]
    left, right, offset = arrays["left"].astype(np.int64), arrays["right"].astype(np.int64), arrays["offset"]
    trees, nodes = feature.shape
    place = np.arange(nodes)[None]
    leaf = (left == place) & (right == place)
    reached = _reached(left, right, leaf)
    inner = reached & ~leaf
    # a tree must begin with an inner node: one that is a leaf alone compares with itself on both sides
    alone = np.flatnonzero(leaf[:, 0])
    number = np.full((trees, nodes), -1, dtype=np.int64)
    ordered = np.argwhere(inner)
    number[inner] = np.arange(len(ordered))
    leaves = np.argwhere(reached & leaf)
    at_leaf = np.full((trees, nodes), -1, dtype=np.int64)
    at_leaf[reached & leaf] = np.arange(len(leaves))
    tree, node = ordered[:, 0], ordered[:, 1]

    def child(side: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        to = side[tree, node]
        ends = leaf[tree, to]
        return np.where(ends, at_leaf[tree, to], number[tree, to]), ends.astype(np.int64)

    (true_ids, true_leafs), (false_ids, false_leafs) = child(left), child(right)
    own = at_leaf[alone, 0]
    roots = number[:, 0].copy()
    roots[alone] = len(ordered) + np.arange(len(alone))
    count = len(ordered) + len(alone)
    zeros, ones = np.zeros(len(alone), dtype=np.int64), np.ones(len(alone), dtype=np.int64)
    graph.opsets["ai.onnx.ml"] = OPSET_ML
    summed = graph.node(
        "TreeEnsemble",
        x,
        domain="ai.onnx.ml",
        aggregate_function=1,  # sum
        post_transform=0,  # none
        n_targets=len(offset),
        tree_roots=roots.tolist(),
        nodes_featureids=np.concatenate([feature[tree, node].astype(np.int64), zeros]).tolist(),
        nodes_splits=graph.tensor(np.concatenate([threshold[tree, node], np.zeros(len(alone))])),
        nodes_modes=graph.tensor(np.zeros(count), "uint8"),  # ≤ goes left
        nodes_truenodeids=np.concatenate([true_ids, own]).tolist(),
        nodes_trueleafs=np.concatenate([true_leafs, ones]).tolist(),
        nodes_falsenodeids=np.concatenate([false_ids, own]).tolist(),
        nodes_falseleafs=np.concatenate([false_leafs, ones]).tolist(),
        leaf_targetids=(leaves[:, 0] % len(offset)).tolist(),
        leaf_weights=graph.tensor(value[leaves[:, 0], leaves[:, 1]]),
    )
    return graph.node("Add", summed, graph.constant(offset))


def unshared(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """The tables of trees with every node that has several parents repeated for each: the runtime wants one parent.

    Raises ConfigError where they would be too large for a file.
    """
    place = np.arange(arrays["left"].shape[1])
    parents = np.zeros(arrays["left"].shape, dtype=np.int64)
    for side in ("left", "right"):
        tree, node = np.nonzero(arrays[side] != place)
        np.add.at(parents, (tree, arrays[side][tree, node]), 1)
    if parents.max(initial=0) <= 1:
        return {}
    names = ("feature", "threshold", "left", "right", "value")
    whole, nodes = [], 0
    for rows in zip(*(arrays[name] for name in names), strict=True):
        table = dict(zip(names, rows, strict=True))
        order, sides = _walked(table, MOST_NODES - nodes)
        nodes += len(order)
        whole.append({name: table[name][order] for name in names} | sides)
    return {name: _stacked([table[name] for table in whole], arrays[name].dtype, name) for name in names}


def _walked(table: Arrays, most: int) -> tuple[list[int], dict[str, NDArray[np.int64]]]:
    """What every node of one tree was, its sides once each has one parent."""
    order, sides = [0], {"left": [0], "right": [0]}
    for at, was in enumerate(order):  # which grows meanwhile
        for side, places in sides.items():
            to = int(table[side][was])
            places[at] = at if to == was else len(order)
            if to != was:
                order.append(to)
                for one in sides.values():
                    one.append(0)
        if len(order) > most:
            raise ConfigError(
                f"these trees have more than {MOST_NODES:,} nodes where each has one parent, as ONNX wants it",
                hint="grow trees of less depth over columns with fewer labels",
            )
    return order, {side: np.array(places, dtype=np.int64) for side, places in sides.items()}


def _stacked(rows: list[NDArray[Any]], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Rows of one length, filled up with leaves of 0."""
    most = max(len(row) for row in rows)
    out = np.zeros((len(rows), most), dtype=dtype)
    if name in ("left", "right"):
        out[:] = np.arange(most)
    for at, row in enumerate(rows):
        out[at, : len(row)] = row
    return out


def _reached(left: NDArray[np.int64], right: NDArray[np.int64], leaf: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(trees, nodes): those that can be walked to; the rest is padding."""
    reached = np.zeros(left.shape, dtype=np.bool_)
    reached[:, 0] = True
    line = np.arange(len(left))[:, None]
    while True:
        further = reached.copy()
        for side in (left, right):
            inner = reached & ~leaf
            rows = np.broadcast_to(line, left.shape)[inner]
            further[rows, side[inner]] = True
        if np.array_equal(further, reached):
            return reached
        reached = further


def _projection(graph: Graph, arrays: Arrays, x: str) -> str:
    centre, directions = graph.constant(arrays["centre"]), np.asarray(arrays["directions"], dtype=np.float64)
    short = graph.node("MatMul", graph.node("Sub", x, centre), graph.constant(directions.T))
    return graph.node("Add", graph.node("MatMul", short, graph.constant(directions)), centre)


def _distance(graph: Graph, arrays: Arrays, x: str) -> str:
    directions = np.asarray(arrays["directions"], dtype=np.float64)
    centred = graph.node("Sub", x, graph.constant(arrays["centre"]))
    along = graph.node("MatMul", centred, graph.constant(directions.T))
    squared = graph.node("ReduceSum", graph.node("Mul", along, along), graph.whole(1), keepdims=1)
    return graph.node("Log", graph.node("Max", squared, graph.constant(LEAST)))


def _bag(graph: Graph, arrays: Arrays, x: str) -> str:
    """Counts of ids by ScatterElements; √count · rarity, to length one; then weights.  Padding counts for nothing."""
    rarity = np.asarray(arrays["rarity"], dtype=np.float64).copy()
    rarity[0] = 0.0
    vocabulary = len(rarity)
    ids = graph.cast(x, "int64")
    known = graph.node("Less", ids, graph.whole(vocabulary))
    ids = graph.node("Where", known, ids, graph.whole(0))
    rows = graph.node("Shape", ids, start=0, end=1)
    shape = graph.node("Concat", rows, graph.whole(vocabulary), axis=0)
    nothing = graph.node("Expand", graph.constant(np.zeros((1, 1))), shape)
    ones = graph.node("Expand", graph.constant(np.ones((1, 1))), graph.node("Shape", ids))
    counts = graph.node("ScatterElements", nothing, ids, ones, axis=1, reduction="add")
    value = graph.node("Mul", graph.node("Sqrt", counts), graph.constant(rarity))
    squared = graph.node("ReduceSum", graph.node("Mul", value, value), graph.whole(1), keepdims=1)
    norm = graph.node("Max", graph.node("Sqrt", squared), graph.constant(1e-12))
    weight, bias = graph.constant(arrays["weight"]), graph.constant(arrays["bias"])
    return graph.node("Gemm", graph.node("Div", value, norm), weight, bias, transB=1)


def window(graph: Graph, arrays: Arrays, x: str, *, length: int, tokens: bool) -> str:
    """Σ over offsets of the neighbour's weights; outside a row there is nothing."""
    weight, reach = np.asarray(arrays["weight"], dtype=np.float64), int(arrays["reach"].item())
    size = weight.shape[1]
    total = graph.constant(arrays["bias"])
    if tokens:
        ids = graph.cast(x, "int64")
        known = graph.node("Less", ids, graph.whole(size))
        rows = graph.node("Where", known, ids, graph.whole(0))
        rows = graph.node("Pad", rows, graph.whole(0, reach, 0, reach), graph.constant(size, "int64"))
        weight = np.concatenate([weight, np.zeros_like(weight[:, :1])], axis=1)  # what padding points at
    else:
        rows = graph.node("Pad", x, graph.whole(0, reach, 0, 0, reach, 0), graph.constant(0.0))
    for offset in range(2 * reach + 1):
        there = graph.columns(rows, offset, offset + length, axis=1)
        part = graph.constant(weight[offset])
        found = graph.node("Gather", part, there, axis=0) if tokens else graph.node("MatMul", there, part)
        total = graph.node("Add", found, total)
    return total


#: Kinds that read rows flattened to (n, columns) as doubles …
FLAT: Final[MappingProxyType[str, Writer]] = MappingProxyType(
    {
        "constant": _constant,
        "distance": _distance,
        "isolation": _trees,
        "linear": _linear,
        "projection": _projection,
        "rbf": _rbf,
        "trees": _trees,
    }
)
#: … and those that read token ids as they are.
TOKENS: Final[MappingProxyType[str, Writer]] = MappingProxyType({"bag": _bag})
