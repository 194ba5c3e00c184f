"""A department's recommender as a folder: ratings for pairs, the best items for a user, profiles of all users.

    recommender.json     layout, range of ratings, which models with which weights
    tensors.safetensors  each model's arrays under ``0/…``, ``1/…``; what each user has rated

Names of users and items lie in ``recommender.json``.  No pickle; predicting needs NumPy alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from commonroot.client.data import Problem, Problems, Reading, read_cells
from commonroot.client.ratings import Positions, Ratings
from commonroot.client.tables.source import Source
from commonroot.common.backbone.factors import Doubles
from commonroot.common.errors import DataError, ForeignState
from commonroot.files import atomic_write, storage_errors
from commonroot.strategies.als import predict

VERSION: Final = 1
RECORD: Final = "recommender.json"
_TENSORS: Final = "tensors.safetensors"
#: Users whose best items are looked for at once.
_USERS: Final = 256
_PASSES: Final = 50


@dataclass(frozen=True, slots=True)
class FactorModel:
    """mean + a_i + b_u + p_u · q_i.

    items  (items, 1 + width) a and q
    users  (users + 1, 1 + width) b and p; the last row, zeros, stands for users that are not known
    """

    name: str
    mean: float
    items: Doubles = field(repr=False)
    users: Doubles = field(repr=False)

    def ratings(self, user: Positions, item: Positions) -> Doubles:
        """(n,) ratings, not cut to the range."""
        return predict(self.mean, self.items, self.users, user, item)

    def scores(self, user: Positions) -> Doubles:
        """(n, items) ratings of all items for some users."""
        own = self.users[user]
        whole = self.mean + self.items[None, :, 0] + own[:, :1] + own[:, 1:] @ self.items[:, 1:].T
        return np.asarray(whole, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Recommender:
    """One or more models whose ratings are averaged.

    columns      names of the user, item and rating columns
    low, high    ratings are cut to this range
    users, items names by position
    members      models with positive weights that sum to 1
    seen         what users have rated, which is not recommended again
    """

    columns: tuple[str, str, str]
    low: float
    high: float
    users: tuple[str, ...] = field(repr=False)
    items: tuple[str, ...] = field(repr=False)
    members: tuple[tuple[float, FactorModel], ...]
    seen: Ratings = field(repr=False)
    about: Mapping[str, Any] = field(default_factory=dict)

    def ratings(self, user: Positions, item: Positions) -> Doubles:
        """(n,) ratings in [low, high]; position len(users) stands for a user who is not known."""
        return mix(self.members, user, item, self.low, self.high)

    def predict(self, users: Sequence[str], items: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Names of users and items to columns ``rating`` and ``known`` (is the user known here?).

        A user who is not known gets what everybody thinks of the item.  Raises DataError for items that the catalogue
        does not have.
        """
        user, item = self._positions(users), self._items(items)
        return {"rating": self.ratings(user, item), "known": user < len(self.users)}

    def recommend(self, users: Sequence[str], top: int) -> dict[str, NDArray[Any]]:
        """The ``top`` items of each user that they have not rated: columns user, rank, item, rating."""
        if top < 1:
            raise DataError(f"the best {top} items were asked for")
        position = self._positions(users)
        order = np.lexsort((self.seen.item, self.seen.user))
        starts = np.searchsorted(self.seen.user[order], np.arange(len(self.users) + 2))
        out: dict[str, list[Any]] = {"user": [], "rank": [], "item": [], "rating": []}
        for at in range(0, len(position), _USERS):
            some = position[at : at + _USERS]
            whole = sum(weight * model.scores(some) for weight, model in self.members)
            scores = np.asarray(whole, dtype=np.float64)
            for line, user in enumerate(some.tolist()):
                scores[line, self.seen.item[order[starts[user] : starts[user + 1]]]] = -np.inf
                best = np.argsort(-scores[line], kind="stable")[:top]
                best = best[np.isfinite(scores[line, best])]
                out["user"] += [users[at + line]] * len(best)
                out["rank"] += range(1, len(best) + 1)
                out["item"] += [self.items[item] for item in best.tolist()]
                out["rating"] += np.clip(scores[line, best], self.low, self.high).tolist()
        return {name: np.array(values) for name, values in out.items()}

    def profiles(self, *, top: int = 3, segments: int = 0) -> dict[str, NDArray[Any]]:
        """One line per known user, as columns.

        user, ratings (how many), mean (of them), bias (above or below what others give), factor 1, 2, … of the model
        with the largest weight, ``liked`` 1 … ``top`` (best rated of the items rated, by rating, then by what all think
        of them); with ``segments``, the k-means segment of the factors, numbered by size, the largest first.
        """
        _, model = max(self.members, key=lambda member: member[0])
        n, seen = len(self.users), self.seen
        count = np.bincount(seen.user, minlength=n)
        total = np.bincount(seen.user, seen.rating, minlength=n)
        out: dict[str, NDArray[Any]] = {
            "user": np.array(self.users),
            "ratings": count,
            "mean": total / np.maximum(count, 1),
            "bias": model.users[:n, 0],
        }
        if segments:
            out["segment"] = _segments(model.users[:n, 1:], segments)
        out |= {f"factor {at}": model.users[:n, at] for at in range(1, model.users.shape[1])}
        order = np.lexsort((seen.item, -model.items[seen.item, 0], -seen.rating, seen.user))
        starts = np.searchsorted(seen.user[order], np.arange(n + 1))
        names = np.array([*self.items, ""])
        liked = np.append(seen.item[order], len(self.items))  # the last stands for no item
        for rank in range(top):
            at = starts[:-1] + rank
            out[f"liked {rank + 1}"] = names[liked[np.where(at < starts[1:], at, len(order))]]
        return out

    # -- files -----------------------------------------------------------------------------------------------------

    def predict_file(self, path: Path | Source) -> dict[str, NDArray[Any]]:
        """Pairs of a table with the user and item columns to columns user, item, rating, known."""
        user, item = _names(path, self.columns[:2])
        return {"user": np.array(user), "item": np.array(item), **self.predict(user, item)}

    def recommend_file(self, path: Path | Source, top: int) -> dict[str, NDArray[Any]]:
        """The best items of the users of a table, each user once."""
        (user,) = _names(path, self.columns[:1])
        return self.recommend(list(dict.fromkeys(user)), top)

    def save(self, folder: Path) -> None:
        """Write into ``folder``, made where needed; each file appears whole or not at all, the record last.

        Raises StorageFull or ConfigError where the disk refuses.
        """
        arrays: dict[str, NDArray[Any]] = {
            "seen/user": self.seen.user,
            "seen/item": self.seen.item,
            "seen/rating": self.seen.rating,
        }
        listed = []
        for at, (weight, model) in enumerate(self.members):
            arrays |= {f"{at}/items": model.items, f"{at}/users": model.users}
            listed.append({"name": model.name, "weight": weight, "mean": model.mean})
        record = {
            "version": VERSION,
            "columns": list(self.columns),
            "low": self.low,
            "high": self.high,
            "models": listed,
            "about": dict(self.about),
            "users": list(self.users),
            "items": list(self.items),
        }
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        tensors = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
        atomic_write(folder / _TENSORS, tensors, mode=0o600)
        atomic_write(
            folder / RECORD, json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1).encode(), mode=0o600
        )

    @classmethod
    def load(cls, folder: Path) -> Recommender:
        """Read what ``save`` wrote.  Raises ForeignState for anything else."""
        try:
            record = json.loads((folder / RECORD).read_bytes())
            arrays = load_file(folder / _TENSORS)
            if record["version"] != VERSION:
                raise ForeignState(f"a recommender of layout {record['version']!r}; this version reads {VERSION}")
            members = tuple(
                (
                    float(one["weight"]),
                    FactorModel(str(one["name"]), float(one["mean"]), arrays[f"{at}/items"], arrays[f"{at}/users"]),
                )
                for at, one in enumerate(record["models"])
            )
            user, item, rating = (str(name) for name in record["columns"])
            return cls(
                (user, item, rating),
                float(record["low"]),
                float(record["high"]),
                tuple(map(str, record["users"])),
                tuple(map(str, record["items"])),
                members,
                Ratings(arrays["seen/user"], arrays["seen/item"], arrays["seen/rating"]),
                record["about"],
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ForeignState(f"{folder.name!r} holds no recommender that this version can read") from error

    # -- inside ----------------------------------------------------------------------------------------------------

    def _positions(self, users: Sequence[str]) -> Positions:
        place = {name: at for at, name in enumerate(self.users)}
        return np.array([place.get(name, len(self.users)) for name in users], dtype=np.int64)

    def _items(self, items: Sequence[str]) -> Positions:
        place = {name: at for at, name in enumerate(self.items)}
        found = np.array([place.get(name, -1) for name in items], dtype=np.int64)
        unknown = np.flatnonzero(found < 0)
        if unknown.size:
            raise DataError(
                f"{unknown.size} item(s) are not in the catalogue, the first in data row {int(unknown[0]) + 1}"
            )
        return found


def mix(
    members: Sequence[tuple[float, FactorModel]], user: Positions, item: Positions, low: float, high: float
) -> Doubles:
    """(n,) weighted mean of the models' ratings, each cut to [low, high]."""
    parts = [weight * np.clip(model.ratings(user, item), low, high) for weight, model in members]
    return np.asarray(np.sum(parts, axis=0), dtype=np.float64)


def _names(path: Path | Source, columns: Sequence[str]) -> list[list[str]]:
    problems = Problems()
    read = read_cells(path, columns, Reading(), problems)
    if read is not None and not len(read[0][columns[0]]):
        problems.add(Problem(file=path.name, found="no rows", expected="at least one row", fix="fill the table"))
    problems.refuse()
    return [np.char.strip(read[0][name].astype(np.str_)).tolist() for name in columns] if read is not None else []


def _segments(points: Doubles, count: int) -> NDArray[np.int64]:
    """Lloyd's k-means from well separated first centres; segments are numbered by size from 1."""
    count = min(count, len(points))
    centres = points[[int(np.argmax(np.square(points).sum(axis=1)))]]
    while len(centres) < count:  # the point furthest from all centres so far (Gonzalez, 1985)
        distance = np.square(points[:, None] - centres[None]).sum(axis=2).min(axis=1)
        centres = np.concatenate([centres, points[[int(np.argmax(distance))]]])
    nearest = np.zeros(len(points), dtype=np.int64)
    for _ in range(_PASSES):
        following = np.square(points[:, None] - centres[None]).sum(axis=2).argmin(axis=1)
        if np.array_equal(following, nearest) and _:
            break
        nearest = following
        for at in range(count):
            if (nearest == at).any():
                centres[at] = points[nearest == at].mean(axis=0)
    rank = np.empty(count, dtype=np.int64)
    rank[np.argsort(-np.bincount(nearest, minlength=count), kind="stable")] = np.arange(1, count + 1)
    return rank[nearest]
