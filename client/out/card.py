"""A model card: what a chosen model is, what it learned from, how well it did, what it must not be taken for.

After Mitchell et al., 2019, "Model Cards for Model Reporting".  It holds counts, days, names of columns and scores;
of the data itself no cell, and labels only in the names of what is predicted.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from commonroot import __version__
from commonroot.client.data import Problems
from commonroot.client.folder import DepartmentFolder
from commonroot.client.learner import REPORT
from commonroot.client.predictor import Predictor, mix
from commonroot.client.tables.dates import Date, seconds
from commonroot.client.tables.source import Source, Table, open_source
from commonroot.client.tables.sql_source import open_query
from commonroot.common.errors import CommonrootError, ForeignState
from commonroot.files import read_bytes

LAYOUT: Final = 1
CARD: Final = "card.json"
LIMITS: Final = (
    "It was fitted to and tested on rows of one department; scores hold for rows drawn like those, not for others.",
    "Values that training never saw are encoded as none of those known, and numbers far outside as the nearest end.",
    "Probabilities are calibrated on held-out rows of the department; they drift as its data does.",
    "Nothing was tested about fairness between groups of people, or about attacks on the model itself.",
    "The model was fitted to private rows and may reveal something of them: hand it on as you would hand on a summary.",
)
LICENCE: Final = (
    "The model belongs to whoever owns the rows it learned from; this program adds no terms of its own. "
    "A pretrained backbone keeps the licence of its checkpoint."
)


def card_of(root: Path, chosen: Path, predictor: Predictor, *, dates: bool = False) -> dict[str, Any]:
    """The card as JSON values.

    root    a department's folder, or an exported one, whose card stands there already
    chosen  the predictor's own folder
    dates   also read the source for its first and last dates, where features hold a date

    Raises ForeignState for an exported card that cannot be read.
    """
    if root == chosen:
        return _stored(root / CARD, predictor)
    folder = DepartmentFolder(root)
    report = _report(root / REPORT, chosen)
    about = predictor.about
    return _facts(predictor) | {
        "federation": about.get("federation", folder.config.federation),
        "department": folder.config.name,
        "charter": {"name": about.get("charter"), "hash": None if report is None else report["charter"]},
        "method": about.get("method"),
        "backbone_version": about.get("version"),
        "data": {
            "training_rows": None if report is None else report["n_train"],
            "test_rows": None if report is None else report["n_test"],
            "dates": data_dates(folder, predictor) if dates else {},
        },
        "scores": None if report is None else _scores(report),
    }


def _facts(predictor: Predictor) -> dict[str, Any]:
    """What the predictor itself says."""
    features = predictor.features
    return {
        "layout": LAYOUT,
        "program": f"commonroot {__version__}",
        "task": predictor.task.kind,
        "metric": predictor.task.metric,
        "models": [{"kind": model.kind, "weight": weight} for weight, model in predictor.members],
        "columns": [{"name": name, "kind": features.kinds[name]} for name in predictor.names],
        "predicts": list(predicted_columns(predictor)),
        "encoded": {"shape": list(features.input.shape), "columns": len(features.names)},
        "limits": list(LIMITS),
        "licence": LICENCE,
    }


def predicted_columns(predictor: Predictor) -> dict[str, str]:
    """Names of what is predicted, and ``text`` or ``number`` of each; no rows are needed to know."""
    x = np.zeros((1, *predictor.features.input.shape), dtype=predictor.features.input.dtype)
    found = predictor.task.columns(mix(predictor.task, predictor.members, x))
    return {name: "number" if values.dtype.kind in "biuf" else "text" for name, values in found.items()}


def _stored(path: Path, predictor: Predictor) -> dict[str, Any]:
    if not path.is_file():
        return _facts(predictor) | {"data": {}, "scores": None, **_about(predictor)}
    try:
        found = json.loads(read_bytes(path, what="the model card"))
    except ValueError as error:
        raise ForeignState(f"{path.name} is no model card") from error
    if not isinstance(found, dict) or found.get("layout") != LAYOUT:
        raise ForeignState(f"{path.name} is no model card that this version can read")
    return found


def _about(predictor: Predictor) -> dict[str, Any]:
    about = predictor.about
    return {
        "federation": about.get("federation"),
        "department": None,
        "charter": {"name": about.get("charter"), "hash": None},
        "method": about.get("method"),
        "backbone_version": about.get("version"),
    }


def _report(path: Path, chosen: Path) -> dict[str, Any] | None:
    """The department's report, where it is of this very model."""
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found if chosen.name.startswith(str(found.get("charter"))[:16]) else None


