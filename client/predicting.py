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
from commonroot.client.recommender import RECORD, Recommender
from commonroot.client.store import DepartmentStore
from commonroot.common.errors import ConfigError
from commonroot.console import say
from commonroot.files import atomic_write


def chosen_predictor(root: Path) -> Predictor | Recommender:
    """The newest chosen model of a folder.  Raises ConfigError where no run has ended yet."""
    config = DepartmentFolder(root).config
    store = DepartmentStore(root, federation=config.federation, department=config.name)
    try:
        path = store.latest_predictor()
    finally:
        store.close()
    if path is None:
        raise ConfigError(f"{root} holds no chosen model yet", hint="one is chosen when a run ends")
    return Recommender.load(path) if (path / RECORD).is_file() else Predictor.load(path)


def chosen_recommender(root: Path) -> Recommender:
    """The same where it must be a recommender.  Raises ConfigError where it is not."""
    found = chosen_predictor(root)
    if not isinstance(found, Recommender):
        raise ConfigError(
            f"the chosen model of {root} predicts no ratings", hint="only recommenders know the best items"
        )
    return found


def predict_file(root: Path, rows: Path, *, out: Path | None, as_json: bool, top: int | None = None) -> dict[str, Any]:
    """Predict a .csv or .npz; CSV to ``out`` (whole or not at all) or to the terminal.  Raises DataError.

    ``top`` asks a recommender for that many best items of each user in the file instead.
    """
    if top is not None:
        return show(chosen_recommender(root).recommend_file(rows, top), out=out, as_json=as_json)
    return show(chosen_predictor(root).predict_file(rows), out=out, as_json=as_json)


def profiles(root: Path, *, top: int, segments: int, out: Path | None, as_json: bool) -> dict[str, Any]:
    """One line per user of a recommender, as CSV like ``predict_file``."""
    return show(chosen_recommender(root).profiles(top=top, segments=segments), out=out, as_json=as_json)


def show(columns: dict[str, NDArray[Any]], *, out: Path | None, as_json: bool) -> dict[str, Any]:
    """Named columns as CSV to a file or the terminal, or as JSON; how many rows, and which columns."""
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
