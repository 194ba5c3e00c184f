"""The ``[data]`` section of ``department.toml``: where rows are, what their columns mean, how they are split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from commonroot.client.tasks.base import TaskConfig
from commonroot.client.tasks.recommendation import RECOMMENDATION
from commonroot.client.tasks.registry import task_class, task_config
from commonroot.common.errors import ConfigError

Fraction = Annotated[float, Field(gt=0, lt=0.9, allow_inf_nan=False)]
Column = Annotated[str, Field(min_length=1)]
Kind = Literal["number", "category", "datetime", "text", "tokens", "image", "sequence"]
Label = str | int


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureConfig(_Section):
    """One column and what it means.

    column    its name
    kind      ``number``, ``category``, ``datetime``, ``text`` (words), ``tokens`` (one id per item of a list or per
              word between blanks), ``image`` (a file's path, relative to the table), ``sequence`` (a list of numbers);
              found by a look at the column where not given
    limit     category: that many values have a column of their own, the others share one
    width     text for a row of numbers: length of its hashed vector; what the backbone leaves free where not given
    ngrams    text: runs of up to that many words count
    chars     text: runs of that many letters count too; 0 for none
    format    datetime written as text: ``%Y-%m-%d`` and the like; found where not given
    missing   ``indicator``: a gap is the training mean and a column of its own says so; ``mean``: without that column
    size      image: height and width it is brought to; the backbone's where not given
    channels  image: 1 for grey, 3 for colours
    steps     sequence: length it is brought to; the backbone's where not given
    """

    column: Column
    kind: Kind | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 64
    width: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    ngrams: Annotated[int, Field(ge=1, le=3)] = 2
    chars: Annotated[int, Field(ge=0, le=6)] = 0
    format: str | None = None
    missing: Literal["indicator", "mean"] = "indicator"
    size: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]] | None = None
    channels: Literal[1, 3] = 3
    steps: Annotated[int, Field(ge=1, le=100_000)] | None = None


class SplitConfig(_Section):
    """How rows are parted.  What it leaves out is read from the flat fields of ``[data]``.

    kind        ``random``, ``stratified`` (labels keep their shares), ``grouped`` (rows that share ``column`` stay
                together), ``time`` (the latest rows by ``column`` are for the test, those before for choosing)
    """

    kind: Literal["random", "stratified", "grouped", "time"]
    column: Column | None = None
    validation: Fraction | None = None
    test: Fraction | None = None
    seed: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _column(self) -> Self:
        if (self.column is not None) != (self.kind in ("grouped", "time")):
            raise ValueError("a grouped or time split names its column, and no other does")
        return self


class WindowConfig(_Section):
    """Rows seen with those before them: ``steps`` rows of one ``group`` in ``order``, oldest first.

    Where a group has fewer rows yet, its first one is repeated.

    horizon  the target is its own column in the next that many rows of the group (the forecast's own horizon where not
             given); rows that have no such future are left out, and the column's past is a feature
    """

    order: Column
    steps: Annotated[int, Field(ge=1, le=10_000)]
    group: Column | None = None
    horizon: Annotated[int, Field(ge=1, le=10_000)] | None = None


class DataConfig(_Section):
    """Where a department's rows are and what they mean.

    path        .csv, .parquet, .npz or a folder of images, relative to the department's folder
    url, query  instead of a path: a database and what to ask it; the connection can only read
    target      column (or array) to predict; a list where the task takes several; none where it needs none
    task        the kind of task, or a table that says more about it (``client/tasks``)
    user, item  of a recommendation: the columns that say who rated what; the target is the rating
    catalogue   of a recommendation: a table that lists every item there is in a column named as ``item``
    features    columns in order, or every column but the target; each a name or a table (``FeatureConfig``)
    labels      every label there is, in order; found in the data where not given
    expected    shares of the labels among the rows that the model is for, where those differ from the rows there are:
                ``even``, or a table with each label's.  ``labels`` are listed, with those not met yet
    labelled    false: the rows to learn from have no labels.  The department takes part with its features alone, and
                keeps the common model; ``labels`` are listed, the target may be missing, and all of ``path`` is for
                training.  Where there are some labels to test on, they stand in ``test_path`` under ``target``
    validation  share of the rows that are not test rows kept for choosing
    test        share of all rows kept for the report
    test_rows   that many test rows instead of a share
    test_path   a file of test rows instead; then all of ``path`` is for training and validation
    split       how rows are parted: a kind or a table (``SplitConfig``); labels keep their shares where not given
    window      rows seen with those before them (``WindowConfig``)
    scaling     ``columns``: each by its own spread; ``table``: all by one spread, for columns that share a unit
                (pixels, bins of a spectrum), whose relative spread means something; ``none``: as they are, within ± 5,
                for weights of words and the like, where 0 means that something is not there; a gap is 0 then
    balance     repeat training rows of rare labels until every label is as frequent as the most frequent one
    missing     what stands in an empty number cell of a CSV, besides nothing
    separator   between the cells of a CSV
    decimal     ``","`` where the numbers of a CSV are written with a decimal comma, and points group their thousands
    encoding    of a CSV
    trusted     columns that may equal the target all the same
    seed        of the split; private
    """

    path: Path | None = None
    url: Annotated[str | None, Field(min_length=1, repr=False)] = None
    query: Annotated[str, Field(min_length=1)] | None = None
    task: str | dict[str, Any]
    labelled: bool = True
    target: Annotated[
        Column | Annotated[tuple[Column, ...], Field(min_length=1)] | None, Field(validate_default=True)
    ] = None
    user: Column | None = None
    item: Column | None = None
    catalogue: Path | None = None
    features: Literal["all but target"] | Annotated[tuple[Column | FeatureConfig, ...], Field(min_length=1)] = (
        "all but target"
    )
    labels: Annotated[tuple[Label, ...], Field(min_length=2)] | None = None
    expected: Literal["even"] | dict[str, float] | None = None
    validation: Fraction = 0.2
    test: Fraction = 0.2
    test_rows: Annotated[int, Field(ge=1)] | None = None
    test_path: Path | None = None
    split: SplitConfig | None = None
    window: WindowConfig | None = None
    scaling: Literal["columns", "table", "none"] = "columns"
    balance: bool = False
    missing: tuple[str, ...] = ("NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    encoding: Column = "utf-8"
    trusted: tuple[Column, ...] = ()
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """``split = "random"`` stands for ``split = { kind = "random" }``; ``[data.task]`` may hold user and item."""
        if isinstance(value, dict) and isinstance(value.get("split"), str):
            value = value | {"split": {"kind": value["split"]}}
        task = value.get("task") if isinstance(value, dict) else None
        if isinstance(task, dict) and task.get("kind") == RECOMMENDATION:
            rated = {name: task[name] for name in ("user", "item", "catalogue") if name in task}
            value = {**value, **rated, "task": {name: task[name] for name in task if name not in rated}}
        return value

    @field_validator("task")
    @classmethod
    def _known(cls, task: str | dict[str, Any]) -> str | dict[str, Any]:
        try:
            task_config(task)
        except ConfigError as error:
            raise ValueError(f"{error}; {error.advice}") from error
        return task

    @field_validator("target")
    @classmethod
    def _needed(cls, target: str | tuple[str, ...] | None, info: ValidationInfo) -> str | tuple[str, ...] | None:
        task = info.data.get("task")
        kind = task if task is None or isinstance(task, str) else str(task["kind"])
        labelled = info.data.get("labelled", True)
        if target is None and labelled and (kind is None or task_class(kind).needs_target):
            raise ValueError(f"a {kind or 'task'} needs a target")
        return target

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("give path, or url with query")
        if (self.url is None) != (self.query is None):
            raise ValueError("url and query go together")
        self._fits_the_task()
        if not self.labelled:
            self._fits_without_labels()
        if self.labels is not None and len({str(label) for label in self.labels}) != len(self.labels):
            raise ValueError("a label is listed twice")
        if self.test_rows is not None and self.test_path is not None:
            raise ValueError("give test_rows or test_path, not both")
        listed = [one.column for one in self.listed or ()]
        if set(self.targets) & set(listed) and not self.horizon:
            raise ValueError("the target is among the features")
        if len(set(listed)) != len(listed):
            raise ValueError("a feature is listed twice")
        return self

    def _fits_the_task(self) -> None:
        kind = task_class(self.goal_kind)
        if self.labels is not None and "labels" not in kind.Config.model_fields:
            raise ValueError(f"a {kind.kind} has no labels")
        if self.expected is not None and "expected" not in kind.Config.model_fields:
            raise ValueError(f"nothing can be expected of the labels of a {kind.kind}")
        try:
            goal = self.goal
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if (kind.kind == RECOMMENDATION) != (self.user is not None and self.item is not None):
            raise ValueError("a recommendation, and nothing else, names the columns user and item")
        if self.catalogue is not None and self.item is None:
            raise ValueError("only a recommendation has a catalogue")
        if self.balance and kind.learns != "label":
            raise ValueError("only labels can be balanced")
        if self.balance and getattr(goal, "expected", None) is not None:
            raise ValueError("`expected` says how much every label counts; leave `balance` out")
        ahead = None if self.window is None else self.window.horizon
        if ahead is not None and kind.learns != "values" and (kind.learns != "value" or ahead != 1):
            raise ValueError(f"a {kind.kind} does not look {ahead} rows ahead; a forecast does")
        if ahead is not None and getattr(goal, "horizon", None) not in (None, ahead):
            raise ValueError("the horizon of the window is not that of the task")
        if self.horizon is not None and len(self.targets) != 1:
            raise ValueError("what lies ahead is one column")

    def _fits_without_labels(self) -> None:
        kind = task_class(self.goal_kind)
        if kind.learns != "label":
            raise ValueError(f"a {kind.kind} cannot do without its target; a binary task or a classification can")
        if getattr(self.goal, "labels", None) is None:
            raise ValueError("rows without labels do not say which labels there are: list `labels`, as the others do")
        if self.balance or any(getattr(self.goal, name, None) is not None for name in ("weights", "expected")):
            raise ValueError("labels that are not there cannot be balanced or weighed")
        if self.split is not None or self.test_rows is not None or self.window is not None:
            raise ValueError("rows without labels are all for training: leave split, test_rows and window out")
        if (self.test_path is None) != (self.target is None):
            raise ValueError("test_path and target go together: labels to test on, and the column they stand in")

    @property
    def targets(self) -> tuple[str, ...]:
        """The target columns."""
        if self.target is None:
            return ()
        return (self.target,) if isinstance(self.target, str) else self.target

    @property
    def learned_targets(self) -> tuple[str, ...]:
        """Those of the target columns that the department's own table must have."""
        return self.targets if self.labelled else ()

    @property
    def goal_kind(self) -> str:
        """The task's name."""
        return self.task if isinstance(self.task, str) else str(self.task["kind"])

    @property
    def goal(self) -> TaskConfig:
        """``task``, ``labels`` and ``expected`` as the configuration of that kind of task."""
        fields = {"kind": self.task} if isinstance(self.task, str) else dict(self.task)
        named = {"labels": self.labels, "expected": self.expected}
        return task_config({name: value for name, value in named.items() if value is not None} | fields)

    @property
    def listed(self) -> tuple[FeatureConfig, ...] | None:
        """The features asked for, or None for every column but the target."""
        if isinstance(self.features, str):
            return None
        return tuple(FeatureConfig(column=one) if isinstance(one, str) else one for one in self.features)

    @property
    def horizon(self) -> int | None:
        """How many rows ahead the target lies, or None where it stands in the row itself."""
        if self.window is None:
            return None
        if self.window.horizon is not None or len(self.targets) != 1:
            return self.window.horizon
        asked: int | None = getattr(self.goal, "horizon", None)
        return asked if task_class(self.goal_kind).learns == "values" else None

    @property
    def test_share(self) -> float:
        """Share of all rows kept for the report."""
        return self.test if self.split is None or self.split.test is None else self.split.test

    @property
    def validation_share(self) -> float:
        """Share of the other rows kept for choosing."""
        return self.validation if self.split is None or self.split.validation is None else self.split.validation

    @property
    def split_seed(self) -> int:
        """Of the split and of everything else that is drawn while reading."""
        return self.seed if self.split is None or self.split.seed is None else self.split.seed

    @property
    def source_name(self) -> str:
        """How messages call the source; a URL may hold a password and is never shown."""
        return "the query" if self.path is None else self.path.name
