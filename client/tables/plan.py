"""Which columns become which features, for the form of row that the backbone takes; problems where they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.tables.categories import CategoryFitter
from commonroot.client.tables.checkpoint_tokens import CheckpointTokens
from commonroot.client.tables.config import DataConfig, FeatureConfig
from commonroot.client.tables.dates import DateFitter, find_format
from commonroot.client.tables.images import Image, ImageFitter, channels_first, size_of
from commonroot.client.tables.kinds import kind_of_column, surely_numbers
from commonroot.client.tables.numbers import NumbersFitter
from commonroot.client.tables.part import Fitter
from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.sequences import SequenceFitter, Window, channels_of
from commonroot.client.tables.source import UNNAMED, Source
from commonroot.client.tables.text import WIDTH, TextFitter, Tokens, TokensFitter
from commonroot.client.tasks.registry import task_class
from commonroot.common.backbone import PretrainedSpec
from commonroot.common.backbone.inputs import ImageInput, Input, RowInput, SequenceInput, TokenInput
from commonroot.common.errors import ConfigError

#: What tokens become where no backbone says.
TOKENS: Final = TokenInput(length=128, vocabulary=32_768)
#: An image without a size of its own becomes this large at most.
SIDE: Final = 64

_ROWS: Final = frozenset({"number", "category", "datetime", "text"})
_FITTING: Final[Mapping[str, frozenset[str]]] = {
    "row": _ROWS,
    "sequence": frozenset({"sequence"}),
    "image": frozenset({"image"}),
    "token": frozenset({"text", "tokens"}),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Features with their kinds, before they have seen a row.

    chosen  in order, each with its kind
    keys    kinds of columns that are read for the split and the window
    window  which rows are seen together
    form    of rows: ``row``, ``sequence``, ``image`` or ``token``
    goal    with the backbone's sizes, or None where they are found while fitting
    """

    chosen: tuple[FeatureConfig, ...]
    keys: Mapping[str, str]
    window: Window | None
    form: str
    goal: Input | None

    @property
    def wanted(self) -> dict[str, str]:
        """Kind of every column to read."""
        return dict(self.keys) | {one.column: str(one.kind) for one in self.chosen}


def make_plan(
    config: DataConfig, source: Source, look: pl.DataFrame, goal: Input | None, problems: Problems
) -> Plan | None:
    """The plan, or None with what is wrong with the columns added."""
    before = problems.count
    chosen = _chosen(config, source, look, goal, problems)
    keyed = plan_keys(config, source, look, problems)
    if problems.count > before or keyed is None:
        return None
    keys, window = keyed
    form = goal.kind if goal is not None else _guess(chosen, window)
    _check_goal(source, chosen, window, form, goal, problems)
    if problems.count > before:
        return None
    if form == "token":
        goal = goal or TOKENS
    elif form == "image":
        goal = goal or _image(chosen[0], source, look)
    return Plan(chosen, keys, window, form, goal)


def plan_keys(
    config: DataConfig, source: Source, look: pl.DataFrame, problems: Problems
) -> tuple[dict[str, str], Window | None] | None:
    """Columns that the split and the window read, with their kinds, and the window; None with problems added."""
    before = problems.count
    keys = _keys(config, source, look, problems)
    if problems.count > before:
        return None
    if config.window is None:
        return keys, None
    order = config.window.order
    written = find_format(look[order]) if keys[order] == "datetime" and look[order].dtype == pl.String else None
    return keys, Window(order, config.window.steps, config.window.group, written, keys[order])


