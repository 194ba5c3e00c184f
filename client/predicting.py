"""``department predict``: rows in, named columns out, with the model this department chose."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonroot.client.folder import DepartmentFolder
from commonroot.client.predictor import Predictor
from commonroot.client.store import DepartmentStore
from commonroot.common.errors import ConfigError
from commonroot.console import say
from commonroot.files import atomic_write


def chosen_predictor(root: Path) -> Predictor:
    """The newest chosen model of a folder.  Raises ConfigError where no run has ended yet."""
    config = DepartmentFolder(root).config
    store = DepartmentStore(root, federation=config.federation, department=config.name)
    try:
        path = store.latest_predictor()
    finally:
        store.close()
    if path is None:
        raise ConfigError(f"{root} holds no chosen model yet", hint="one is chosen when a run ends")
    return Predictor.load(path)


def predict_file(root: Path, rows: Path, *, out: Path | None, as_json: bool) -> dict[str, Any]:
    """Predict a .csv or .npz; CSV to ``out`` (whole or not at all) or to the terminal.  Raises DataError."""
    columns = chosen_predictor(root).predict_file(rows)
    count = len(next(iter(columns.values())))
    if out is not None:
        atomic_write(out, _csv(columns).encode())
    elif as_json:
        say(json.dumps({name: values.tolist() for name, values in columns.items()}))
    else:
        say(_csv(columns).rstrip("\n"))
    return {"rows": count, "columns": list(columns)}


def _csv(columns: dict[str, NDArray[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    cells = [np.round(v, 6).tolist() if v.dtype.kind == "f" else v.tolist() for v in columns.values()]
    writer.writerows(zip(*cells, strict=True))
    return text.getvalue()
