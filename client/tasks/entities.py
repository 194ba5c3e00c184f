"""Entities from BIO tags (Ramshaw and Marcus, 1995), for whole arrays of tags at once.

``B-X`` begins an entity of type X, ``I-X`` continues it, ``O`` is outside.  Tags that contradict each other are
repaired as the CoNLL-2000 evaluation reads them:

* an ``I-X`` that follows no token of an entity of type X (the text's start, ``O``, another type) begins one
* a ``B-X`` begins one always, also directly after an entity of type X
* a tag that is neither is outside, and so is a token without a label

An entity counts as found when its type, its first and its last token are all right, and not otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Spans:
    """Entities of (n, length) tags.

    starts  does an entity begin at this token?
    kind    its type, as a position in ``Scheme.types``, wherever ``starts``
    end     the token after its last, wherever ``starts``
    """

    starts: Bools
    kind: NDArray[np.int64]
    end: NDArray[np.int64]


class Scheme:
    """What a list of tags means: the type of each (-1 outside) and whether it begins an entity."""

    def __init__(self, tags: Sequence[str]) -> None:
        named = [tag[2:] if tag[:2] in ("B-", "I-") and len(tag) > 2 else None for tag in tags]
        self.types: tuple[str, ...] = tuple(dict.fromkeys(name for name in named if name is not None))
        self._type = np.array([-1 if name is None else self.types.index(name) for name in named], dtype=np.int64)
        self._begins = np.array([tag.startswith("B-") for tag in tags], dtype=np.bool_)

    def spans(self, tags: NDArray[np.int64], there: Bools | None = None) -> Spans:
        """Entities of (n, length) positions in the list of tags; tokens that are not ``there`` are outside."""
        kind = self._type[np.maximum(tags, 0)]
        outside = tags < 0 if there is None else ~there | (tags < 0)
        kind = np.where(outside, -1, kind)
        before = np.concatenate([np.full((len(kind), 1), -1), kind[:, :-1]], axis=1)
        goes_on = (kind >= 0) & (kind == before) & ~self._begins[np.maximum(tags, 0)]
        length = tags.shape[1]
        # the next token that does not go on, looked for from the right
        stops = np.where(goes_on, length, np.arange(length))
        following = np.minimum.accumulate(stops[:, ::-1], axis=1)[:, ::-1]
        end = np.concatenate([following[:, 1:], np.full((len(kind), 1), length)], axis=1)
        return Spans((kind >= 0) & ~goes_on, kind, end)

    def matches(self, true: Spans, said: Spans) -> Bools:
        """(n, length): does an entity begin here in both, of one type and with one end?"""
        return np.asarray(true.starts & said.starts & (true.kind == said.kind) & (true.end == said.end))

    def by_type(self, spans: Spans, which: Bools) -> NDArray[np.int64]:
        """(types,) how many of the marked entities are of each type."""
        return np.bincount(spans.kind[which], minlength=len(self.types))