def fitters(
    plan: Plan,
    config: DataConfig,
    source: Source,
    look: pl.DataFrame,
    *,
    adapter: bool = False,
    shared: SharedStatistics | None = None,
    checkpoint: PretrainedSpec | None = None,
) -> list[Fitter]:
    """What fits the plan's features, in the order of their encoded columns; neighbouring numbers are one."""
    if plan.window is None and plan.form != "row":
        return [_special(one, plan.goal, source, look, checkpoint) for one in plan.chosen]
    out: list[Fitter] = []
    run: list[FeatureConfig] = []

    def close() -> None:
        if run:
            telling = frozenset(one.column for one in run if one.missing == "indicator")
            out.append(NumbersFitter(tuple(one.column for one in run), telling, config.scaling, shared))
            run.clear()

    for one in plan.chosen:
        if one.kind == "number":
            run.append(one)
            continue
        close()
        if one.kind == "category":
            out.append(CategoryFitter(one.column, one.limit, shared))
        elif one.kind == "datetime":
            series = look[one.column]
            form = one.format or (find_format(series, share=0.95) if series.dtype == pl.String else None)
            out.append(DateFitter(one.column, form))
        elif shared is not None and (buckets := shared.text_buckets(one.column)) is not None:
            # shared document frequencies are of single words, in as many places as the charter says
            _as_shared(one, buckets)
            out.append(TextFitter(one.column, width=buckets, ngrams=1, chars=0, shared=shared))
        else:
            alone = len(plan.chosen) == 1 and plan.window is None and not adapter
            width = one.width or (plan.goal.width if alone and isinstance(plan.goal, RowInput) else WIDTH)
            out.append(TextFitter(one.column, width=width, ngrams=one.ngrams, chars=one.chars))
    close()
    return out


def _as_shared(one: FeatureConfig, buckets: int) -> None:
    """Raise ConfigError for a text that is asked for in another way than everybody's words were counted."""
    shared = {"width": buckets, "ngrams": 1, "chars": 0}
    asked = {name: getattr(one, name) for name in shared if name in one.model_fields_set}
    other = {name: value for name, value in asked.items() if value not in (shared[name], None)}
    if other:
        told = ", ".join(f"{name} = {value}" for name, value in other.items())
        raise ConfigError(
            f"column {one.column!r} asks for {told}, but the charter's shared statistics count single words in "
            f"{buckets} buckets",
            hint=f"leave {' and '.join(other)} out for this column",
        )


def _special(
    one: FeatureConfig, goal: Input | None, source: Source, look: pl.DataFrame, checkpoint: PretrainedSpec | None
) -> Fitter:
    series = look[one.column]
    if isinstance(goal, ImageInput):
        return ImageFitter(Image(one.column, goal.channels, goal.height, goal.width), source.folder)
    if isinstance(goal, TokenInput) and checkpoint is not None:
        return TokensFitter(CheckpointTokens(one.column, checkpoint))
    if isinstance(goal, TokenInput):
        split = "items" if one.kind == "tokens" else "words"
        ngrams = one.ngrams if "ngrams" in one.model_fields_set and split == "words" else 1
        return TokensFitter(Tokens(one.column, goal.length, goal.vocabulary, split, ngrams))
    steps = goal.steps if isinstance(goal, SequenceInput) else 0
    return SequenceFitter(one.column, one.steps or steps or None, channels_of(series))


def _chosen(
    config: DataConfig, source: Source, look: pl.DataFrame, goal: Input | None, problems: Problems
) -> tuple[FeatureConfig, ...]:
    schema = source.schema
    listed = config.listed
    if listed is None:
        left_out = set(config.targets) if config.horizon is None else set()
        if config.window is not None:
            left_out |= {config.window.order, config.window.group or config.window.order}
        if config.split is not None and config.split.kind == "grouped":
            left_out.add(str(config.split.column))
        listed = tuple(
            FeatureConfig(column=name) for name in schema if name not in left_out and not name.startswith(UNNAMED)
        )
    out = []
    numbers = surely_numbers(look, config.missing)
    for one in listed:
        if one.column not in schema:
            problems.add(_no_column(source.name, one.column))
            continue
        guessed = one.kind or ("number" if one.column in numbers else None)
        guessed = guessed or kind_of_column(look[one.column], missing=config.missing, goal=goal)
        if task_class(config.goal_kind).per_token and guessed in ("text", "category", "tokens"):
            guessed = "tokens"  # tags belong to the words between blanks
        elif isinstance(goal, TokenInput) and one.kind is None and guessed == "category":
            guessed = "text"
        out.append(one.model_copy(update={"kind": guessed}))
    if not listed:
        fix = "list them in `features`"
        problems.add(Problem(file=source.name, found="no feature columns", expected="at least one", fix=fix))
    return tuple(out)


