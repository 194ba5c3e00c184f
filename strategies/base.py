"""What a strategy is: two pure halves around one sum.

``contribute`` turns what a department trained into named terms; ``combine`` turns the sum of everybody's terms into the
next state.  Neither half can see a single department's contribution from outside it: no type in their reach holds one.
What happens in between (clipping, fixed point, masks, opening) belongs to the secure sum; what happens before (epochs,
which parts train) is a plan that the department's trainer carries out.

There are two kinds.  A ``Strategy`` averages what was trained.  A ``Gathering`` trains nothing: its local half is exact
arithmetic on the rows, and what comes out of the sum is what the same arithmetic on everybody's rows would give.

Strategies are numpy only.  They never read a clock, a file or a random number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Draft
from commonroot.common.enrolled import Enrolled
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
    anchor  λ of λ/2 ‖θ − θ_0‖² on all that is broadcast, θ_0 being the broadcast: L2-SP after the rounds (Li,
            Grandvalet, Davoine, 2018, arXiv:1802.01483), the proximal term of FedProx within them; 0 for none
    pull    κ of κ‖mean_batch(z) − m̄‖²/d, which draws the mean representation of a batch towards the broadcast one; 0
            for none
    confusion  λ of λ·CE(uniform, critic(z)) / log 2, which draws representations to where the broadcast critic cannot
            tell departments with labels from those without (``critic``); 0 for none
    trust   without labels: share of the rows that are trained on as the received model labels them, at the end; it
            grows from 0 with every version (``self_training``)
    copy    train the department's private copy of the network instead of what it contributes
    """

    parts: frozenset[Part]
    epochs: int
    rate: float = 1.0
    anchor: float = 0.0
    pull: float = 0.0
    confusion: float = 0.0
    trust: float = 0.0
    copy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a department's network has besides its adapter, the backbone and a private head.

    head    the head is part of the broadcast
    shift   a private vector β is added to the representation before the private head reads it
    norms   names of the backbone's tensors that are private
    family  the family whose head is added to the private one; None for none
    centre  the mean representation of the last pass over the rows is a result of training
    unlabelled  departments without labels contribute too, and the shares of labels are a result of training
    label_evidence  the last round trains nothing, and losses by label are its result
    """

    head: bool = False
    shift: bool = False
    norms: frozenset[str] = frozenset()
    family: str | None = None
    centre: bool = False
    unlabelled: bool = False
    label_evidence: bool = False


#: Adapter, backbone, private head.
PLAIN: Final = Form()


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What a department holds after carrying out a plan.  It stays inside the department.

    shared      the trained tensors whose names the broadcast lists
    rows        training rows
    loss        mean training loss of the last epoch divided by the task's chance loss
    held_out    mean loss of the *received* model on the private validation rows, divided by the chance loss; 0 where
                the charter has this version not scored
    centre      mean representation of the training rows in the last pass, (network.outputs,); None unless the form
                asks for it
    labelled    whether the rows have labels; both losses are 0 where not
    seen        representation of the training rows by the *received* backbone, (rows, network.outputs), and
    shares      of each label in them, (labels,): None unless the method asks, the latter without labels too
    trusted     share of rows without labels that were trained on as the received model labels them
    label_losses  (labels,) mean loss of the *received* model on the private validation rows of each label, NaN where
                there are none; None but where the form asks, in the last round
    """

    shared: Tensors = field(repr=False)
    rows: int = field(repr=False)
    loss: float = field(repr=False)
    held_out: float = field(repr=False)
    centre: NDArray[np.float32] | None = field(default=None, repr=False)
    labelled: bool = field(default=True, repr=False)
    seen: NDArray[np.float32] | None = field(default=None, repr=False)
    shares: NDArray[np.float64] | None = field(default=None, repr=False)
    trusted: float = field(default=0.0, repr=False)
    label_losses: NDArray[np.float64] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one round of a gathering gives a department.

    terms    to contribute, by name
    private  to keep until the next round; never leaves
    """

    terms: Mapping[str, NDArray[np.floating]] = field(repr=False)
    private: Mapping[str, NDArray[np.generic]] = field(repr=False)


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

    def as_department(self, name: str) -> Self:
        """The method as one department carries it out; which family it belongs to depends on its name."""

    def form(self, draft: Draft) -> Form:
        """What the department's network consists of."""

    def plan(self, draft: Draft) -> tuple[Phase, ...]:
        """What the trainer does between receiving the broadcast and contributing."""

    def finish(self, draft: Draft) -> tuple[Phase, ...]:
        """What the trainer does once after the last round; empty for nothing."""

    def contribute(self, draft: Draft, state: Tensors, result: LocalResult) -> dict[str, NDArray[np.floating]]:
        """The terms of one department, each within its bound."""

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The next state from the opened sums."""


@runtime_checkable
class Gathering(Protocol):
    """A method whose local half is exact arithmetic.  Instances are frozen, built by ``strategies.build``.

    ``broadcast``, ``terms``, ``initial`` and ``combine`` are as in ``Strategy``.

    Guarantees
    ----------
    * ``gather`` is a function of its arguments: a repeated round contributes the same numbers
    * every term travels as ``fixed64``, so nothing is clipped or rounded at random
    """

    name: ClassVar[str]

    def broadcast(self, draft: Draft) -> Shapes:
        """Tensors that departments receive each round, by name and shape, in order."""

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """Everything a department contributes each round.  Raises ConfigError where the charter does not fit."""

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """The state before the first round."""

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter for a broadcast that no sum can have led to.

        This binds less than with averaging, where a round moves the state by a clipped step: one sum may lead a
        gathering anywhere that is a possible result.  What is checked is that: version 0 is what the charter's seed
        gives, and a later one is well formed and within the charter's bounds.  A coordinator that makes up such a
        state is not found out here; each method says what it could learn by that.
        """

    def gather(
        self,
        draft: Draft,
        state: Tensors,
        data: Mapping[str, NDArray[np.generic]],
        private: Mapping[str, NDArray[np.generic]],
    ) -> Gathered:
        """One department's terms, each within its bound.

        data     the department's rows as named arrays; which, each method says
        private  what the round before kept; empty before the first

        Raises DataError where the rows do not keep to what the charter says of them.
        """

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The next state from the opened sums."""


@runtime_checkable
class MindsRoster(Protocol):
    """A method whose sums need more departments than the roster asks for."""

    def check_roster(self, draft: Draft, roster: Enrolled) -> None:
        """Raise ConfigError or TooFewDepartments where a sum under this charter could be over too few of the roster."""
