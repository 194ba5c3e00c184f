"""The model a department ends up with, as a folder that outlives the libraries that made it.

    predictor.json       version, task, columns, which models with which weights
    tensors.safetensors  standardisation, and each model's arrays under ``0/…``, ``1/…``

No pickle: loading a folder runs nothing in it.  Predicting needs NumPy alone, and torch where a network is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from commonroot.client.data import Scaler, read_features
from commonroot.client.models import Model
from commonroot.client.tasks import Floats, Task, task_from_json
from commonroot.common.errors import DataError, ForeignState
from commonroot.files import atomic_write, storage_errors

VERSION: Final = 2
_RECORD: Final = "predictor.json"
_TENSORS: Final = "tensors.safetensors"


@dataclass(frozen=True, slots=True)
class Predictor:
    """Standardisation and one or more models whose predictions are averaged.

    names    of the columns it reads, in order
    members  models with positive weights that sum to 1
    about    plain facts for people (kind of model, charter, scores); JSON values
    """

    task: Task
    names: tuple[str, ...]
    scaler: Scaler
    members: tuple[tuple[float, Model], ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def predictive(self, x: NDArray[np.float64]) -> Floats:
        """Raw rows (n, columns) to the task's prediction array.  Raises DataError for other columns or non-numbers."""
        raw = np.asarray(x, dtype=np.float64)
        if raw.ndim != 2 or raw.shape[1] != len(self.names):
            raise DataError(f"expected rows of {len(self.names)} columns, found shape {raw.shape}")
        if not np.isfinite(raw).all():
            raise DataError("the rows hold values that are not finite numbers")
        return mix(self.task, self.members, self.scaler.apply(raw))

    def predict(self, x: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Raw rows (n, columns) to named columns: class and probabilities, or value."""
        return self.task.columns(self.predictive(x))

    def predict_file(self, path: Path) -> dict[str, NDArray[Any]]:
        """Rows of a .csv (columns by name) or .npz (``X``, and ``names`` unless in this order) to named columns."""
        return self.predict(read_features(path, self.names))

    def save(self, folder: Path) -> None:
        """Write into ``folder``, made where needed; each file appears whole or not at all, the record last.

        Raises StorageFull or ConfigError where the disk refuses.
        """
        arrays = {"scaler/centre": self.scaler.centre, "scaler/scale": self.scaler.scale}
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
            "columns": list(self.names),
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
            scaler = Scaler(arrays["scaler/centre"], arrays["scaler/scale"])
            names = tuple(map(str, record["columns"]))
            return cls(task_from_json(record["task"]), names, scaler, members, record["about"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ForeignState(f"{folder.name!r} holds no predictor that this version can read") from error


def mix(task: Task, members: tuple[tuple[float, Model], ...], x: NDArray[Any]) -> Floats:
    """The weighted mean of the models' predictions for rows as the models read them."""
    total = sum(weight * model.predict(task, x) for weight, model in members)
    return np.asarray(total, dtype=np.float64)


def _model(entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Model:
    calibrated = float(entry["temperature"]), float(entry["shift"])
    return Model(str(entry["kind"]), arrays, *calibrated, network=entry.get("network"))


def _under(arrays: Mapping[str, NDArray[Any]], at: int) -> dict[str, NDArray[Any]]:
    prefix = f"{at}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
