"""What a finished run is worth on private validation rows: the sum that an evaluation opens, without the masks.

Every department of a simulation has kept its validation figures, as in a federation.  Here they go through the very
method that ``search`` and a coordinator run (``strategies.evaluation``): weights, limits and sums are its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from commonroot.client import evaluated
from commonroot.common.charter import Charter
from commonroot.common.errors import ConfigError
from commonroot.strategies import build, seal
from commonroot.strategies.evaluation import Evaluation, evaluation_of, outcome_of


def validation_of(charter: Charter, folders: Mapping[str, Path]) -> dict[str, Any]:
    """``strategies.evaluation.outcome_of`` over departments, and the names of those in the sum, as ``departments``.

    charter  the training charter
    folders  of the departments, by name; one that did not come to the run's end is not in the sum
    """
    sealed = seal(evaluation_of(charter))
    method = build(sealed)
    if not isinstance(method, Evaluation):
        raise TypeError(f"{sealed.method.name!r} is no evaluation")
    state = method.initial(sealed)
    parts, who = [], []
    for name, folder in folders.items():
        try:
            figures = evaluated.given(sealed, folder, tells=False)
        except ConfigError:  # no run ended there
            continue
        parts.append(method.gather(sealed, state, figures, {}).terms)
        who.append(name)
    if not parts:
        return {"departments": []}
    sums = {name: np.asarray(sum(part[name] for part in parts), dtype=np.float64) for name in parts[0]}
    return {"departments": who} | outcome_of(method.combine(sealed, state, sums))
