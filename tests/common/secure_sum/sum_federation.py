"""A whole federation of protocol machines in one process: departments, a coordinator, and nothing between them."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterable

import numpy as np

from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Charter, Cohort, Method, TermSpec
from commonroot.common.errors import PeerError
from commonroot.common.messages import Confirmed, Masked, Open, Previous, RoundOpen, opened_digest
from commonroot.common.roster import Member, Parameters, Roster
from commonroot.common.secure_sum.agreement import AgreementKey
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.coordinator import CoordinatorRound
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.epoch import EpochSetup, introduction
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import Identity, sha256

TERMS = (
    TermSpec(name="update/weight", shape=(7, 5), lane="fixed16", bound=1.0),
    TermSpec(name="update/bias", shape=(3,), lane="fixed16", bound=4.0),
    TermSpec(name="weight", shape=(), lane="fixed64", bound=1000.0),
    TermSpec(name="table", shape=(2, 2), lane="fixed64", bound=1e6),
)
BROADCAST = bytes(4 * 6)


class Federation:
    """n departments with fresh keys, all of it a function of ``seed``."""

    def __init__(
        self, n: int, *, colluders: int | None = None, floor: int = 3, seed: int = 1, rounds_max: int = 10_000
    ):
        self.random = random.Random(seed).randbytes
        self.coordinator = Identity.generate(self.random)
        self.identities = [Identity.generate(self.random) for _ in range(n)]
        private = [AgreementKey.generate(self.random) for _ in range(n)]
        members = tuple(
            Member.signed(f"d{i}", identity, key.public, f"node-{i}")
            for i, (identity, key) in enumerate(zip(self.identities, private, strict=True))
        )
        parameters = Parameters.for_size(n, colluders).model_copy(update={"rounds_max": rounds_max})
        self.roster = Roster(
            federation="f",
            epoch=1,
            coordinator=self.coordinator.public.hex(),
            parameters=parameters,
            departments=members,
            expires=2**40,
        )
        self.charter = Charter(
            federation="f",
            name="c",
            rounds=5,
            method=Method(name="mean"),
            backbone=BackboneSpec(inputs=1, widths=(1,)),
            cohort=Cohort(floor=floor),
            terms=TERMS,
            broadcast=(("w", (2, 3)),),
        )
        self.codec = SumCodec.of_round(self.charter, self.roster, n)
        self.machines = [
            DepartmentMachine(self.roster, identity, memory)
            for identity, memory in zip(self.identities, self._acquainted(private), strict=True)
        ]

    def _acquainted(self, private: list[AgreementKey]) -> list[DepartmentMemory]:
        """Every department's memory once all have been introduced to all."""
        setups = [
            EpochSetup.begin(self.roster, identity, key) for identity, key in zip(self.identities, private, strict=True)
        ]
        greetings = {i: (setup.greeting, setup.ciphertexts) for i, setup in enumerate(setups)}
        memories = []
        for i, setup in enumerate(setups):
            others = {at: greeting for at, greeting in greetings.items() if at != i}
            told = introduction(self.coordinator, self.roster, i, others)
            memories.append(setup.introduce(self.roster, *told, DepartmentMemory.begin(self.roster, i, self.random))[1])
        return memories

    @property
    def n(self) -> int:
        return len(self.machines)

    def next_epoch(self) -> Federation:
        """The same departments with fresh keys, all introduced; their memories hold nothing of this epoch yet."""
        later = copy.copy(self)
        private = [AgreementKey.generate(self.random) for _ in range(self.n)]
        members = tuple(
            Member.signed(before.name, identity, key.public, f"{before.node_key}+")
            for before, identity, key in zip(self.roster.departments, self.identities, private, strict=True)
        )
        later.roster = Roster.model_validate(
            self.roster.model_dump() | {"epoch": self.roster.epoch + 1, "departments": members}
        )
        later.machines = [
            DepartmentMachine(later.roster, identity, memory)
            for identity, memory in zip(self.identities, later._acquainted(private), strict=True)
        ]
        return later

    def opening(self, round: int = 1, cohort: Iterable[int] | None = None, **changes: object) -> RoundOpen:
        """A signed round-open for the broadcast ``BROADCAST``, with any field changed."""
        fields: dict[str, object] = {
            "charter": self.charter.digest,
            "roster": self.roster.digest,
            "epoch": self.roster.epoch,
            "round": round,
            "version": 0,
            "cohort": tuple(range(self.n)) if cohort is None else tuple(cohort),
            "broadcast": sha256(BROADCAST),
            "manifest": self.charter.manifest.digest,
            "bounds": tuple(self.codec.initial_bounds().tolist()),
            "upload_seconds": 60,
            "previous": Previous(),
        }
        return RoundOpen.signed(self.coordinator, **(fields | changes))

    def values(self, department: int, seed: int = 0) -> dict[str, np.ndarray]:
        """What a department contributes: a little of it beyond its bounds, so that clipping happens."""
        rng = np.random.default_rng([department, seed])
        return {
            "update/weight": rng.normal(0, 0.5, (7, 5)).astype(np.float32),
            "update/bias": rng.normal(0, 2, 3).astype(np.float32),
            "weight": np.array(float(rng.integers(1, 1000))),
            "table": rng.integers(-1000, 1000, (2, 2)).astype(float),
        }

    def lanes(self, department: int, opening: RoundOpen, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """A department's encoded contribution; the same each time it is asked for."""
        return self.codec.encode(
            self.values(department, seed), opening.bounds, sha256(bytes([*divmod(department, 256), seed]))
        )

    def upload(
        self, department: int, opening: RoundOpen, *, body: bytes = BROADCAST, seed: int = 0
    ) -> tuple[bytes, bytes]:
        """Review, encode, mask: the head and body that this department sends."""
        machine = self.machines[department]
        reviewed = machine.review(opening.encode(), body, charter=self.charter)
        head, masked, _ = machine.mask(reviewed, *self.lanes(department, opening, seed), self.random)
        return head, bytes(masked)

    def round(self, opening: RoundOpen) -> CoordinatorRound:
        return CoordinatorRound(
            self.roster,
            self.coordinator,
            opening,
            self.codec.layout,
            floor=self.charter.cohort.floor,
        )

    def gathered(self, opening: RoundOpen, uploading: Iterable[int]) -> CoordinatorRound:
        """A coordinator that holds the uploads of some departments; the survivor set is not fixed yet."""
        at_work = self.round(opening)
        for department in uploading:
            at_work.upload(department, *self.upload(department, opening))
        return at_work

    def confirm(self, at_work: CoordinatorRound) -> CoordinatorRound:
        """As many members confirm the fixed survivor set as must, where it is not the whole cohort."""
        for member in at_work.members:
            if at_work.confirmed:
                break
            try:
                reply, _ = self.machines[member].confirm(at_work.confirm_request)
            except PeerError:
                continue  # it never masked, or is committed to another set
            at_work.confirmation(member, reply)
        return at_work

    def answers(self, at_work: CoordinatorRound, answering: Iterable[int]) -> None:
        self.confirm(at_work)
        for department in answering:
            reply, _ = self.machines[department].answer(at_work.open_for(department))
            at_work.shares(department, reply)

    def ring_sum(self, survivors: Iterable[int], opening: RoundOpen) -> tuple[list[int], list[int]]:
        """The slow reference: the encoded lanes, added as Python integers."""
        lanes = [self.lanes(department, opening) for department in survivors]
        return (
            [
                sum(int(v) for v in column) % 2 ** (8 * self.codec.lanes.width)
                for column in zip(*(a for a, _ in lanes), strict=True)
            ],
            [sum(int(v) for v in column) % 2**64 for column in zip(*(b for _, b in lanes), strict=True)],
        )

    def restart(self, department: int, memory: bytes) -> None:
        """A department's process starts again from stored bytes."""
        self.machines[department] = DepartmentMachine(
            self.roster, self.identities[department], DepartmentMemory.from_bytes(memory)
        )


def total(at_work: CoordinatorRound) -> tuple[list[int], list[int]]:
    sum16, sum64 = at_work.finish()
    return sum16.tolist(), sum64.tolist()


def forged_open(federation, at_work, member, survivors, *, identity=None, **changes):
    """What a coordinator that lies about the survivors would send, with the right boxes.

    It has a quorum's confirmations, as if as many members had betrayed their federation.
    """
    fields = {
        "transcript": at_work.transcript,
        "round": at_work.opening.round,
        "survivors": tuple(survivors),
        "boxes": tuple(at_work._kept[i].boxes[member] for i in survivors),
    } | changes
    if "confirmed_by" not in fields and fields["survivors"]:
        by = at_work.members[: federation.roster.parameters.opening_quorum]
        fields |= confirmations(federation, opened_digest(fields["transcript"], fields["survivors"]), by)
    return Open.signed(identity or federation.coordinator, **fields).encode()


def confirmations(federation, opened, members):
    """Signatures of members under one survivor set, whatever these members are committed to; fields of an ``Open``."""
    members = tuple(members)
    signed = [Confirmed.signed(federation.identities[m], opened=opened, member=m) for m in members]
    return {"confirmed_by": members, "confirmations": tuple(one.signature for one in signed)}


def changed_upload(federation, department, opening, **changes):
    """An upload whose head a dishonest department changed, under its own valid signature."""
    head, body = federation.upload(department, opening)
    masked = Masked.decode(head)
    fields = {f.name: getattr(masked, f.name) for f in dataclasses.fields(Masked) if f.name != "signature"}
    fields |= {name: change(fields[name]) for name, change in changes.items()}
    return Masked.signed(federation.identities[department], **fields).encode(), body
