"""The model a department ends up with, as a folder that outlives the libraries that made it.

    predictor.json       version, task, fitted features, which models with which weights
    tensors.safetensors  the features' arrays under ``features/…``, each model's under ``0/…``, ``1/…``

No pickle: loading a folder runs nothing in it.  Predicting needs NumPy alone, and torch where a network is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from commonroot.client.data import Features, read_batches
from commonroot.client.models import Model
from commonroot.client.tasks import Floats, Task, task_from_json
from commonroot.common.errors import DataError, ForeignState
from commonroot.files import atomic_write, storage_errors

VERSION: Final = 3
_RECORD: Final = "predictor.json"
_TENSORS: Final = "tensors.safetensors"


@dataclass(frozen=True, slots=True)
class Predictor:
    """Fitted features and one or more models whose predictions are averaged.

    members  models with positive weights that sum to 1
    about    plain facts for people (kind of model, charter, scores); JSON values
    """

    task: Task
    features: Features
    members: tuple[tuple[float, Model], ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the raw columns it reads, in order."""
        return self.features.columns

    def predictive(self, rows: pl.DataFrame | NDArray[np.float64], folder: Path = Path()) -> Floats:
        """Raw rows to the task's prediction array.

        rows    a frame with the columns by name, as ``read_batches`` gives it; or, where every feature is a number, an
                array (n, columns).  A gap is null or NaN
        folder  what paths in cells are relative to

        Raises DataError for other columns or values that are infinite.
        """
        if isinstance(rows, pl.DataFrame):
            absent = [name for name in self.names if name not in rows.columns]
            if absent:
                raise DataError(f"the rows lack {len(absent)} column(s), the first is {absent[0][:60]!r}")
            return mix(self.task, self.members, self.features.encode(rows, folder))
        numbers = self.features.numbers_only
        if numbers is None:
            raise DataError("rows of features that are not all numbers come as a table with named columns")
        raw = np.asarray(rows, dtype=np.float64)
        if raw.ndim != 2 or raw.shape[1] != len(self.names):
            raise DataError(f"expected rows of {len(self.names)} columns, found shape {raw.shape}")
        if np.isinf(raw).any():
            raise DataError("the rows hold infinite values")
        return mix(self.task, self.members, numbers.encode_matrix(raw))

    def predict(self, rows: pl.DataFrame | NDArray[np.float64], folder: Path = Path()) -> dict[str, NDArray[Any]]:
        """Raw rows to named columns: class and probabilities, or value."""
        return self.task.columns(self.predictive(rows, folder))

    def predict_batches(
        self, path: Path | None, *, url: str = "", query: str = ""
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Rows of a file or a query, batch by batch, to named columns.  Raises DataError."""
        for frame, folder in read_batches(path, self.features, url=url, query=query):
            yield self.predict(frame, folder)

    def predict_file(self, path: Path) -> dict[str, NDArray[Any]]:
        """Rows of any file that can be trained on (an .npz without names has the columns x0, x1 …) to named columns."""
        batches = list(self.predict_batches(path))
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def save(self, folder: Path) -> None:
        """Write into ``folder``, made where needed; each file appears whole or not at all, the record last.

        Raises StorageFull or ConfigError where the disk refuses.
        """
        arrays = {f"features/{name}": array for name, array in self.features.arrays().items()}
        listed = []
        for at, (weight, model) in enumerate(self.members):
            arrays |= {f"{at}/{name}": array for name, array in model.arrays.items()}
            entry = {
                "kind": model.kind,
                "weight": weight,
                "temperature": model.temperature,
                "shift": model.shift,
            }
            listed.append(entry if model.network is None else entry | {"network": dict(model.network)})
        record = {
            "version": VERSION,
            "task": self.task.to_json(),
            "features": self.features.to_json(),
            "models": listed,
            "about": dict(self.about),
        }
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        tensors = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
        atomic_write(folder / _TENSORS, tensors, mode=0o600)
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
        atomic_write(folder / _RECORD, text.encode(), mode=0o600)

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Read what ``save`` wrote.  Raises ForeignState for anything else."""
        try:
            record = json.loads((folder / _RECORD).read_bytes())
            arrays = load_file(folder / _TENSORS)
            if record["version"] != VERSION:
                raise ForeignState(f"a predictor of layout {record['version']!r}; this version reads {VERSION}")
            members = tuple(
                (float(entry["weight"]), _model(entry, _under(arrays, at))) for at, entry in enumerate(record["models"])
            )
            features = Features.from_json(record["features"], _under(arrays, "features"))
            return cls(task_from_json(record["task"]), features, members, record["about"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ForeignState(f"{folder.name!r} holds no predictor that this version can read") from error


def mix(task: Task, members: tuple[tuple[float, Model], ...], x: NDArray[Any]) -> Floats:
    """The weighted mean of the models' predictions for encoded rows."""
    total = sum(weight * model.predict(task, x) for weight, model in members)
    return np.asarray(total, dtype=np.float64)


def _model(entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Model:
    calibrated = float(entry["temperature"]), float(entry["shift"])
    return Model(str(entry["kind"]), arrays, *calibrated, network=entry.get("network"))


def _under(arrays: Mapping[str, NDArray[Any]], at: int | str) -> dict[str, NDArray[Any]]:
    prefix = f"{at}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
