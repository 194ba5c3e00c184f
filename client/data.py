"""From a department's file to rows that a model can learn from: task, private split, standardisation.

The split is drawn from the department's own seed, the same for the same seed and data, and nobody else learns it.
Training rows fit everything; validation rows only choose; test rows are read once, for the report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.table import Problem, Table, read_table, refuse
from commonroot.client.tasks import TASKS, Regression, Task, sort_labels
from commonroot.common.errors import ConfigError

#: Fewer rows than this leave nothing to learn, choose and test on.
FEWEST_ROWS: Final = 10
#: Standardised values are clipped to ±this, so that a column that hardly varied in training cannot explode later.
STANDARD_LIMIT: Final = 5.0

Fraction = Annotated[float, Field(gt=0, lt=0.9, allow_inf_nan=False)]


class DataConfig(BaseModel):
    """Where a department's rows are and what they mean.

    path        .csv or .npz, relative to the department's folder
    target      column (or array) to predict
    task        ``classification``, ``binary``, ``regression`` or ``recommendation`` (see ``ratings``)
    user, item  of a recommendation: the columns that say who rated what; the target is the rating
    catalogue   of a recommendation: a .csv that lists every item there is in a column named as ``item``
    features    columns in order, or every column but the target
    labels      every label there is, in order; found in the data where not given
    validation  share of the rows that are not test rows kept for choosing
    test        share of all rows kept for the report
    test_rows   that many test rows instead of a share
    test_path   a file of test rows instead; then all of ``path`` is for training and validation
    scaling     ``columns``: each by its own spread; ``table``: all by one spread, for columns that share a unit
                (pixels, bins of a spectrum), whose relative spread means something
    seed        of the split; private
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    target: Annotated[str, Field(min_length=1)]
    task: Literal["classification", "binary", "regression", "recommendation"]
    user: Annotated[str, Field(min_length=1)] | None = None
    item: Annotated[str, Field(min_length=1)] | None = None
    catalogue: Path | None = None
    features: Literal["all but target"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all but target"
    labels: Annotated[tuple[str | int, ...], Field(min_length=2)] | None = None
    validation: Fraction = 0.2
    test: Fraction = 0.2
    test_rows: Annotated[int, Field(ge=1)] | None = None
    test_path: Path | None = None
    scaling: Literal["columns", "table"] = "columns"
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.task == "recommendation") != (self.user is not None and self.item is not None):
            raise ValueError("a recommendation, and nothing else, names the columns user and item")
        if self.catalogue is not None and self.item is None:
            raise ValueError("only a recommendation has a catalogue")
        if self.labels is not None and self.task == "regression":
            raise ValueError("a regression has no labels")
        if self.task == "binary" and self.labels is not None and len(self.labels) != 2:
            raise ValueError("a binary task has two labels")
        if self.labels is not None and len({str(label) for label in self.labels}) != len(self.labels):
            raise ValueError("a label is listed twice")
        if self.test_rows is not None and self.test_path is not None:
            raise ValueError("give test_rows or test_path, not both")
        if not isinstance(self.features, str) and self.target in self.features:
            raise ValueError("the target is among the features")
        return self


@dataclass(frozen=True, slots=True)
class Rows:
    """Standardised rows with their encoded target.  They never leave the department.

    x  (n, columns) float32
    y  (n,) int64 label positions, or float64 values in the target's own units
    """

    x: NDArray[np.float32] = field(repr=False)
    y: NDArray[Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.y)

    def take(self, at: NDArray[np.int64]) -> Rows:
        """The rows at these positions."""
        return Rows(self.x[at], self.y[at])

    def join(self, other: Rows) -> Rows:
        """These rows, then the others."""
        return Rows(np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))


