"""A department's last step after federated factorisation: solve its users, compare with training alone, choose, report.

Which ratings each candidate sees is as in ``finish``: training ratings fit, validation ratings choose, test ratings are
read for the report.  Candidates trained alone are the biases of users and items, and the same factorisation of the
department's own ratings with half, all and twice the charter's penalty; the best of them on validation ratings stands
for training alone.  The rounds never see validation ratings; once all is chosen, users are solved on both, and so are
the models trained alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from commonroot.client.choice import choose
from commonroot.client.evaluated import figures
from commonroot.client.ratings import Book, Ratings
from commonroot.client.recommender import FactorModel, Recommender, mix
from commonroot.client.tasks.recommendation import Recommendation
from commonroot.client.tasks.regression import moments
from commonroot.common.backbone.factors import Doubles
from commonroot.common.charter import Charter, Draft
from commonroot.strategies.als import ALS, items_of
from commonroot.strategies.base import Tensors

#: Factors on the charter's penalty that training alone may choose between.
PENALTIES: Final = (0.5, 1.0, 2.0)
#: Pseudo-counts of the bias model, the usual ones.
_SHRINK_ITEMS, _SHRINK_USERS = 5.0, 5.0
_REPEATS: Final = 1000


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A model, its mean loss on validation ratings, and how to fit it to others."""

    model: FactorModel = field(repr=False)
    loss: float
    fit: Callable[[Ratings], FactorModel] = field(repr=False)


def conclude(
    charter: Charter,
    method: ALS,
    book: Book,
    received: Tensors,
    *,
    columns: tuple[str, str, str],
    secret: int,
    name: str,
) -> tuple[Recommender, dict[str, Any]]:
    """The chosen recommender and the department's report, with the keys of ``learner.summary``.

    received  the final broadcast
    secret    the department's own seed
    """
    users, low, high = len(book.users), method.low, method.high
    centre, scale = moments(book.train.rating)
    task = Recommendation(centre, scale, lowest=low, highest=high)
    fits = alone_fits(charter, method, users)

    def candidate(fit: Callable[[Ratings], FactorModel]) -> _Candidate:
        model = fit(book.train)
        predicted = mix([(1.0, model)], book.validation.user, book.validation.item, low, high)
        return _Candidate(model, float(task.row_losses(predicted, book.validation.rating).mean()), fit)

    contenders = sorted((candidate(fit) for fit in fits), key=lambda one: one.loss)
    best, federated = contenders[0], candidate(lambda rows: federated_model(method, received, rows, users))
    held = book.validation
    arrays = [mix([(1.0, one.model)], held.user, held.item, low, high) for one in (best, federated)]
    choice = choose(task, arrays[0], {"federated": arrays[1]}, held.rating)
    whole = book.train.join(held)
    ours, theirs = best.fit(whole), federated.fit(whole)
    arms: dict[str, tuple[tuple[float, FactorModel], ...]] = {
        "alone": ((1.0, ours),),
        "federated": ((1.0, theirs),),
        "both": ((0.5, ours), (0.5, theirs)),
    }
    models = {"alone": ours, "federated": theirs}
    arms.setdefault(choice.kept, tuple((weight, models[arm]) for arm, weight in choice.weights.items()))
    test = book.test
    errors = {arm: np.square(mix(m, test.user, test.item, low, high) - test.rating) for arm, m in arms.items()}
    scores = {arm: math.sqrt(float(error.mean())) for arm, error in errors.items()}
    kept = gain_in_percent(errors[choice.kept], errors["alone"], seed=secret)
    effect = gain_in_percent(errors["federated"], errors["alone"], seed=secret)
    seen_unknown = np.setdiff1d(np.unique(test.user), np.unique(whole.user)).size
    details = {
        "task": task.kind,
        "metric": task.metric,
        "better": "lower",
        "gain_unit": "% lower RMSE",
        "rows": {"train": len(book.train), "validation": len(held), "test": len(test)},
        "users": users,
        "users_without_ratings": int(seen_unknown),
        "users_cut": _cut(method, received, whole, users),
        "kept": choice.kept,
        "weights": dict(choice.weights),
        "validation": figures(task, arrays[0], arrays[1:], held.rating),
        "reason": choice.reason,
        "evidence": {
            arm: {"advantage": e.advantage, "error": e.error, "bound": e.bound} for arm, e in choice.evidence.items()
        },
        "alone": best.model.name,
        "federated": federated.model.name,
        "contenders": [{"name": one.model.name, "loss": one.loss} for one in contenders],
        "scores": scores,
        "gain": kept,
        "gain_federated": effect,
    }
    report = {
        "name": name,
        "task": task.kind,
        "metric": task.metric,
        "n_train": len(whole),
        "n_test": len(test),
        "alone": scores["alone"],
        "alone_model": best.model.name,
        "federated": scores["federated"],
        "chosen": scores[choice.kept],
        "choice": choice.kept,
        "why": choice.reason,
        "gain": kept["points"],
        "interval": [kept["low"], kept["high"]],
        "charter": charter.digest.hex(),
        "details": details,
    }
    about = {key: details[key] for key in ("kept", "reason", "metric", "scores", "gain")} | {
        "federation": charter.federation,
        "charter": charter.name,
        "method": charter.method.name,
    }
    seen = whole.join(test)
    made = Recommender(columns, low, high, book.users, book.items, arms[choice.kept], seen, about)
    return made, report


