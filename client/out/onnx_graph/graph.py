"""A few lines around ``onnx.helper``: nodes that name themselves, constants that are stored, graphs that are grafted.

onnx is an extra (``commonroot[export]``) and is imported when the first graph is begun.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from commonroot.common.errors import ConfigError

#: Operator sets that every graph is written in: read by onnxruntime since 1.17.
OPSET: Final = 20
#: Trees in double precision came with version 5 of the machine learning operators.
OPSET_ML: Final = 5
#: Version of the file format, not newer than those operator sets need.
IR_VERSION: Final = 10


def needs(module: Literal["onnx", "onnxruntime", "onnxscript"]) -> Any:
    """A module of the extra ``export``.  Raises ConfigError where it is not installed."""
    try:
        if module == "onnx":
            import onnx
            import onnx.inliner

            return onnx
        if module == "onnxruntime":
            import onnxruntime

            return onnxruntime
        import onnxscript

        return onnxscript
    except ImportError:
        raise ConfigError(
            f"ONNX needs the package {module}, which is not installed", hint="pip install 'commonroot[export]'"
        ) from None


class Graph:
    """A graph in the making.  Values are strings: names of what nodes give."""

    def __init__(self) -> None:
        self._onnx: Any = needs("onnx")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.opsets: dict[str, int] = {"": OPSET}
        self._count = 0

    def name(self, hint: str = "v") -> str:
        """A name nobody has."""
        self._count += 1
        return f"{hint}_{self._count}"

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """One more node with one output, whose name is returned."""
        (out,) = self.split(operator, *inputs, outputs=1, domain=domain, **attributes)
        return out

    def split(self, operator: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """One more node with several outputs."""
        names = [self.name(operator.lower()) for _ in range(outputs)]
        made = self._onnx.helper.make_node(
            operator, list(inputs), names, name=self.name("node"), domain=domain, **attributes
        )
        self.nodes.append(made)
        return names

    def constant(self, array: NDArray[Any] | float | int, dtype: str = "float64") -> str:
        """A stored array, double precision where nobody says otherwise."""
        name = self.name("c")
        value = np.ascontiguousarray(np.asarray(array, dtype=dtype)).reshape(np.shape(array))
        self.constants.append(self._onnx.numpy_helper.from_array(value, name))
        return name

    def whole(self, *numbers: int) -> str:
        """A list of int64, as axes and shapes are given."""
        return self.constant(np.array(numbers), "int64")

    def tensor(self, array: NDArray[Any], dtype: str = "float64") -> Any:
        """An array as an attribute of a node."""
        return self._onnx.numpy_helper.from_array(np.ascontiguousarray(array, dtype=dtype))

    def cast(self, value: str, dtype: str) -> str:
        """``float32``, ``float64`` or ``int64``."""
        kinds = self._onnx.TensorProto
        to = {"float32": kinds.FLOAT, "float64": kinds.DOUBLE, "int64": kinds.INT64}[dtype]
        return self.node("Cast", value, to=to)

    def columns(self, value: str, start: int, stop: int, axis: int = -1) -> str:
        """``value[..., start:stop]``."""
        return self.node("Slice", value, self.whole(start), self.whole(stop), self.whole(axis))

    def graft(self, other: Any, rows: str) -> str:
        """Another model's nodes, its one input being ``rows``; its one output is returned.

        Raises ConfigError for a model with functions or operators that this graph has no set for.
        """
        graph = self._onnx.inliner.inline_local_functions(other).graph if other.functions else other.graph
        for entry in other.opset_import:
            if entry.domain not in ("", "ai.onnx") and any(node.domain == entry.domain for node in graph.node):
                raise ConfigError(f"the network needs operators of {entry.domain!r}, which ONNX itself has not")
        prefix = self.name("net") + "/"
        (given,), (gives,) = graph.input, graph.output
        stored = {one.name for one in graph.initializer}

        def renamed(name: str) -> str:
            return rows if name == given.name and name not in stored else prefix + name if name else ""

        for one in graph.initializer:
            copy = self._onnx.TensorProto()
            copy.CopyFrom(one)
            copy.name = renamed(one.name)
            self.constants.append(copy)
        self.nodes += [_renamed(self._onnx, node, renamed, prefix) for node in graph.node]
        return renamed(gives.name)

    def finish(self, rows: tuple[str, str, tuple[int, ...]], predictions: tuple[str, tuple[int | None, ...]]) -> bytes:
        """The file.  ``rows``: name, dtype and shape of one row; ``predictions``: value and shape of one row's.

        Raises ConfigError where ONNX itself finds fault with the graph.
        """
        onnx, kinds = self._onnx, self._onnx.TensorProto
        name, dtype, shape = rows
        elements = {"float32": kinds.FLOAT, "int32": kinds.INT32}[dtype]
        given = onnx.helper.make_tensor_value_info(name, elements, ["rows", *shape])
        value, size = predictions
        self.nodes.append(onnx.helper.make_node("Identity", [value], ["predictions"], name="predictions"))
        gives = onnx.helper.make_tensor_value_info("predictions", kinds.DOUBLE, ["rows", *size])
        graph = onnx.helper.make_graph(self.nodes, "commonroot", [given], [gives], self.constants)
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="commonroot")
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ConfigError(f"the model makes no valid ONNX graph ({type(error).__name__})") from error
        return bytes(model.SerializeToString())


def _renamed(onnx: Any, node: Any, renamed: Any, prefix: str) -> Any:
    """A copy whose values, also those inside its own graphs, have other names."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = prefix + node.name
    copy.input[:] = [renamed(name) for name in node.input]
    copy.output[:] = [renamed(name) for name in node.output]
    for attribute in copy.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inner = [_renamed(onnx, one, renamed, prefix) for one in attribute.g.node]
            del attribute.g.node[:]
            attribute.g.node.extend(inner)
            for named in (*attribute.g.input, *attribute.g.output, *attribute.g.initializer, *attribute.g.value_info):
                named.name = renamed(named.name)
    return copy
