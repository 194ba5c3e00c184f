"""Networks as nodes: written by torch's own exporters, then grafted into the graph.

torch has two: the one that captures a program (``dynamo``), which knows every module, and the older one that traces.
The first is tried first; the second is for modules the first cannot capture.  Which one is right about a network is
not taken on trust: the whole graph is compared with the predictor before it is written.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from commonroot.client.out.onnx_graph.graph import OPSET, Graph, needs
from commonroot.common.errors import ConfigError


def network(graph: Graph, module: Any, rows: str, *, shape: tuple[int, ...], dtype: str) -> str:
    """A torch module's forward on rows (n, *shape) of ``dtype``.  Raises ConfigError where no exporter can write it."""
    return graph.cast(graph.graft(_exported(module, shape, dtype), rows), "float64")


def _exported(module: Any, shape: tuple[int, ...], dtype: str) -> Any:
    import torch

    onnx = needs("onnx")
    needs("onnxscript")
    module.eval()
    sample = torch.from_numpy(np.zeros((3, *shape), dtype=dtype))  # one row or none would be taken for a constant
    common: dict[str, Any] = {"input_names": ["rows"], "output_names": ["outputs"], "opset_version": OPSET}
    captured: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False}
    traced: dict[str, Any] = {"dynamo": False, "dynamic_axes": {"rows": {0: "rows"}, "outputs": {0: "rows"}}}
    captured["dynamic_shapes"] = ({0: torch.export.Dim("rows", min=1)},)
    failed: list[str] = []
    with _quiet(), tempfile.TemporaryDirectory(prefix="commonroot-") as folder:
        for way in (captured, traced):
            file = Path(folder) / f"{len(failed)}.onnx"
            try:
                torch.onnx.export(module, (sample,), str(file), **way, **common)
                found = onnx.load(file)
            except Exception as error:  # exporters raise whatever their many passes raise
                failed.append(type(error).__name__)
                continue
            if _opset(found) == OPSET:
                return found
            failed.append(f"opset {_opset(found)}")
    raise ConfigError(f"torch cannot write this network as ONNX ({', '.join(failed)})")


def _opset(model: Any) -> int:
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters speak of their own passes; what comes of them is compared, so nobody needs to read it."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