def federated_model(method: ALS, received: Tensors, rows: Ratings, users: int) -> FactorModel:
    """The shared items with the users that fit these ratings best."""
    solved, _ = method.solve_users(received, rows.user, rows.item, rows.rating, users)
    return FactorModel("federated factors", method.mean(received), items_of(received), _with_unknown(solved))


def alone_fits(draft: Draft, method: ALS, users: int) -> list[Callable[[Ratings], FactorModel]]:
    """Every way of training alone, as functions of the ratings fitted to."""
    items = draft.factors.items

    def penalised(factor: float) -> Callable[[Ratings], FactorModel]:
        scaled = method.model_copy(update={"strength": method.strength * factor, "factor_limit": 1e4})
        name = f"own factors, penalty {scaled.strength:g}"
        return lambda rows: factorise(draft, scaled, rows, users, name=name)

    return [lambda rows: biases(rows, users, items), *(penalised(factor) for factor in PENALTIES)]


def factorise(draft: Draft, method: ALS, rows: Ratings, users: int, *, name: str) -> FactorModel:
    """The charter's own rounds on one set of ratings alone: with everybody's ratings, the pooled reference."""
    state: Tensors = method.initial(draft)
    data = {"user": rows.user, "item": rows.item, "rating": rows.rating, "users": np.asarray(users)}
    for _ in range(draft.rounds):
        terms = method.gather(draft, state, data, {}).terms
        state = method.combine(draft, state, {term: np.asarray(a, np.float64) for term, a in terms.items()})
    made = federated_model(method, state, rows, users)
    return FactorModel(name, made.mean, made.items, made.users)


def biases(rows: Ratings, users: int, items: int) -> FactorModel:
    """Mean plus shrunken biases of items and users, without factors."""
    mean = float(rows.rating.mean())
    count = np.bincount(rows.item, minlength=items)
    item = np.bincount(rows.item, rows.rating - mean, minlength=items) / (count + _SHRINK_ITEMS)
    left = rows.rating - mean - item[rows.item]
    user = np.bincount(rows.user, left, minlength=users) / (np.bincount(rows.user, minlength=users) + _SHRINK_USERS)
    width = np.zeros((items, 2)), np.zeros((users, 2))
    width[0][:, 0], width[1][:, 0] = item, user
    return FactorModel("biases of users and items", mean, width[0], _with_unknown(width[1]))


def gain_in_percent(chosen: Doubles, alone: Doubles, *, seed: int) -> dict[str, float]:
    """How much lower the RMSE is, in %, with a 95 % interval; from squared errors of the same ratings.

    Percentile interval of a paired bootstrap over ratings (Efron and Tibshirani, 1993, chapter 13).
    """
    random = np.random.default_rng([0x72617465, seed])
    n, found = len(alone), []
    for _ in range(_REPEATS):
        counts = np.bincount(random.integers(n, size=n), minlength=n)
        found.append(_lower(float(counts @ chosen), float(counts @ alone)))
    low, high = np.quantile(found, [0.025, 0.975])
    return {"points": _lower(float(chosen.sum()), float(alone.sum())), "low": float(low), "high": float(high)}


def _lower(chosen: float, alone: float) -> float:
    return 100.0 * (1.0 - math.sqrt(chosen / alone)) if alone > 0 else 0.0


def _cut(method: ALS, received: Tensors, rows: Ratings, users: int) -> int:
    return method.solve_users(received, rows.user, rows.item, rows.rating, users)[1]


def _with_unknown(solved: Doubles) -> Doubles:
    return np.concatenate([solved, np.zeros((1, solved.shape[1]))])
