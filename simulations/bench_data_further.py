"""What a dataset's benchmark says besides its score: exactness, orders and who is worse off."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from commonroot.client.data import DataConfig
from commonroot.client.predicting import chosen_predictor, chosen_recommender
from commonroot.client.ratings import Ratings, read_book
from commonroot.client.recommending import factorise
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.simulations.transfer_figures import sales_and_levels
from commonroot.strategies.als import ALS

if TYPE_CHECKING:
    from commonroot.simulations.bench_data import Found


@dataclass(frozen=True, slots=True)
class Further:
    """One more row of a case.

    what      in words
    of        its value in one run
    relation  in which it must stand to ``bound``; nothing is asked of it where there is none
    over      what is told of several seeds
    """

    what: str
    of: Callable[[Found], float]
    relation: Literal["<=", ">=", ""] = ""
    bound: float = 0.0
    over: Callable[[Iterable[float]], float] = statistics.mean


def not_better(found: Found) -> float:
    """Departments whose federated model is no better than their best one alone."""
    return float(sum(_worse_by(report, "federated") >= 0 for report in found.reports.values()))


def worse_off(found: Found) -> float:
    """Departments whose kept model is worse on test rows than their best one alone."""
    return float(sum(_worse_by(report, "chosen") > 0 for report in found.reports.values()))


def _worse_by(report: Mapping[str, Any], which: str) -> float:
    sign = 1.0 if report["details"]["better"] == "lower" else -1.0
    return sign * (float(report[which]) - float(report["alone"]))


def apart_from_pooled(found: Found) -> float:
    """The largest difference of an item's bias or factor from the same factorisation of everybody's ratings at once.

    Raises ConfigError where no department keeps the federated factors.
    """
    draft = Draft.model_validate({"federation": "pooled", "name": "pooled", **found.charter})
    method = ALS.model_validate(draft.method.options)
    users, parts = 0, []
    for section in found.sections.values():
        book = read_book(DataConfig.model_validate(section), Path(), draft.factors)
        parts.append(Ratings(book.train.user + users, book.train.item, book.train.rating))
        users += len(book.users)
    together = parts[0]
    for part in parts[1:]:
        together = together.join(part)
    pooled = factorise(draft, method, together, users, name="pooled factors")
    for kept in found.models.values():
        for _, model in chosen_recommender(kept).members:
            if model.name == "federated factors":
                return max(float(np.abs(model.items - pooled.items).max()), abs(model.mean - pooled.mean))
    raise ConfigError("no department keeps the federated factors, so there is nothing to compare")


def order_cost(found: Found) -> float:
    """What all stores' orders cost, per unit of sales; a unit short costs ``under_cost``, one left ``over_cost``."""
    return _cost(found, "order step 1")


def cost_of_median_orders(found: Found) -> float:
    """The same for stores that order what they expect to sell, whatever it costs to be wrong."""
    return _cost(found, "step 1 quantile 0.5")


def _cost(found: Found, column: str) -> float:
    paid = sold = 0.0
    for name in found.reports:
        section = found.sections[name]
        task = section["task"]
        said = chosen_predictor(found.models[name]).predict_file(Path(section["test_path"]))[column]
        demand, level = sales_and_levels(section)
        short = demand - np.maximum(np.asarray(said), 0.0) * level
        paid += float(np.where(short > 0, task["under_cost"] * short, -task["over_cost"] * short).sum())
        sold += float(demand.sum())
    return paid / sold


#: An exact method may differ from the pooled one by rounding alone.
ROUNDING: Final = 1e-6
