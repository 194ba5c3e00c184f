"""Drafts and data for the methods that gather, shared by their tests."""

from __future__ import annotations

import numpy as np

from commonroot.common.charter import Draft
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.strategies import build, seal

COLUMNS = [
    {"name": "age", "kind": "number", "low": 0, "high": 120, "bins": 12},
    {"name": "joined", "kind": "datetime", "low": "2020-01-01", "high": "2026-01-01", "bins": 6},
    {"name": "segment", "kind": "category", "labels": ["retail", "business"]},
    {"name": "town", "kind": "category", "buckets": 16},
    {"name": "review", "kind": "text", "buckets": 32},
    {"name": "income", "kind": "number", "low": -1e5, "high": 1e7, "bins": 4},
]
ITEMS, WIDTH = 12, 3


def statistics_draft(**changes):
    values = {
        "federation": "bank",
        "name": "counts",
        "rounds": 1,
        "method": {"name": "statistics", "options": {"most_rows": 1000}},
        "columns": COLUMNS,
    }
    return Draft.model_validate(values | changes)


def als_draft(rounds=6, items=ITEMS, width=WIDTH, **options):
    return Draft.model_validate(
        {
            "federation": "bank",
            "name": "films",
            "rounds": rounds,
            "method": {"name": "als", "options": {"strength": 2.0, "most_users": 500} | options},
            "backbone": {"family": "factors", "items": items, "width": width},
        }
    )


def statistics_rows(seed, rows=60):
    """One department's columns, with gaps."""
    random = np.random.default_rng([seed, 1])
    draft = statistics_draft()
    age = random.integers(18, 91, rows).astype(float)
    joined = random.uniform(draft.columns[1].start, draft.columns[1].end, rows)
    income = random.lognormal(10, 1, rows)
    for values in (age, joined, income):
        values[random.random(rows) < 0.1] = np.nan
    pairs = np.unique(np.stack([random.integers(0, rows, 4 * rows), random.integers(0, 32, 4 * rows)], axis=1), axis=0)
    return {
        "count": np.asarray(rows),
        "0": age,
        "1": joined,
        "2": random.integers(-1, 3, rows),
        "3": random.integers(0, 16, rows),
        "4": pairs,
        "5": income,
    }


def pooled_rows(parts):
    """The same rows in one table."""
    out = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name not in ("count", "4")}
    starts = np.cumsum([0, *(int(part["count"]) for part in parts)])
    out["4"] = np.concatenate([part["4"] + [[start, 0]] for part, start in zip(parts, starts, strict=False)])
    return out | {"count": np.asarray(starts[-1])}


def ratings(seed, users=20, items=ITEMS, share=0.6):
    """One department's ratings of a low-rank taste, one to five stars."""
    random = np.random.default_rng([seed, 2])
    shared = np.random.default_rng(77)
    taste, appeal = random.normal(size=(users, 2)), shared.normal(size=(items, 2))
    stars = np.clip(np.rint(3.2 + taste @ appeal.T + 0.4 * random.normal(size=(users, items))), 1, 5)
    user, item = np.nonzero(random.random((users, items)) < share)
    return {"user": user, "item": item, "rating": stars[user, item], "users": np.asarray(users)}


def pooled_ratings(parts):
    """The same ratings in one place, users numbered one department after another."""
    starts = np.cumsum([0, *(int(part["users"]) for part in parts)])
    user = np.concatenate([part["user"] + start for part, start in zip(parts, starts, strict=False)])
    whole = {name: np.concatenate([part[name] for part in parts]) for name in ("item", "rating")}
    return whole | {"user": user, "users": np.asarray(starts[-1])}


def opened_sum(draft, contributions):
    """What the secure sum's codec makes of contributions: encoded, added as words, decoded."""
    codec = SumCodec(seal(draft).manifest, max(3, len(contributions)))
    bounds = codec.initial_bounds()
    encoded = [codec.encode(terms, bounds, bytes([at]) * 32) for at, terms in enumerate(contributions)]
    bulk = np.sum([one for one, _ in encoded], axis=0, dtype=encoded[0][0].dtype)
    exact = np.sum([one for _, one in encoded], axis=0, dtype=np.uint64)
    return codec.decode(bulk, exact, len(contributions), bounds).values


def rounds_of(draft, parts, *, through=opened_sum):
    """Every state of a run over these departments."""
    method = build(draft)
    states = [method.initial(draft)]
    private = [{} for _ in parts]
    for _ in range(draft.rounds):
        made = [method.gather(draft, states[-1], part, kept) for part, kept in zip(parts, private, strict=True)]
        private = [one.private for one in made]
        states.append(method.combine(draft, states[-1], through(draft, [one.terms for one in made])))
    return states


def rounds_of_sums(draft, parts):
    """What the first round opens."""
    method = build(draft)
    made = [method.gather(draft, method.initial(draft), part, {}) for part in parts]
    return opened_sum(draft, [one.terms for one in made])


def plain_sum(draft, contributions):
    """The same without the codec."""
    return {name: np.sum([one[name] for one in contributions], axis=0, dtype=float) for name in contributions[0]}