def _scores(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "alone": report["alone"],
        "alone_model": report["alone_model"],
        "federated": report["federated"],
        "chosen": report["chosen"],
        "choice": report["choice"],
        "why": report["why"],
        "gain": report["gain"],
        "interval": None if report["interval"] is None else list(report["interval"]),
        "unit": report.get("unit", "points"),
    }


def data_dates(folder: DepartmentFolder, predictor: Predictor) -> dict[str, list[str]]:
    """First and last day of each date feature, in the department's source as it stands now; empty where it is gone."""
    parts = [part for part in predictor.features.parts if isinstance(part, Date)]
    if not parts or folder.config.data is None:
        return {}
    data, problems = folder.config.data, Problems()
    reading = predictor.features.reading
    source: Source | None
    if data.path is None:
        source = open_query(data.url or "", data.query or "", folder.root, problems)
    else:
        source = open_source(folder.root / data.path, reading, problems, required=False)
    if source is None or any(part.column not in source.schema for part in parts):
        return {}
    table = Table(source, {part.column: "datetime" for part in parts}, missing=reading.missing, memory=0)
    table.slower()
    ends: dict[str, list[float]] = {}
    try:
        for _, frame in table.batches():
            for part in parts:
                at = seconds(frame[part.column], part.form)
                known = at[np.isfinite(at)]
                if known.size:
                    low, high = ends.get(part.column, [np.inf, -np.inf])
                    ends[part.column] = [min(low, float(known.min())), max(high, float(known.max()))]
    except CommonrootError:
        return {}
    return {name: [_day(low), _day(high)] for name, (low, high) in ends.items()}


def _day(seconds_since: float) -> str:
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds_since)).date().isoformat()


def card_text(card: Mapping[str, Any]) -> str:
    """The card for people, as Markdown."""
    data, scores, charter = card.get("data") or {}, card.get("scores"), card.get("charter") or {}
    title = card.get("department") or "a department"
    lines = [f"# Model of {title}: {card['task']}", ""]
    lines += _table(
        {
            "federation": card.get("federation"),
            "charter": charter.get("name"),
            "charter hash": charter.get("hash"),
            "method": card.get("method"),
            "backbone version": card.get("backbone_version"),
            "models": ", ".join(f"{one['weight']:.3g} × {one['kind']}" for one in card["models"]),
            "training and validation rows": data.get("training_rows"),
            "test rows": data.get("test_rows"),
            **{f"dates of {name}": f"{low} to {high}" for name, (low, high) in (data.get("dates") or {}).items()},
            "written by": card["program"],
        }
    )
    if scores is not None and scores["interval"] is None:
        lines += ["", f"No test row had a label: how good it is, is not known. It is kept because {scores['why']}."]
    elif scores is not None:
        low, high = scores["interval"]
        lines += ["", f"## {card['metric']} on test rows", ""]
        lines += _table(
            {
                f"alone ({scores['alone_model']})": f"{scores['alone']:.3f}",
                "federated": f"{scores['federated']:.3f}",
                f"chosen ({scores['choice']})": f"{scores['chosen']:.3f}",
                "gain over alone": f"{scores['gain']:+.1f} {scores['unit']}, 95 % interval {low:+.1f} to {high:+.1f}",
                "why": scores["why"],
            }
        )
    lines += ["", "## Columns it reads", "", "| column | kind |", "|---|---|"]
    lines += [f"| {_cell(one['name'])} | {one['kind']} |" for one in card["columns"]]
    lines += ["", f"It predicts {len(card['predicts'])} column(s).", "", "## Limits", ""]
    lines += [f"- {one}" for one in card["limits"]]
    return "\n".join([*lines, "", "## Licence", "", str(card["licence"]), ""])


def _table(facts: Mapping[str, Any]) -> list[str]:
    told = {name: value for name, value in facts.items() if value is not None}
    return ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in told.items())]


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
