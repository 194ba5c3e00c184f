"""A department's chosen model in a notebook: ``commonroot.Department("folder")``.

model = Department("cardiology")
model.predict("patients.parquet")      # or a frame, or a dict of lists: a polars.DataFrame
model.report(), model.card(), model.features
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from commonroot.client.data import Problem, Problems, kept_columns, read_batches
from commonroot.client.out.card import card_of
from commonroot.client.out.sinks import as_frame
from commonroot.client.predicting import chosen_folder, load_predictor
from commonroot.client.tables.cells import clean
from commonroot.common.errors import ConfigError


class Department:
    """The newest chosen model of a department's folder, or the model of an exported folder.

    Read when it is made: a model chosen later needs another ``Department``.  Raises ConfigError where there is none,
    ForeignState for what this version cannot read.
    """

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path)
        self._chosen = chosen_folder(self.root)
        self.predictor = load_predictor(self._chosen)

    @property
    def features(self) -> dict[str, str]:
        """The columns it reads and the kind of each."""
        kinds = self.predictor.features.kinds
        return {name: kinds[name] for name in self.predictor.names}

    def predict(
        self,
        rows: pl.DataFrame | pl.LazyFrame | Mapping[str, Sequence[Any]] | str | Path | None = None,
        *,
        keep: Sequence[str] = (),
        url: str = "",
        query: str = "",
        folder: str | Path = ".",
    ) -> pl.DataFrame:
        """Predicted columns of rows, after those to ``keep``.

        rows        a frame of polars (or of pandas, as ``polars.from_pandas`` takes it), a dict of lists, the path of
                    anything that ``department predict`` reads; or ``url`` and ``query``
        folder      what paths in cells of a frame are relative to

        Raises DataError that names every cell that cannot be read.
        """
        names = tuple(dict.fromkeys(keep))
        if rows is None or isinstance(rows, str | Path):
            if (rows is None) != bool(url and query):
                raise ConfigError("give rows, or url and query", hint="one source at a time")
            path = None if rows is None else Path(rows)
            batches = read_batches(path, self.predictor.features, url=url, query=query, keep=names)
            return pl.concat([self._predicted(frame, at, kept_columns(frame, names), names) for frame, at in batches])
        frame = frame_of(rows)
        return self._predicted(self._cleaned(frame, names), Path(folder), frame, names)

    def report(self) -> dict[str, Any]:
        """Alone against federated on the department's own test rows.  Raises ConfigError in an exported folder."""
        from commonroot.client.learner import read_report

        return read_report(self.root)

    def card(self) -> dict[str, Any]:
        """The model card."""
        return dict(self._card)

    @cached_property
    def _card(self) -> dict[str, Any]:
        return card_of(self.root, self._chosen, self.predictor)

    def _predicted(self, frame: pl.DataFrame, folder: Path, kept: pl.DataFrame, names: tuple[str, ...]) -> pl.DataFrame:
        return as_frame(self.predictor.predict(frame, folder), kept, names)

    def _cleaned(self, frame: pl.DataFrame, names: tuple[str, ...]) -> pl.DataFrame:
        features, problems = self.predictor.features, Problems()
        for name in (*features.columns, *names):
            if name not in frame.columns:
                fix = "the model reads the columns that it was trained with"
                problems.add(
                    Problem(file="the frame", column=name, found="no such column", expected="a column", fix=fix)
                )
        problems.refuse()
        found = clean(
            frame,
            features.kinds,
            missing=features.reading.missing,
            file="the frame",
            row_of=lambda position: position + 1,
            problems=problems,
        )
        problems.refuse()
        return found

    def __repr__(self) -> str:
        return f"Department({str(self.root)!r}): {self.predictor.task.kind} from {len(self.predictor.names)} column(s)"

    def _repr_html_(self) -> str:
        """A small table, as notebooks show it; every word of the folder escaped."""
        card = self._card
        scores, charter = card.get("scores"), card.get("charter") or {}
        facts: dict[str, Any] = {
            "task": card["task"],
            "federation": card.get("federation"),
            "charter": charter.get("name"),
            "models": ", ".join(f"{one['weight']:.2g} × {one['kind']}" for one in card["models"]),
        }
        if scores is not None and scores["interval"] is not None:
            low, high = scores["interval"]
            facts[f"{card['metric']} alone"] = f"{scores['alone']:.3f}"
            facts[f"{card['metric']} chosen ({scores['choice']})"] = f"{scores['chosen']:.3f}"
            facts["gain"] = f"{scores['gain']:+.1f} {scores['unit']} ({low:+.1f} to {high:+.1f})"
        facts["reads"] = ", ".join(f"{name} ({kind})" for name, kind in list(self.features.items())[:20])
        if len(self.features) > 20:
            facts["reads"] += f" and {len(self.features) - 20} more"
        lines = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
            for name, value in facts.items()
            if value is not None
        )
        title = html.escape(str(card.get("department") or self.root.name))
        return f"<table><caption>{title}</caption>{lines}</table>"


def frame_of(rows: Any) -> pl.DataFrame:
    """A frame of polars or pandas, or a dict of lists, as a frame of polars.  Raises ConfigError for anything else."""
    if isinstance(rows, pl.DataFrame):
        return rows
    if isinstance(rows, pl.LazyFrame):
        return rows.collect()
    if isinstance(rows, Mapping):
        try:
            return pl.DataFrame(dict(rows))
        except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
            raise ConfigError(f"the dict of lists is no table ({type(error).__name__})") from None
    if type(rows).__module__.partition(".")[0] == "pandas":
        try:
            found = pl.from_pandas(rows)
        except ImportError:
            raise ConfigError("a pandas frame is read through pyarrow", hint="pip install pyarrow") from None
        return found if isinstance(found, pl.DataFrame) else found.to_frame()
    raise ConfigError(f"rows of type {type(rows).__name__} cannot be read", hint="give a polars.DataFrame or a path")