TABLE = [
    {"name": "age", "kind": "number", "low": -4, "high": 4, "bins": 8},
    {"name": "segment", "kind": "category", "labels": ["retail", "business"]},
    {"name": "income", "kind": "number", "low": -4, "high": 4, "bins": 5},
]
LABELS = "good|bad|late"


def boosting_draft(trees=4, depth=3, **options):
    options = {"labels": "no|yes", "least_rows": 5, "most_rows": 5000} | options
    return Draft.model_validate(
        {
            "federation": "bank",
            "name": "trees",
            "rounds": 1 + trees * depth,
            "method": {"name": "boosting", "options": options | {"depth": depth}},
            "columns": TABLE,
        }
    )


def linear_draft(rounds=4, **options):
    return Draft.model_validate(
        {
            "federation": "bank",
            "name": "lines",
            "rounds": rounds,
            "method": {"name": "shared-linear", "options": {"strengths": "1 30", "most_rows": 5000} | options},
            "columns": TABLE,
        }
    )


def _table(seed, rows):
    """Slots of the columns of TABLE, gaps included, and a score that depends on them with an interaction."""
    random = np.random.default_rng([seed, 3])
    codes = np.stack([random.integers(0, size, rows) for size in (9, 4, 6)], axis=1).astype(np.int32)
    score = 0.6 * (codes[:, 0] - 3) * np.where(codes[:, 1] == 1, 1, -0.5) + (codes[:, 2] == 5) + 0.2 * seed
    return codes, score + random.normal(0, 0.5, rows), random


def boosted_labels(seed, rows=120, labels=2):
    codes, score, _ = _table(seed, rows)
    target = (score > 0).astype(np.int64) + (score > 1.5).astype(np.int64) * (labels == 3)
    method = build(boosting_draft(labels="no|yes" if labels == 2 else LABELS))
    return {"codes": codes, "target": target, "base": np.repeat(method.level_of(target)[None], rows, axis=0)}


def boosted_three(seed):
    return boosted_labels(seed, labels=3)


def boosted_values(seed, rows=120):
    codes, score, _ = _table(seed, rows)
    return {"codes": codes, "target": np.tanh(score / 3)}


def lines(seed, rows=40, labels=0):
    """Rows whose target follows a common line and one of the department's own."""
    random, common = np.random.default_rng([seed, 4]), np.random.default_rng(5)
    slope = common.normal(size=5) + 0.4 * random.normal(size=5)

    def made(count):
        x = np.concatenate([np.ones((count, 1)), random.uniform(-1, 1, (count, 4))], axis=1)
        score = x @ slope + 0.3 * random.normal(size=count)
        if labels:
            return x, (score > 0).astype(np.int64) + (labels == 3) * (score > 1).astype(np.int64)
        return x, np.clip(score / 5, -1, 1)

    (x, y), (held_x, held_y) = made(rows), made(rows // 2)
    return {"x": x, "y": y, "held_x": held_x, "held_y": held_y}


def line_labels(seed):
    return lines(seed, labels=2)


def line_three(seed):
    return lines(seed, labels=3)


def words_draft(rounds=16, values=12, **options):
    options = {"labels": "no|yes", "most_rows": 5000, "strength": 1.0} | options
    return Draft.model_validate(
        {
            "federation": "bank",
            "name": "words",
            "rounds": rounds,
            "method": {"name": "shared-words", "options": options},
            "backbone": {"family": "mlp", "inputs": values, "widths": [4]},
        }
    )


def words(seed, rows=60, values=12, labels=2):
    """Rows of few words, some of which are more frequent under one label."""
    random, common = np.random.default_rng([seed, 8]), np.random.default_rng(9)
    y = random.integers(0, labels, rows)
    there = random.random((rows, values)) < common.uniform(0.05, 0.6, (labels, values))[y]
    x = np.where(there, random.uniform(0.2, 1.0, (rows, values)), 0.0)
    return {"x": x.astype(np.float32), "y": y, "fold": random.permutation(rows) % 4}


def words_three(seed):
    return words(seed, labels=3)


def joined(parts):
    """The rows of several departments in one table."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def evaluation_draft(**options):
    return Draft.model_validate(
        {
            "federation": "bank",
            "name": "judged",
            "rounds": 1,
            "method": {"name": "evaluation", "options": {"of": "ab" * 32} | options},
        }
    )


def counting_draft():
    return evaluation_draft(counts=True, limit=3.0)


def evaluated_figures(seed):
    """One department's figures as its folder gives them; one loss of the first is beyond every limit."""
    random = np.random.default_rng([seed, 6])
    found = dict(zip(("alone", "federated"), random.uniform(0.2, 1.2, 2), strict=True))
    found |= {"error": random.uniform(0.0, 0.1), "weight": random.integers(1, 65) / 64}
    if seed == 0:
        found["federated"] = 1e9
    return {name: np.asarray(value) for name, value in found.items()} | {"choice": np.asarray(seed % 4 - 1)}
