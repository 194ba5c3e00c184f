"""A section whose ``kind`` says which fields it has: wrong ones are told as of that kind alone, and by their names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel


def chosen(kinds: Mapping[str, type[BaseModel]], what: str) -> Callable[[Any], BaseModel]:
    """A validator that hands a section to the model of its ``kind``."""

    def choose(value: Any) -> BaseModel:
        if isinstance(value, BaseModel):
            return value
        kind = value.get("kind") if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in kinds:
            listed = ", ".join(kinds)
            if not isinstance(kind, str):
                raise ValueError(f"a {what} is a section with its kind: {listed}")
            near = difflib.get_close_matches(kind, kinds, n=1)
            raise ValueError(f"no {what} {kind!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {listed}"))
        return kinds[kind].model_validate(value)

    return choose
