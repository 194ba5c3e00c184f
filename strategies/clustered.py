"""Clustering of departments by the two-sum method: unlike departments train different backbones.

Where two groups of departments contradict each other, in what their labels mean or in how their inputs look, one
backbone for both is a compromise.  Departments add a signature of their rows to two sums; the leading eigenvector of
the covariance of signatures (``two_sum``) gives a direction, and each department finds out for itself on which side of
it it lies.  What follows from that is a choice of the charter:

one       nothing: one backbone, as ``fedavg-ft``.  Each department reads its side in its own report, and may tell it
declared  the charter lists who trains the second backbone.  Nothing is summed but updates.  Every side is large enough
          for every survivor set that the charter permits, which each department checks against the roster
secret    sides are decided within the run and told to nobody: each department adds its update to the terms of its own
          backbone and zeros of no weight to the other's

``secret`` protects departments from a coordinator that follows the protocol, and not from one that lies: that one could
make up a direction and counts under which a backbone's sum is one department's update (docs/adr/0015).  So it is never
what a charter gets without asking, and approving such a charter says so.

The counts of members are opened before any update is given to a side.  Departments keep to one backbone unless

    members of either side - (departments - cohort.floor) ≥ least

the bracket being how many can be missing from any opened sum.  Until ``common_rounds`` everybody trains the first
backbone, and the second one is the same.  That departments sort themselves is the idea of Ghosh, Chung, Yin,
Ramchandran, 2020, arXiv:2006.04088; there each picks the backbone of least loss in every round, here a side, once.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, model_validator

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Draft
from commonroot.common.enrolled import Enrolled
from commonroot.common.errors import ConfigError, OutsideCharter, TooFewDepartments
from commonroot.common.manifest import Term
from commonroot.common.roster import FEWEST_DEPARTMENTS
from commonroot.strategies import two_sum
from commonroot.strategies.averaging import average_terms, participation, weighted_change
from commonroot.strategies.base import LocalResult, Sums, Tensors
from commonroot.strategies.families import Group
from commonroot.strategies.fedavg import FedAvgFineTune

SECOND = "second/"
_FIRST_SHARE, _SECOND_SHARE = "first/share", "second/share"
_FIRST_MEMBER, _SECOND_MEMBER = "members/first", "members/second"


class Clustered(FedAvgFineTune):
    """FedAvg with fine-tuning on one backbone of two.

    backbones      ``one``, ``declared`` or ``secret``
    second         ``declared``: who trains the second backbone, names of the roster with commas or spaces between
    departments    ``secret``: how many the roster has
    least          the fewest members that a backbone's sum may have
    common_rounds  rounds of one backbone before there are two
    sees           signatures are of ``rows`` alone, or of rows and ``labels``, which must then be listed alike
    width          d, numbers of a signature
    separation     how many times the next eigenvalue the leading one must be for a split

    Guarantees
    ----------
    * v and m are those of all departments' signatures side by side, exactly
    * two backbones train only where every opened sum of either has ``least`` members by the opened counts
    * the direction is taken once: a department refuses another one under the same charter
    * with ``one`` the model is that of ``fedavg-ft``
    """

    name: ClassVar[str] = "clustered"

    backbones: Literal["one", "declared", "secret"] = "one"
    second: str = ""
    departments: Annotated[int, Field(ge=2 * FEWEST_DEPARTMENTS, le=100_000)] | None = None
    least: Annotated[int, Field(ge=FEWEST_DEPARTMENTS, le=100_000)] = FEWEST_DEPARTMENTS
    common_rounds: Annotated[int, Field(ge=2, le=100_000)] = 5
    sees: Literal["rows", "labels"] = "rows"
    width: Annotated[int, Field(ge=2, le=256)] = 64
    separation: Annotated[float, Field(ge=1, le=1000)] = 1.9

    _signature: two_sum.Doubles | None = PrivateAttr(None)
    _version: int = PrivateAttr(0)

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if (self.backbones == "declared") != bool(self.members()):
            raise ValueError('second lists departments with backbones = "declared", and only then')
        if (self.backbones == "secret") != (self.departments is not None):
            raise ValueError('departments is needed with backbones = "secret", and only then')
        if len(set(self.members())) != len(self.members()):
            raise ValueError("second lists a department twice")
        return self

    def members(self) -> tuple[str, ...]:
        """Who is declared to train the second backbone."""
        return tuple(self.second.replace(",", " ").split())

    @property
    def signed(self) -> bool:
        """Whether departments contribute signatures."""
        return self.backbones != "declared"

    # -- one department's view -------------------------------------------------------------------------------------

    def facing(self, signature: two_sum.Doubles | None, version: int) -> Self:
        """As this department carries it out at one version; ``signature`` (width,) stays inside it."""
        made = self.model_copy()
        made._signature, made._version = signature, version
        return made

    def made(self, draft: Draft, state: Tensors) -> bool:
        """Do the opened counts permit two backbones?"""
        if self.departments is None or two_sum.stage_of(state) < 2:
            return False
        return float(state[two_sum.MEMBERS].min()) >= self.least + max(0, self.departments - draft.cohort.floor)

    def apart(self, draft: Draft, state: Tensors) -> bool:
        """Are there two backbones to train at this version?"""
        return self._version >= self.common_rounds and (self.backbones == "declared" or self.made(draft, state))

    def trains_second(self, draft: Draft, state: Tensors) -> bool:
        """Whether this department trains the second backbone at its version."""
        if not self.apart(draft, state):
            return False
        if self.backbones == "declared":
            return self._department in self.members()
        return self._signature is not None and two_sum.on_second_side(state, self._signature)

    def side(self, received: Tensors) -> str | None:
        """``first`` or ``second``, where signatures were summed and fall in two groups."""
        if not self.signed or self._signature is None or not received[two_sum.DIRECTION].any():
            return None
        return "second" if two_sum.on_second_side(received, self._signature) else "first"

    def own(self, draft: Draft, received: Tensors) -> dict[str, NDArray[np.float32]]:
        """The backbone that this department trains, by the names of the first one."""
        prefix = SECOND if self.trains_second(draft, received) else ""
        return {name: np.asarray(received[prefix + name]) for name, _ in self.common(draft)}

    # -- the two halves --------------------------------------------------------------------------------------------

    def groups(self, draft: Draft) -> tuple[Group, ...]:
        """One group for each backbone.  Raises ConfigError for what does not go together with two."""
        if draft.families:
            raise ConfigError(
                "a charter that clusters departments has no families",
                hint='head = "shared" gives each of the two backbones a head of its own',
            )
        if self.backbones == "one":
            return super().groups(draft)
        if draft.training.warm_start is not None:
            raise ConfigError("two backbones have no warm start", hint="leave training.warm_start out")
        if self.common_rounds >= draft.rounds:
            raise ConfigError(f"{self.common_rounds} common rounds of {draft.rounds} leave none for two backbones")
        second = tuple((SECOND + name, shape) for name, shape in self.common(draft))
        return (Group(_FIRST_SHARE, self.common(draft)), Group(_SECOND_SHARE, second))

    def broadcast(self, draft: Draft) -> Shapes:
        """The backbones, then the split."""
        return (*super().broadcast(draft), *(two_sum.split_shapes(self.width) if self.signed else ()))

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """Those of averaging for each backbone, the signatures, and one count for each side."""
        groups = self.groups(draft)
        terms = average_terms(draft, tuple(tensor for group in groups for tensor in group.shapes))
        if len(groups) > 1:
            terms += tuple(Term(group.share, (), "fixed64", 1.0) for group in groups)
        if self.signed:
            terms += two_sum.signature_terms(self.width)
        if self.backbones == "secret":
            terms += tuple(Term(name, (), "fixed64", 1.0) for name in (_FIRST_MEMBER, _SECOND_MEMBER))
        return terms

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """Both backbones as the charter's seed gives them, and no split."""
        state = super().initial(draft)
        state |= {name: state[name.removeprefix(SECOND)].copy() for name in state if name.startswith(SECOND)}
        return state | (two_sum.nothing_known(self.width) if self.signed else {})

    def contribute(self, draft: Draft, state: Tensors, result: LocalResult) -> dict[str, NDArray[np.floating]]:
        """The change of the department's own backbone, zeros for the other; signature and side when they are due.

        While there is one backbone its change goes to the terms of both, so that the bounds of the second one's terms,
        which follow what was summed, are fit for use when it parts from the first.
        """
        terms = participation(draft, result)
        changes = weighted_change(draft, self.common(draft), self.own(draft, state), result)
        if self.backbones == "one":
            terms |= changes
        else:
            first, second = (float(on) for on in self._trained(draft, state))
            for name, change in changes.items():
                terms |= {name: first * change, f"update/{SECOND}{name.removeprefix('update/')}": second * change}
            terms |= {_FIRST_SHARE: first * terms["weight"], _SECOND_SHARE: second * terms["weight"]}
            terms |= {name: np.asarray(terms[name]) for name in (_FIRST_SHARE, _SECOND_SHARE)}
        if self.signed:
            terms |= two_sum.contribution(self._signature if self._version == 0 else None, self.width)
        if self.backbones == "secret":
            counted = self._version == 1 and self._signature is not None and two_sum.stage_of(state) == 1
            beyond = self._signature is not None and two_sum.on_second_side(state, self._signature)
            terms[_FIRST_MEMBER] = np.asarray(float(counted and not beyond))
            terms[_SECOND_MEMBER] = np.asarray(float(counted and beyond))
        return terms

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """Each backbone moved by its mean change; the second is the first while everybody trains both."""
        following = super().combine(draft, state, sums)
        if self.signed:
            following |= self._further(state, sums)
        weight = float(sums["weight"])
        if self.backbones == "one" or weight == 0.0:
            return following
        if float(sums[_FIRST_SHARE]) + float(sums[_SECOND_SHARE]) <= weight * (1 + 1e-6):  # each trained one of them
            return following
        return following | {SECOND + name: following[name].copy() for name, _ in self.common(draft)}

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter for backbones or a split that no honest rounds can have led to.

        Two backbones that differ while only one can have been trained are found out too.
        """
        super().check_received(draft, received, version, earlier, earlier_version)
        if self.signed:
            two_sum.check_split(received, version, earlier, earlier_version)
        if self.backbones == "one":
            return
        made = self.backbones == "declared" or self.made(draft, received)
        if not made or version <= self.common_rounds:
            for name, _ in self.common(draft):
                if (received[name] != received[SECOND + name]).any():
                    raise OutsideCharter(f"version {version} has two backbones where one was trained")

    # -- who may be on which side ----------------------------------------------------------------------------------

    def check_roster(self, draft: Draft, roster: Enrolled) -> None:
        """Raise where a backbone's sum could be opened over too few departments of this roster.

        Raises  ConfigError: the charter is for another roster; TooFewDepartments: a side is too small, or no two sides
        could ever be large enough
        """
        if self.backbones == "one":
            return
        names = {member.name for member in roster.departments}
        parameters = roster.parameters
        needed = max(FEWEST_DEPARTMENTS, parameters.colluders + 2)
        if self.backbones == "secret":
            if self.departments != len(names):
                raise ConfigError(f"the charter splits {self.departments} departments, and the roster has {len(names)}")
            if self.least < needed:
                raise ConfigError(f"least is {self.least}; this roster asks for {needed} departments in every sum")
            smaller, missing = len(names) // 2, len(names) - draft.cohort.floor
            needed = self.least
        else:
            strangers = sorted(set(self.members()) - names)
            if strangers:
                raise ConfigError(f"second lists {strangers[0]!r}, which is not in the roster")
            needed = max(needed, self.least)
            smaller = min(len(self.members()), len(names) - len(self.members()))
            missing = len(names) - max(parameters.survivors_min, draft.cohort.floor)
        if smaller - missing < needed:
            raise TooFewDepartments(
                f"the smaller side has {smaller} of {len(names)} departments at the most: with {missing} missing, as "
                f"the charter permits, its sum could be over {max(smaller - missing, 0)}, and {needed} are needed",
                hint=f"raise cohort.floor to {len(names) - smaller + needed}"
                if smaller >= needed
                else "keep to one backbone",
            )

    def consent(self) -> tuple[str, ...]:
        """What a department agrees to besides averaging, a sentence a line."""
        said: list[str] = []
        if self.signed:
            what = "rows and labels" if self.sees == "labels" else "rows"
            said.append(
                f"Once, a signature of your {what} ({self.width} numbers, and their products) is added to an encrypted "
                "sum.  Your report says on which side of the split it lies; nobody else is told."
            )
        if self.backbones == "declared":
            said.append(f"Two backbones are trained; the second one by {', '.join(self.members())}.")
        if self.backbones == "secret":
            said += [
                "Two backbones are trained, and which one you train is told to nobody.",
                (
                    "WARNING: how many train each one is known from the coordinator's word alone.  A coordinator that "
                    "lies about it could open a sum that is this department's update and nobody else's.  Approve this "
                    'only if you trust the coordinator with that; backbones = "declared" needs no such trust.'
                ),
            ]
        return tuple(said)

    def _trained(self, draft: Draft, state: Tensors) -> tuple[bool, bool]:
        """Which backbones this department's change goes to."""
        second = self.trains_second(draft, state)
        return (not second, second) if self.apart(draft, state) else (True, True)

    def _further(self, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The split after one more sum: a direction from signatures, then the counts of both sides."""
        stage = two_sum.stage_of(state)
        if stage == 0 and float(sums[two_sum.COUNT]) >= 1:
            return two_sum.agreed(sums, self.width, self.separation)
        if stage == 1 and self.backbones == "secret":
            members = np.round([float(sums[_FIRST_MEMBER]), float(sums[_SECOND_MEMBER])])
            if members.any():
                counted = {two_sum.STAGE: np.asarray(2.0, dtype=np.float32)}
                return counted | {two_sum.MEMBERS: members.astype(np.float32)}
        return {}