def _keys(config: DataConfig, source: Source, look: pl.DataFrame, problems: Problems) -> dict[str, str]:
    wanted: dict[str, str | None] = {}
    if config.split is not None and config.split.column is not None:
        wanted[config.split.column] = "category" if config.split.kind == "grouped" else None
    if config.window is not None:
        wanted[config.window.order] = None
        if config.window.group is not None:
            wanted[config.window.group] = "category"
    out: dict[str, str] = {}
    for name, kind in wanted.items():
        if name not in source.schema:
            problems.add(_no_column(source.name, name))
            continue
        guessed = kind or kind_of_column(look[name], missing=config.missing)
        if kind is None and guessed not in ("number", "datetime"):
            fix = "name a column that says when"
            found = "a column that is neither numbers nor dates"
            problems.add(Problem(file=source.name, column=name, found=found, expected="an order", fix=fix))
            continue
        out[name] = guessed
    return out


def _guess(chosen: tuple[FeatureConfig, ...], window: Window | None) -> str:
    """The form that the columns themselves suggest."""
    kinds = {one.kind for one in chosen}
    if window is not None:
        return "sequence"
    if "image" in kinds:
        return "image"
    if "sequence" in kinds:
        return "sequence"
    return "token" if "tokens" in kinds else "row"


def _check_goal(
    source: Source,
    chosen: tuple[FeatureConfig, ...],
    window: Window | None,
    form: str,
    goal: Input | None,
    problems: Problems,
) -> None:
    def wrong(found: str, expected: str, fix: str, column: str | None = None) -> None:
        problems.add(Problem(file=source.name, column=column, found=found, expected=expected, fix=fix))

    if window is not None:
        if form != "sequence":
            wrong("a window", "none: the charter's backbone takes no sequences", "leave `window` out")
            return
        if isinstance(goal, SequenceInput) and goal.steps != window.steps:
            wrong(f"a window of {window.steps} steps", f"{goal.steps}, as the charter's backbone takes", "mend `steps`")
    fitting = _ROWS if window is not None else _FITTING[form]
    for one in chosen:
        if one.kind not in fitting:
            expected = f"one of {', '.join(sorted(fitting))} for this backbone"
            wrong(f"kind {one.kind}", expected, "leave the column out or give it another `kind`", one.column)
    if form in ("image", "token") and len(chosen) > 1:
        wrong(f"{len(chosen)} feature columns", "one for this backbone", "list one column in `features`")


def _image(one: FeatureConfig, source: Source, look: pl.DataFrame) -> ImageInput:
    """An image's form where no backbone says: what the configuration asks, or the first image's own size."""
    series = look[one.column]
    if series.dtype.is_nested():
        pixels = series.head(1).to_numpy()
        colours = 1 if pixels.ndim == 3 else min(pixels.shape[1], pixels.shape[3])
        found = channels_first(pixels, colours).shape
        size = one.size or (found[2], found[3])
        return ImageInput(colours, *size)
    own = size_of(source.folder, series[0] if len(series) else None) or (SIDE, SIDE)
    return ImageInput(one.channels, *(one.size or (min(own[0], SIDE), min(own[1], SIDE))))


def _no_column(file: str, name: str) -> Problem:
    fix = "add the column or mend the configuration"
    return Problem(file=file, column=name, found="no such column", expected="it in row 1", fix=fix)