@dataclass(frozen=True, slots=True)
class Scaler:
    """(x - centre) / scale, clipped to ±STANDARD_LIMIT; with a spread per column, one that never varied becomes 0.

    centre, scale  (columns,) float64 statistics of the training rows
    """

    centre: NDArray[np.float64] = field(repr=False)
    scale: NDArray[np.float64] = field(repr=False)

    @classmethod
    def fitted(cls, x: NDArray[np.float64], *, scaling: Literal["columns", "table"] = "columns") -> Scaler:
        """To training rows; ``scaling`` as in ``DataConfig``."""
        centre, spread = x.mean(axis=0), x.std(axis=0)
        # a spread that is rounding noise of a constant column counts as none
        constant = spread <= 1e-12 * np.maximum(np.abs(centre), 1e-300)
        if scaling == "table":
            whole = float(np.sqrt(np.square(spread[~constant]).mean())) if not constant.all() else np.inf
            return cls(centre, np.full_like(spread, whole))
        return cls(centre, np.where(constant, np.inf, spread))

    def with_shared(self, names: tuple[str, ...], shared: SharedStatistics) -> Scaler:
        """The same with the statistics of all departments' rows for the columns that they know."""
        centre, scale = self.centre.copy(), self.scale.copy()
        for at, name in enumerate(names):
            if shared.is_number(name):
                centre[at], spread = shared.standardise(name)
                scale[at] = spread if spread > 0 else np.inf
        return Scaler(centre, scale)

    def apply(self, x: NDArray[np.float64]) -> NDArray[np.float32]:
        """(n, columns) float64 to standardised float32."""
        return np.clip((x - self.centre) / self.scale, -STANDARD_LIMIT, STANDARD_LIMIT).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a department learns from.

    names    of the columns, in order
    """

    names: tuple[str, ...]
    task: Task
    scaler: Scaler
    train: Rows
    validation: Rows
    test: Rows

    @property
    def inputs(self) -> int:
        """Width of a standardised row."""
        return len(self.names)


def prepare(
    config: DataConfig,
    *,
    folder: Path = Path(),
    inputs: int | None = None,
    shared: SharedStatistics | None = None,
) -> Prepared:
    """Read, check, split and standardise.

    folder  what relative paths are relative to
    inputs  columns that the charter's backbone takes; None where there is no charter yet
    shared  statistics of all departments' rows: columns that they know are standardised by them, and not by own rows

    Raises DataError that lists everything wrong at once, ConfigError for a task without a feature table.
    """
    if config.task == "recommendation":
        raise ConfigError("a recommendation has ratings and no features", hint='use a charter with method "als"')
    numeric = config.task == "regression"
    table, problems = read_table(folder / config.path, config.features, target=config.target, numeric_target=numeric)
    tested: Table | None = None
    if config.test_path is not None:
        features = config.features if table is None else table.names
        tested, more = read_table(folder / config.test_path, features, target=config.target, numeric_target=numeric)
        problems += more
    if table is not None:
        file = config.path.name
        problems += _check_shape(file, table, config, inputs)
        problems += _check_labels(file, table, config, rows_before=_rows_before(config.path))
        if tested is not None and config.test_path is not None:
            known = config if config.labels is not None else _with_labels(config, table)
            problems += _check_labels(config.test_path.name, tested, known, _rows_before(config.test_path), whole=False)
    refuse(problems)
    if table is None or table.y is None:
        raise ValueError("a table without problems has a target")
    return _assemble(config, table, tested, shared)


def read_features(path: Path, names: tuple[str, ...]) -> NDArray[np.float64]:
    """(rows, names) float64 from a .csv or .npz that need not hold a target; DataError lists every problem."""
    table, problems = read_table(path, names, target=None, numeric_target=False)
    refuse(problems)
    if table is None:
        raise ValueError("a table without problems was read")
    return table.x


def split_rows(
    y: NDArray[Any], *, test: int, validation: float, seed: int, stratify: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Positions of training, validation and test rows, each ascending.

    test        that many test rows
    validation  share of the other rows; at least one row
    stratify    keep the shares of labels, and one row of every label for training where there are enough rows
    """
    random = np.random.default_rng([0x73706C6974, seed])
    order = random.permutation(len(y)).astype(np.int64)
    reserved = np.zeros(len(y), dtype=bool)
    if stratify:
        _, groups = np.unique(y, return_inverse=True)
        # within shuffled rows: by label, labels in a shuffled order
        rank = random.permutation(int(groups.max()) + 1)[groups]
        order = order[np.argsort(rank[order], kind="stable")]
        first = np.unique(rank[order], return_index=True)[1]
        reserved[order[first]] = True
    chosen_test = _every_so_often(order, reserved, test)
    left = order[~np.isin(order, chosen_test)]
    chosen_validation = _every_so_often(left, reserved, min(max(1, round(validation * len(left))), len(left) - 1))
    train = left[~np.isin(left, chosen_validation)]
    return np.sort(train), np.sort(chosen_validation), np.sort(chosen_test)


def folds(y: NDArray[Any], *, count: int, seed: int, stratify: bool) -> NDArray[np.int64]:
    """(n,) fold of each row, in 0 … count - 1, sizes within one of each other and labels spread evenly."""
    random = np.random.default_rng([0x666F6C6473, seed])
    order = random.permutation(len(y))
    if stratify:
        order = order[np.argsort(y[order], kind="stable")]
    out = np.empty(len(y), dtype=np.int64)
    out[order] = np.arange(len(y)) % count
    return out


