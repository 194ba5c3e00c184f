"""Figures that one dataset is known by in the literature and a mean over departments does not give.

school  explained variance of all students together (Argyriou, Evgeniou, Pontil, 2008): 1 - Σ errors² / Σ deviations²
        from the mean of everybody; and by how much the worst school's squared error shrinks or grows
sales   Σ|sales - forecast| / Σ sales of each store, from multiples of a level that stands beside the rows
sentiment   where one category has no labels: accuracy on its test rows, that of the same rounds in which only those
        with labels take part (source-only), and by how many points it is above that
films   the RMSE that one factorisation of everybody's ratings gives, and how far a department's is from it at most
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.data import DataConfig, prepare
from commonroot.client.predicting import chosen_predictor
from commonroot.client.ratings import Ratings, read_book
from commonroot.client.recommender import mix
from commonroot.client.recommending import federated_model
from commonroot.common.charter import Method
from commonroot.simulations.datasets.world import World
from commonroot.simulations.in_the_clear import Clear
from commonroot.simulations.scenario import Scenario
from commonroot.strategies import build
from commonroot.strategies.als import ALS
from commonroot.strategies.base import Tensors

Departments = Sequence[Mapping[str, Any]]
#: Where each department's kept model lies; None for the pooled arm, which keeps none.
Models = Mapping[str, Path] | None
#: After which source-only was best where each category in turn played the one without labels; later it learns by heart.
SOURCE_ONLY_ROUNDS: Final = 8


def figures(
    dataset: str, world: World, scenario: Scenario, models: Models, departments: Departments
) -> dict[str, float]:
    """A dataset's own figures by name; none for most."""
    found = FIGURES.get(dataset)
    return {} if found is None or not departments else found(world, scenario, models, departments)


def _school(world: World, scenario: Scenario, models: Models, departments: Departments) -> dict[str, float]:
    del scenario, models
    targets = [test_targets(world.departments[row["name"]]) for row in departments]
    out = {
        f"explained_{which}": explained([float(row[which]) for row in departments], targets)
        for which in ("alone", "federated", "chosen")
        if all(row[which] is not None for row in departments)
    }
    shrunk = [100.0 * (1.0 - (1.0 - row["chosen"]) / (1.0 - row["alone"])) for row in departments if row["alone"] < 1]
    return out | {"worst_mse_gain": min(shrunk)}


def test_targets(section: Mapping[str, Any]) -> NDArray[np.float64]:
    """(n,) what a department's test rows, kept as arrays, are to be predicted as."""
    with np.load(section["test_path"], allow_pickle=False) as arrays:
        return np.asarray(arrays[section["target"]], dtype=np.float64)


def explained(own: Sequence[float], targets: Sequence[NDArray[np.float64]]) -> float:
    """1 - Σ(y - ŷ)² / Σ(y - ȳ)² over everybody's test rows, ȳ their common mean; departments report their ``own`` R².

    A department's Σ(y - ŷ)² is (1 - R²) times its own Σ(y - ȳ_k)².
    """
    everybody = np.concatenate(targets)
    left = sum((1.0 - r2) * float(np.square(y - y.mean()).sum()) for r2, y in zip(own, targets, strict=True))
    return 1.0 - left / float(np.square(everybody - everybody.mean()).sum())


def _sales(world: World, scenario: Scenario, models: Models, departments: Departments) -> dict[str, float]:
    del scenario
    if models is None:
        return {}
    return {"wape_chosen": statistics.mean(wape(models[r["name"]], world.departments[r["name"]]) for r in departments)}


def wape(model: Path, section: Mapping[str, Any]) -> float:
    """Σ|sales - forecast| / Σ sales of one store; its ``model`` predicts multiples of a level that stands beside."""
    forecast = chosen_predictor(model).predict_file(Path(section["test_path"]))["step 1 quantile 0.5"]
    sales, level = sales_and_levels(section)
    return float(np.abs(sales - np.asarray(forecast) * level).sum() / sales.sum())


def sales_and_levels(section: Mapping[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What one store sold in each test row, and the level that its models predict multiples of; both (n,)."""
    beside = pl.read_parquet(str(section["test_path"]).replace("-test", "-levels"))
    return beside["sales"].to_numpy(), beside["level"].to_numpy()


def _sentiment(world: World, scenario: Scenario, models: Models, departments: Departments) -> dict[str, float]:
    """Source-only is FedAvg with a shared head, in which whoever has no labels only receives."""
    del models
    without = [row for row in departments if world.departments[row["name"]].get("labelled") is False]
    if not without:
        return {}
    kept = float(without[0]["chosen"])
    known = source_only(world, scenario, without[0]["name"])
    return {"kept_unlabelled": kept, "source_only": known, "over_source_only": 100.0 * (kept - known)}


def source_only(world: World, scenario: Scenario, name: str) -> float:
    """Score of a model of the departments with labels on the test rows of the one that has none."""
    options = scenario.draft.method.options
    method = Method(name="fedavg", options={"epochs": 1, "head": "shared", "outputs": options["outputs"]})
    draft = scenario.draft.model_copy(update={"method": method, "rounds": SOURCE_ONLY_ROUNDS})
    rows = {
        each: prepare(DataConfig.model_validate(one), spec_input=draft.network.input)
        for each, one in world.departments.items()
    }
    clear = Clear(draft, rows, scenario.seed)
    for _ in range(draft.rounds):
        clear.round()
    return clear.score(name)


def _films(world: World, scenario: Scenario, models: Models, departments: Departments) -> dict[str, float]:
    """What ALS would give with everybody's ratings in one place, department by department as they were split."""
    method = build(scenario.draft)
    if models is None or not isinstance(method, ALS):
        return {}
    draft = scenario.draft
    books = {
        name: read_book(DataConfig.model_validate(one), Path(), draft.factors)
        for name, one in world.departments.items()
    }
    everybody = _together([(book.train, len(book.users)) for book in books.values()])
    state: Tensors = method.initial(draft)
    for _ in range(draft.rounds):
        sums = method.gather(draft, state, everybody, {}).terms
        state = method.combine(draft, state, {name: np.asarray(array, np.float64) for name, array in sums.items()})
    apart, pooled = [], []
    for row in departments:
        book = books[row["name"]]
        model = federated_model(method, state, book.train.join(book.validation), len(book.users))
        said = mix([(1.0, model)], book.test.user, book.test.item, method.low, method.high)
        pooled.append(math.sqrt(float(np.square(said - book.test.rating).mean())))
        apart.append(abs(pooled[-1] - float(row["federated"])))
    return {"rmse_pooled": statistics.mean(pooled), "largest_difference_to_pooled": max(apart)}


def _together(parts: Sequence[tuple[Ratings, int]]) -> dict[str, NDArray[np.generic]]:
    """Everybody's ratings as one department's; users are numbered on."""
    first = np.cumsum([0, *(users for _, users in parts)])
    return {
        "user": np.concatenate([rows.user + start for (rows, _), start in zip(parts, first, strict=False)]),
        "item": np.concatenate([rows.item for rows, _ in parts]),
        "rating": np.concatenate([rows.rating for rows, _ in parts]),
        "users": np.asarray(first[-1]),
    }


FIGURES: Final[Mapping[str, Callable[[World, Scenario, Models, Departments], dict[str, float]]]] = MappingProxyType(
    {"films": _films, "sales": _sales, "school": _school, "sentiment": _sentiment}
)
