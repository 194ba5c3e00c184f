"""A department's signature: how its rows, or its rows and labels together, are distributed, in a few bounded numbers.

    μ_j = mean over rows of  cos(ω_j·u(x) + b_j)  [· c_j(y)]        u(x) = x/‖x‖,  ω_j ~ N(0, 1.5² I),  c_j(label) = ±1

Random Fourier features (Rahimi, Recht, 2007): the distance of two signatures is about the maximum mean discrepancy of
the two departments' rows under a Gaussian kernel.  With ``labels`` the kernel is also that two labels are equal, so
departments whose rows look alike and whose labels mean something else are told apart; labels go by position, so they
must be listed alike.  ω, b and c come from the charter's seed.

Rows are taken as the backbone reads them.  Where each department standardises its own columns, differences of level and
spread are gone before a signature sees them.  Tokens count as bags: ω has a row for each.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.data import Rows, TokenInput, learnable
from commonroot.client.tasks import Task
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.strategies.clustered import Clustered
from commonroot.strategies.two_sum import stepped

#: Of the directions ω, for rows of length 1.
SCALE: Final = 1.5
#: Rows that are projected at a time.
BLOCK: Final = 512


def signature(draft: Draft, strategy: Clustered, task: Task, rows: Rows) -> NDArray[np.float64] | None:
    """(width,) in [-1, 1], in steps of 1/256; None where the method asks for none.

    Raises ConfigError where rows have columns of their own, or labels are asked for and there are none.
    """
    if not strategy.signed:
        return None
    if draft.network.adapter:
        raise ConfigError(
            "signatures compare columns, and with an adapter every department has its own",
            hint='leave adapter out, or list the second side with backbones = "declared"',
        )
    rows = learnable(task, rows)
    random, width = np.random.default_rng([0x7369676E, draft.training.seed]), strategy.width
    shift = random.uniform(0.0, 2 * np.pi, size=width)
    codes = _codes(strategy, task, rows, random)
    spec = draft.network.input
    tokens = spec.vocabulary if isinstance(spec, TokenInput) else None
    size = tokens if tokens is not None else int(np.prod(rows.x.shape[1:]))
    directions = (SCALE * random.standard_normal((size, width), dtype=np.float32)).astype(np.float32)
    if tokens is not None:
        directions[0] = 0.0  # padding is no token
    total = np.zeros(width)
    for at in range(0, len(rows), BLOCK):
        block = np.cos(_projected(rows.x[at : at + BLOCK], directions, tokens is not None) + shift)
        total += block.sum(axis=0) if codes is None else (block * codes[at : at + BLOCK]).sum(axis=0)
    return stepped(total / len(rows))


def _projected(x: NDArray[Any], directions: NDArray[np.float32], tokens: bool) -> NDArray[np.float64]:
    """ω·u(x), (n, width)."""
    if tokens:
        length = np.sqrt(np.maximum((x != 0).sum(axis=1), 1))
        return np.asarray(directions[x].sum(axis=1, dtype=np.float64) / length[:, None], dtype=np.float64)
    flat = x.reshape(len(x), -1).astype(np.float64)
    return np.asarray((flat / np.maximum(np.linalg.norm(flat, axis=1), 1e-9)[:, None]) @ directions, dtype=np.float64)


def _codes(strategy: Clustered, task: Task, rows: Rows, random: np.random.Generator) -> NDArray[np.float64] | None:
    """±1 for each row and number, by the row's label; None where labels are not looked at."""
    if strategy.sees == "rows":
        return None
    labels = getattr(task, "labels", None)
    if labels is None or rows.y.ndim != 1 or rows.y.dtype.kind not in "iu":
        raise ConfigError(
            f"signatures of labels need one label a row; this department's task is {task.kind!r}",
            hint='sees = "rows" looks at rows alone',
        )
    signs = np.where(random.integers(0, 2, size=(len(labels), strategy.width)) > 0, 1.0, -1.0)
    return np.asarray(signs[rows.y], dtype=np.float64)
