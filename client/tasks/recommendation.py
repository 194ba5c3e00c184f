"""Ratings of items by users: what methods that factorise (``client/recommending``) predict; no network learns it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from commonroot.client.tasks.base import TaskConfig
from commonroot.client.tasks.rating import Rating, RatingConfig

RECOMMENDATION: Final = "recommendation"


class RecommendationConfig(RatingConfig):
    """As for a rating; who rated what stands in ``[data]`` as ``user``, ``item`` and ``catalogue``."""


@dataclass(frozen=True, slots=True, repr=False)
class Recommendation(Rating):
    """A rating of an item by a user."""

    kind: ClassVar[str] = RECOMMENDATION
    Config: ClassVar[type[TaskConfig]] = RecommendationConfig
