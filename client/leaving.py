"""Early exit: a department that the others do not help stops giving; no message of its own tells.

Between a quarter of the rounds and the last, now and then, the received backbone under a fresh head (or the shared head
where the method has one) is compared with the best baseline on the department's validation rows:

    d = loss_alone - loss_federated;    mean(d) + z·se < 0,  z = 1,  three evaluations in a row:  it leaves.

That is, it leaves on evidence of harm.  Lack of evidence of a gain is what most departments have in most rounds; if
that were enough there would soon be nobody left to learn from.

A department that has left goes on training and receiving, and contributes zeros of weight zero.  Masked zeros look like
any other contribution, take as long to make, and add nothing to the sum.  What the sum tells is that its weight has
fallen: somebody of that weight gives no more, or could not train.  The state is two private numbers beside the
head, so that a repeated round repeats exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.alone import candidates, chosen_elsewhere, held_out, network
from commonroot.client.alone_memory import Basis
from commonroot.client.baselines import bounded
from commonroot.client.choice import FEWEST_TO_DECIDE, calibrate
from commonroot.client.data import Prepared, Rows, learnable
from commonroot.client.guard import Z
from commonroot.client.learner import AGAINST, ENOUGH
from commonroot.client.models import Model
from commonroot.client.probe import probe_head
from commonroot.client.trainer import Net, Private, Trainer, represent
from commonroot.strategies.base import Tensors

#: Evaluations in a whole run, about; the first quarter of the rounds is left in peace.
EVALUATIONS: Final = 12
_STRENGTH: Final = 1.0


class Leaving:
    """One department under one charter.  What is compared with is fitted once."""

    def __init__(self, trainer: Trainer, prepared: Prepared) -> None:
        self._trainer, self._prepared = trainer, prepared
        task, secret = trainer.task, trainer.secret
        parts = held_out(prepared, secret)
        sides = [part.held.take(np.flatnonzero(~part.seen)) for part in parts]
        self._held = Rows(np.concatenate([one.x for one in sides]), np.concatenate([one.y for one in sides]))
        self._alone: NDArray[np.float64] = np.zeros(0)  # with too few rows nobody can tell
        if len(self._held) >= FEWEST_TO_DECIDE:
            found = candidates(trainer.draft, prepared, epochs=0, basis=Basis(secret), parts=parts)
            fresh = ~np.concatenate([part.seen for part in parts])
            self._alone = task.row_losses(chosen_elsewhere(task, found, parts)[fresh], self._held.y)

    def due(self, version: int) -> bool:
        """Is this a round to look at?"""
        rounds = self._trainer.draft.rounds
        return len(self._alone) > 0 and 4 * version >= rounds and version % max(1, rounds // EVALUATIONS) == 0

    def after(self, kept: Mapping[str, NDArray[Any]], received: Tensors, private: Private, version: int) -> float:
        """How many evaluations in a row have spoken against the others, this one included; ENOUGH is for good.

        kept     what was kept of the round before
        private  the head and adapter that belong to ``received``
        """
        before = float(np.ravel(kept[AGAINST])[0]) if AGAINST in kept else 0.0
        against = self._harmed(received, private) if self.due(version) else None
        if before >= ENOUGH or against is None:
            return before
        return before + 1 if against else 0.0

    def _harmed(self, received: Tensors, private: Private) -> bool:
        task, held = self._trainer.task, self._held
        model = self._federated(received, private)
        found = calibrate(task, model.outputs(task, held.x), held.y)
        gains = self._alone - task.row_losses(found.of(model).predict(task, held.x), held.y)
        return float(gains.mean() + Z * gains.std(ddof=1) / math.sqrt(len(gains))) < 0

    def _federated(self, received: Tensors, private: Private) -> Model:
        trainer, task = self._trainer, self._trainer.task
        net = trainer.net(received, private)
        if not trainer.shared_head:
            rows = bounded(learnable(task, self._prepared.train))
            known = rows.x if task.reconstructs else rows.y
            seen = represent(trainer.draft, received, rows.x, private, tokens=task.per_token)
            head = probe_head(task, seen, known, strength=_STRENGTH)
            net = Net(net.backbone, head, net.adapter, net.per_token)
        return network(trainer.draft, net)