def _every_so_often(order: NDArray[np.int64], reserved: NDArray[np.bool_], wanted: int) -> NDArray[np.int64]:
    """``wanted`` of the rows, evenly spaced along ``order``, so that every stretch of it gives its share."""
    free = order[~reserved[order]]
    if len(free) < wanted:
        free = order  # too few rows to keep one of each label back
    at = np.arange(len(free))
    return free[((at + 1) * wanted) // len(free) > (at * wanted) // len(free)]


def training_rows(config: DataConfig, *, folder: Path = Path()) -> NDArray[np.int64]:
    """Positions in ``path`` of the rows that training may see, as ``prepare`` splits them, whatever their features."""
    numeric = config.task in ("regression", "recommendation")
    table, problems = read_table(folder / config.path, (), target=config.target, numeric_target=numeric)
    refuse(problems)
    if table is None or table.y is None:
        raise ValueError("a table without problems has a target")
    labels = None if numeric else _label_set(config, table)
    return _split(config, _encode(table, labels), stratify=not numeric)[0]


def _split(
    config: DataConfig, y: NDArray[Any], *, stratify: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    test = 0 if config.test_path is not None else config.test_rows or max(1, round(config.test * len(y)))
    return split_rows(y, test=test, validation=config.validation, seed=config.seed, stratify=stratify)


def _assemble(config: DataConfig, table: Table, tested: Table | None, shared: SharedStatistics | None) -> Prepared:
    labels = _label_set(config, table)
    y = _encode(table, labels)
    train, validation, held = _split(config, y, stratify=labels is not None)
    scaler = Scaler.fitted(table.x[train], scaling=config.scaling)
    if shared is not None:
        scaler = scaler.with_shared(table.names, shared)

    def rows(at: NDArray[np.int64]) -> Rows:
        return Rows(scaler.apply(table.x[at]), y[at])

    test_rows = rows(held) if tested is None else Rows(scaler.apply(tested.x), _encode(tested, labels))
    task = Regression.fitted(y[train]) if labels is None else TASKS[config.task].from_json({"labels": list(labels)})
    return Prepared(table.names, task, scaler, rows(train), rows(validation), test_rows)


def _label_set(config: DataConfig, table: Table) -> tuple[str, ...] | None:
    if config.task == "regression" or table.y is None:
        return None
    return sort_labels(table.y.tolist()) if config.labels is None else tuple(str(label) for label in config.labels)


def _encode(table: Table, labels: tuple[str, ...] | None) -> NDArray[Any]:
    if table.y is None:
        raise ValueError("a table with a target was asked for")
    if labels is None:
        return np.asarray(table.y, dtype=np.float64)
    position = {label: at for at, label in enumerate(labels)}
    return np.array([position[label] for label in table.y.tolist()], dtype=np.int64)


def _with_labels(config: DataConfig, table: Table) -> DataConfig:
    return config.model_copy(update={"labels": _label_set(config, table)})


def _rows_before(path: Path) -> int:
    """Rows are counted from 1, after the header where there is one."""
    return 2 if path.suffix.lower() == ".csv" else 1


def _check_shape(file: str, table: Table, config: DataConfig, inputs: int | None) -> list[Problem]:
    problems = []
    n, columns = table.x.shape
    if inputs is not None and columns != inputs:
        fix = "list exactly the columns that the charter was made for in `features`"
        expected = f"{inputs}, as the charter's backbone takes"
        problems.append(Problem(file=file, found=f"{columns} feature columns", expected=expected, fix=fix))
    needed = max(FEWEST_ROWS, (config.test_rows or 0) + FEWEST_ROWS)
    if n < needed:
        expected = f"at least {needed}"
        problems.append(Problem(file=file, found=f"{n} rows", expected=expected, fix="collect more rows"))
    return problems


def _check_labels(
    file: str, table: Table, config: DataConfig, rows_before: int, *, whole: bool = True
) -> list[Problem]:
    """Labels outside the list; and, for a whole table, too few different ones."""
    if table.y is None or config.task == "regression":
        return []
    problems = []
    found = table.y.tolist()
    if config.labels is not None:
        allowed = {str(label) for label in config.labels}
        for row, label in enumerate(found):
            if label not in allowed:
                at, fix = row + rows_before, "mend the label or add it to `labels`"
                problems.append(
                    Problem(
                        file=file,
                        row=at,
                        column=config.target,
                        found=f"the label {label[:24]!r}",
                        expected=f"one of the {len(allowed)} labels known",
                        fix=fix,
                    )
                )
    different = len(set(found))
    if whole and different < 2:
        fix = "one class alone cannot be learned"
        expected = "at least two"
        problems.append(
            Problem(file=file, column=config.target, found=f"{different} label", expected=expected, fix=fix)
        )
    if whole and config.task == "binary" and different > 2:
        fix = 'use task = "classification"'
        problems.append(Problem(file=file, column=config.target, found=f"{different} labels", expected="two", fix=fix))
    return problems
