"""Anomaly detection: rows that a model of normal rows cannot reproduce.

A network reconstructs its own input, trained on rows not known to be anomalous by the mean squared error; chance is
that of the training rows' mean.  A model's score is the log of a row's error over a threshold, the ``quantile`` of
errors of held-out normal rows, so 0 separates and scores of different models can be averaged.  Baselines that do not
reconstruct (isolation forest) give a score of their own in the same form.

Labels (1 anomaly, 0 normal, -1 unknown) only score.  Where held-out rows hold too few known anomalies to compare
models, they are told apart from *reference rows* made of the held-out ones by shuffling each column or channel on its
own and stretching every second row away from the mean: finding a region of high density is classifying against a
reference (Steinwart, Hush, Scovel, 2005).  Without any labels the report scores test rows the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from commonroot.client.tasks import weighted
from commonroot.client.tasks.base import LEAST_PROBABILITY, Array, Floats, Learns, Task, TaskConfig
from commonroot.client.tasks.columns import Problem, Target, Where, frame_of
from commonroot.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

#: Fewer known anomalies than this among held-out rows cannot compare models by themselves.
FEWEST_ANOMALIES: Final = 20
#: Models are compared, and spreads measured, on this many rows at most.
MOST_JUDGED: Final = 20_000
#: How far reference rows are stretched away from the mean.
STRETCH: Final = 2.0
#: Errors below this count as this.
_LEAST_ERROR: Final = 1e-12


class AnomalyConfig(TaskConfig):
    """quantile   of normal rows' errors above which a row is an anomaly
    anomalous  values of the target column that mean an anomaly; others are normal, empty cells unknown
    metric     ``F1`` at the threshold, or ``AUC``, which asks only for the ranking
    """

    quantile: Annotated[float, Field(gt=0.5, lt=1)] = 0.99
    anomalous: Annotated[tuple[str | int | bool, ...], Field(min_length=1)] = (1, True)
    metric: Literal["F1", "AUC"] = "F1"


@dataclass(frozen=True, slots=True, repr=False)
class Anomaly(Task):
    """y is (n,) int64: 1 anomaly, 0 normal, -1 unknown.

    known   the target says which rows are anomalies, at least for some
    width   numbers in a row; 0 before ``fitted_to``
    spread  mean squared distance of training values from their mean
    """

    kind: ClassVar[str] = "anomaly"
    Config: ClassVar[type[TaskConfig]] = AnomalyConfig
    learns: ClassVar[Learns] = "itself"
    reconstructs: ClassVar[bool] = True
    tempered: ClassVar[bool] = True
    needs_target: ClassVar[bool] = False

    quantile: float = 0.99
    anomalous: tuple[str, ...] = ("1", "true")
    scored: str = "F1"
    known: bool = True
    width: int = 0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not (0.5 < self.quantile < 1 and self.spread > 0 and self.width >= 0):
            raise ConfigError("an anomaly task needs a quantile between one half and 1, and a positive spread")

    @classmethod
    def learn(cls, config: Any, target: Target) -> Self:
        names = tuple(dict.fromkeys(str(value).lower() for value in config.anomalous))
        made = cls(config.quantile, names, config.metric)
        y, _ = made.encode(target, Where())
        if len(y) and (y == 1).all():
            raise DataError("every training row is an anomaly; there is no normal row to learn from")
        return replace(made, known=bool((y >= 0).any()))

    def encode(self, target: Target, where: Where) -> tuple[Array, list[Problem]]:
        frame = frame_of(target)
        if frame.width == 0:
            return np.zeros(0, dtype=np.int64), []
        column = frame.to_series(0)
        if column.dtype.is_float():  # 1.0 is 1
            column = column.fill_nan(None).cast(pl.Int64, strict=False)
        text = column.cast(pl.String).fill_null("").str.strip_chars().str.to_lowercase().str.replace(r"\.0+$", "")
        marked, known = text.is_in(list(self.anomalous)), ~text.is_in(["", "-1"])
        y = np.where(known.to_numpy(), marked.to_numpy(), -1).astype(np.int64)
        return y, []

    def fitted_to(self, x: Array) -> Task:
        if x.dtype.kind in "iu":
            raise ConfigError("anomalies are found among numbers, not tokens; use columns, a sequence or images")
        rows = _flat(x[:: max(1, math.ceil(len(x) / MOST_JUDGED))]).astype(np.float64)
        spread = float(np.square(rows - rows.mean(axis=0)).mean()) if len(rows) else 1.0
        return replace(self, width=math.prod(x.shape[1:]), spread=spread if spread > _LEAST_ERROR else 1.0)

    @property
    def outputs(self) -> int:
        if not self.width:
            raise ConfigError("the size of a row is not known yet")
        return self.width

    @property
    def chance(self) -> float:
        return self.spread

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean()

    def targets(self, y: Array) -> Array:
        return _flat(y).astype(np.float32, copy=False)

    def learnable(self, y: Array) -> NDArray[np.bool_]:
        return np.asarray(y != 1)

    def settled(self, outputs: Array, x: Array) -> Array:
        error = np.square(np.asarray(outputs, dtype=np.float64) - _flat(x)).mean(axis=1, keepdims=True)
        return np.asarray(np.log(np.maximum(error, _LEAST_ERROR)))

    def predictive(self, outputs: Array) -> Floats:
        """Settled outputs (n, 1), their threshold taken off, as scores (n,)."""
        return np.asarray(outputs, dtype=np.float64)[:, 0]

    def shift(self, outputs: Array, y: Array) -> float:
        normal = np.asarray(outputs)[y != 1, 0]
        return float(np.quantile(normal, self.quantile)) if len(normal) else 0.0

    def row_losses(self, predicted: Floats, y: Array) -> Floats:
        """Log loss of σ(score) in multiples of log 2; 0 where y is unknown."""
        lost = np.logaddexp(0.0, np.where(y == 1, -predicted, predicted)) / math.log(2.0)
        most = -math.log(LEAST_PROBABILITY) / math.log(2.0)
        return np.asarray(np.where(y >= 0, np.minimum(lost, most), 0.0), dtype=np.float64)

    @property
    def labelled(self) -> bool:
        return self.known

    def judged(self, x: Array, y: Array, *, seed: int) -> tuple[Array, Array]:
        random = np.random.default_rng([0x6A756467, seed])
        if (y == 1).sum() >= FEWEST_ANOMALIES and (y == 0).sum() >= FEWEST_ANOMALIES:
            at = _some(np.flatnonzero(y >= 0), random)
            return x[at], y[at]
        normal = _some(np.flatnonzero(y != 1), random)
        rows, found = x[normal], x[_some(np.flatnonzero(y == 1), random)]
        shuffled = reference_rows(rows, random)
        parts = [np.zeros(len(rows)), np.ones(len(found) + len(shuffled))]
        return np.concatenate([rows, found, shuffled]), np.concatenate(parts).astype(np.int64)

    @property
    def metric(self) -> str:
        return self.scored if self.known else f"{self.scored} against shuffled rows"

    def scores(self, predicted: Floats, y: Array, counts: Floats) -> Floats:
        sure = y >= 0
        counts, true, score = counts[:, sure], y[sure] == 1, predicted[sure]
        if self.scored == "AUC":
            return weighted.auc(score, true, counts)
        said = score > 0
        return weighted.f1(said & true, ~said & true, said & ~true, counts)

    def columns(self, predicted: Floats) -> dict[str, Array]:
        """``anomaly`` 0 or 1, and ``score``, above 0 for an anomaly."""
        return {"anomaly": (predicted > 0).astype(np.int64), "score": predicted}

    def facts(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """Share of rows called anomalies; on rows with known labels F1, AUC, precision, recall and false alarms."""
        said = predicted > 0
        out: dict[str, Any] = {"called_anomalies": float(said.mean()) if len(said) else 0.0}
        sure = y >= 0
        if not sure.any():
            return out
        said, true, once = said[sure], y[sure] == 1, np.ones((1, int(sure.sum())))
        return out | {
            "f1": float(weighted.f1(said & true, ~said & true, said & ~true, once)[0]),
            "auc": float(weighted.auc(predicted[sure], true, once)[0]),
            "precision": float(true[said].mean()) if said.any() else None,
            "recall": float(said[true].mean()) if true.any() else None,
            "false_alarms": float(said[~true].mean()) if (~true).any() else None,
        }

    def plot(self, predicted: Floats, y: Array) -> dict[str, Any]:
        """Shares of normal and anomalous rows by score, in 24 bins between the 1 % and 99 % quantiles."""
        if not len(predicted):
            return {}
        low, high = np.quantile(predicted, [0.01, 0.99])
        edges = np.linspace(low, high if high > low else low + 1.0, 25)
        inside = np.clip(predicted, edges[0], edges[-1])
        parts = {"normal": inside[y == 0], "anomalous": inside[y == 1], "unknown": inside[y < 0]}
        shares = {name: (np.histogram(v, edges)[0] / len(v)).tolist() for name, v in parts.items() if len(v)}
        return {"kind": "histogram", "edges": edges.tolist(), "shares": shares}

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "quantile": self.quantile,
            "anomalous": list(self.anomalous),
            "metric": self.scored,
            "known": self.known,
            "width": self.width,
            "spread": self.spread,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            float(value["quantile"]),
            tuple(map(str, value["anomalous"])),
            str(value["metric"]),
            bool(value["known"]),
            int(value["width"]),
            float(value["spread"]),
        )


def reference_rows(rows: Array, random: np.random.Generator) -> Array:
    """As many rows again that keep the marginals of ``rows`` and lose what ties their parts together.

    Parts that move together: a column of (n, d); a channel of (n, steps, channels); a channel of (n, channels, height,
    width); where there is only one, quarters along the next axis.  Every second row is stretched from the mean as well.
    """
    parts = np.moveaxis(rows, -1, 1) if rows.ndim == 3 else rows
    if rows.ndim > 2 and parts.shape[1] == 1:
        columns = np.array_split(np.arange(parts.shape[2]), min(4, parts.shape[2]))
        mixed = np.concatenate([parts[random.permutation(len(rows))][:, :, part] for part in columns], axis=2)
    else:
        mixed = np.stack([parts[random.permutation(len(rows)), at] for at in range(parts.shape[1])], axis=1)
    out = np.moveaxis(mixed, 1, -1) if rows.ndim == 3 else mixed
    if len(out):
        mean = rows.mean(axis=0)
        out[::2] = mean + STRETCH * (out[::2] - mean)
    return out.astype(rows.dtype, copy=False)


def _flat(x: Array) -> Array:
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _some(at: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    return at if len(at) <= MOST_JUDGED else np.sort(random.choice(at, MOST_JUDGED, replace=False))
