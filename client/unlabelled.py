"""What a department without labels trains on, and what it needs of a charter.

It gives what needs no labels, or nothing, and receives.  In the end it keeps the common model under the common head, or
that of its family: there is nothing to compare it with, and so nothing for the guard to decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from commonroot.client.accelerator import where
from commonroot.client.models import Model
from commonroot.client.tasks import Task
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.strategies import critic
from commonroot.strategies.base import Form, Tensors

#: Steps in which predictions are brought to the shares of labels; a few are enough, and they cost next to nothing.
_STEPS: Final = 100
_LEAST: Final = 1e-12
#: Why such a department keeps what it keeps.
NO_LABELS: Final = "without labels no rows can say which model is better, so there was nothing to decide on"


@dataclass(frozen=True, slots=True)
class Critic:
    """A broadcast critic (``strategies.critic``) that stands still.

    weight  (network.outputs,)
    bias    its own less the prior
    """

    weight: Tensor
    bias: float

    @classmethod
    def of(cls, received: Tensors) -> Self | None:
        """None where the method has none."""
        if critic.WEIGHT not in received:
            return None
        bias = float(received[critic.BIAS]) - float(received[critic.PRIOR])
        return cls(torch.from_numpy(np.array(received[critic.WEIGHT], dtype=np.float32)).to(where()), bias)

    def confusion(self, represented: Tensor) -> Tensor:
        """Mean CE(uniform, critic(z)) / log 2 of (…, outputs): 1 where it knows nothing, else more."""
        logit = represented @ self.weight + self.bias
        return (torch.nn.functional.softplus(logit) - logit / 2).mean() / math.log(2)


def trusted_labels(said: NDArray[Any], shares: NDArray[Any], trust: float) -> NDArray[np.int64]:
    """(n,) positions of labels, -1 for rows that are not trusted.

    said    (n, labels) probabilities
    shares  (labels,) how frequent each label is taken to be; zeros where nobody knows yet, and then nothing is trusted
    trust   share of the rows of every label that are trusted, the surest first

    The log odds of each label are moved by one number for all rows until the mean probabilities are ``shares``.
    """
    n, labels = said.shape
    out = np.full(n, -1, dtype=np.int64)
    if not n or not float(np.sum(shares)) > 0:
        return out
    wanted = np.maximum(np.asarray(shares, dtype=np.float64), 1.0 / (100 * n))
    wanted /= wanted.sum()
    logs = np.log(np.maximum(np.asarray(said, dtype=np.float64), _LEAST))
    for _ in range(_STEPS):
        shifted = np.exp(logs - logs.max(axis=1, keepdims=True))
        mean = (shifted / shifted.sum(axis=1, keepdims=True)).mean(axis=0)
        logs += np.log(wanted / np.maximum(mean, _LEAST))
    best = logs.argmax(axis=1)
    ordered = np.sort(logs, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    for label in range(labels):
        rows = np.flatnonzero(best == label)
        kept = rows[np.argsort(-margin[rows], kind="stable")[: math.ceil(trust * len(rows))]]
        out[kept] = label
    return out


def nothing_known(task: Task) -> Model:
    """A model to whom every label is as likely."""
    return Model("constant", {"values": np.zeros(task.outputs)})


def check_unlabelled(draft: Draft, form: Form) -> None:
    """Raise ConfigError where a department without labels could not end with a model."""
    hint = 'a method with head = "shared", or a family that this department belongs to'
    if not form.head and form.family is None:
        raise ConfigError(
            f"method {draft.method.name!r} shares no head, and a department without labels cannot train its own",
            hint=hint,
        )
    if draft.network.adapter or draft.network.private_shapes():
        raise ConfigError("nothing trains the private adapter of a department without labels", hint=hint)
    if form.norms:
        raise ConfigError("nothing trains the private norms of a department without labels", hint=hint)
