"""``department export``: the chosen model as a folder that stands on its own.

predictor.json, tensors.safetensors  the predictor as this program stores it (see ``client.predictor``); loads elsewhere
card.json, card.md                   the model card, for machines and for people
model.onnx                           with ``--onnx``: encoded rows to the task's prediction array
onnx.json                            its input and output, and how far it is from the predictor on real rows

The folder appears whole or not at all, and never in place of another.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.data import read_batches
from commonroot.client.folder import DepartmentFolder
from commonroot.client.out.card import CARD, card_of, card_text, predicted_columns
from commonroot.client.predicting import chosen_folder, load_predictor
from commonroot.client.predictor import Predictor
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write, storage_errors, sync_folder

#: Rows that ONNX is compared with the predictor on.
COMPARED: Final = 2_000


def export_folder(root: Path, out: Path, *, onnx: bool = False, rows: Path | None = None) -> dict[str, Any]:
    """Write the chosen model of ``root`` to a new folder; what was written, as JSON values.

    rows  a file of rows to compare ONNX on, instead of the department's own data

    Raises ConfigError where ``out`` holds something, or where ONNX is not the model; nothing is written then.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100, a link at the end is followed by nobody
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not empty", hint="name a new folder")
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent}", hint="make it first")
    chosen = chosen_folder(root)
    predictor = load_predictor(chosen)
    card = card_of(root, chosen, predictor, dates=True)
    extra: dict[str, bytes] = {}
    facts: dict[str, Any] = {"out": str(out)}
    if onnx:
        extra["model.onnx"], described = _onnx(root, predictor, rows)
        extra["onnx.json"] = _json(described)
        facts["onnx"] = {"opset": described["opset"], **described["parity"]}
        card = card | {"onnx": facts["onnx"]}
    with storage_errors(out):
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        predictor.save(temporary)
        for name, content in {CARD: _json(card), "card.md": card_text(card).encode(), **extra}.items():
            atomic_write(temporary / name, content, mode=0o600)
        with storage_errors(out):
            temporary.replace(out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return facts | {"files": sorted(path.name for path in out.iterdir())}


def _onnx(root: Path, predictor: Predictor, rows: Path | None) -> tuple[bytes, dict[str, Any]]:
    from commonroot.client.out.onnx_graph.graph import OPSET, OPSET_ML
    from commonroot.client.out.onnx_graph.write import TOLERANCE, checked

    content, parity = checked(predictor, _encoded(root, predictor, rows))
    features = predictor.features
    return content, {
        "opset": OPSET,
        "opset_ml": OPSET_ML,
        "input": {"name": "rows", "dtype": features.input.dtype, "shape": ["rows", *features.input.shape]},
        "encoded_columns": list(features.names),
        "output": {"name": "predictions", "dtype": "float64", "task": predictor.task.to_json()},
        "columns": list(predicted_columns(predictor)),
        "parity": {"rows": parity.rows, "difference": parity.difference, "allowed": TOLERANCE},
    }


def _encoded(root: Path, predictor: Predictor, rows: Path | None) -> NDArray[Any]:
    """The first rows of a file, or of the department's own source, encoded.  Raises ConfigError where there is none."""
    url = query = ""
    if rows is None:
        if (root / "predictor.json").is_file():
            raise ConfigError("an exported folder holds no rows to compare ONNX on", hint="give some with --rows FILE")
        data = DepartmentFolder(root).data
        url, query = data.url or "", data.query or ""
        rows = None if data.path is None else root / data.path
    for frame, folder in read_batches(rows, predictor.features, url=url, query=query, size=COMPARED):
        held = len(frame) if predictor.features.window is not None else COMPARED
        return np.ascontiguousarray(predictor.features.encode(frame.head(held), folder)[:COMPARED])
    raise ConfigError("there are no rows to compare ONNX on", hint="give some with --rows FILE")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode()
