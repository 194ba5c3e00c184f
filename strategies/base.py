"""What a strategy is: two pure halves around one sum.

``contribute`` turns what a department trained into named terms; ``combine`` turns the sum of everybody's terms into the
next state.  Neither half can see a single department's contribution from outside it: no type in their reach holds one.
What happens in between (clipping, fixed point, masks, opening) belongs to the secure sum; what happens before (epochs,
which parts train) is a plan that the department's trainer carries out.

Strategies are numpy only.  They never read a clock, a file or a random number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Draft
from commonroot.common.manifest import Term

Tensors = Mapping[str, NDArray[np.float32]]
Sums = Mapping[str, NDArray[np.float64]]
Part = Literal["backbone", "head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Train some parts for some epochs while the others stay frozen.

    parts   what moves
    epochs  passes over the department's training rows
    rate    factor on the charter's learning rate
    anchor  λ of L2-SP: λ/2 ‖θ − θ_0‖² on the backbone, θ_0 being the broadcast (Li, Grandvalet, Davoine, 2018,
            arXiv:1802.01483); 0 for none
    """

    parts: frozenset[Part]
    epochs: int
    rate: float = 1.0
    anchor: float = 0.0


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What a department holds after carrying out a plan.  It stays inside the department.

    shared      the trained tensors whose names the broadcast lists
    rows        training rows
    loss        mean training loss of the last epoch divided by the task's chance loss
    held_out    mean loss of the *received* model on the private validation rows, divided by the chance loss
    """

    shared: Tensors = field(repr=False)
    rows: int = field(repr=False)
    loss: float = field(repr=False)
    held_out: float = field(repr=False)


@runtime_checkable
class Strategy(Protocol):
    """One method.  Instances are frozen, built from a charter by ``strategies.build``."""

    name: ClassVar[str]
    #: Is the head part of the broadcast (same label schema everywhere) or private to each department?
    shares_head: bool

    def broadcast(self, draft: Draft) -> Shapes:
        """Tensors that departments receive each round, by name and shape, in order."""

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """Everything a department contributes each round."""

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """The state before the first round: at least the broadcast tensors; names starting ``server/`` are not sent."""

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter for a broadcast that rounds under this charter cannot have led to from an earlier one.

        Departments hold every broadcast against version 0, which they can compute themselves, and the last one they
        saw.  Depends on nothing private, so a refusal tells the coordinator nothing.
        """

    def plan(self, draft: Draft) -> tuple[Phase, ...]:
        """What the trainer does between receiving the broadcast and contributing."""

    def finish(self, draft: Draft) -> tuple[Phase, ...]:
        """What the trainer does once after the last round; empty for nothing."""

    def contribute(self, draft: Draft, state: Tensors, result: LocalResult) -> dict[str, NDArray[np.floating]]:
        """The terms of one department, each within its bound."""

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The next state from the opened sums."""
