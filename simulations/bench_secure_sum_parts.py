"""A federation of protocol machines without links, data or disks, to be timed piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Charter, Method, TermSpec
from commonroot.common.messages import Previous, RoundOpen
from commonroot.common.roster import Member, Parameters, Roster
from commonroot.common.secure_sum.codec import Opened, SumCodec
from commonroot.common.secure_sum.coordinator import CoordinatorRound
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.lanes import LaneChoice, Lanes, Layout
from commonroot.common.secure_sum.masks import Signed, add_streams, fill_streams, join_body
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.precompute import Prepared
from commonroot.common.secure_sum.primitives import Identity, agreement_public, sha256

Tensors = dict[str, NDArray[np.float32]]
#: A tensor's elements lie within this many times their root mean square; what the protocol publishes from the last sum.
_SPREAD = 10.0
_RMS = 0.01


def updates(parameters: int, tensors: int = 10, seed: int = 1) -> Tensors:
    """One department's float32 updates: normal, in tensors of equal size."""
    draw = np.random.default_rng(seed)
    size = parameters // tensors
    return {f"update/{at}": draw.normal(0, _RMS, size).astype(np.float32) for at in range(tensors)}


def _charter(values: Tensors, lanes: LaneChoice) -> Charter:
    terms = [TermSpec(name=name, shape=x.shape, lane="fixed16", bound=_SPREAD * _RMS) for name, x in values.items()]
    return Charter(
        federation="bench",
        name="bench",
        rounds=1,
        method=Method(name="fedavg"),
        backbone=BackboneSpec(inputs=1, widths=(1,)),
        lanes=lanes,
        terms=(*terms, TermSpec(name="weight", shape=(), lane="fixed64", bound=1.0)),
        broadcast=(("nothing", (1,)),),
    )


@dataclass(frozen=True, slots=True)
class Upload:
    """What one department sent."""

    head: bytes
    body: memoryview


class Parts:
    """n departments and a coordinator, with real keys and messages; every department contributes the same numbers."""

    def __init__(self, n: int, values: Tensors, lanes: LaneChoice = "auto") -> None:
        random = os.urandom
        self.n = n
        self.values: dict[str, NDArray[np.floating]] = {**values, "weight": np.asarray(0.5)}
        self.coordinator = Identity.generate(random)
        self.identities = [Identity.generate(random) for _ in range(n)]
        private = [random(32) for _ in range(n)]
        self.roster = Roster(
            federation="bench",
            epoch=1,
            coordinator=self.coordinator.public.hex(),
            parameters=Parameters.for_size(n),
            departments=tuple(
                Member.signed(f"d{at}", identity, agreement_public(key), f"node {at}")
                for at, (identity, key) in enumerate(zip(self.identities, private, strict=True))
            ),
            expires=2**40,
        )
        self.charter = _charter(values, lanes)
        self.codec = SumCodec.of_round(self.charter, self.roster, n)
        self._begun = [DepartmentMemory.begin(self.roster, at, key, random) for at, key in enumerate(private)]
        self.broadcast = bytes(4)
        self.opening = RoundOpen.signed(
            self.coordinator,
            charter=self.charter.digest,
            roster=self.roster.digest,
            epoch=1,
            round=1,
            version=0,
            cohort=tuple(range(n)),
            broadcast=sha256(self.broadcast),
            manifest=self.charter.manifest.digest,
            bounds=tuple(self.codec.initial_bounds().tolist()),
            upload_seconds=60,
            previous=Previous(),
        )
        self._head = self.opening.encode()
        self._masked: dict[int, DepartmentMemory] = {}

    # -- a department ----------------------------------------------------------------------------------------------

    def reviewed(self, department: int) -> DepartmentMachine:
        """A department that has just reviewed the round, as often as it is asked for."""
        machine = DepartmentMachine(self.roster, self.identities[department], self._begun[department])
        machine.review(self._head, self.broadcast, charter=self.charter)
        return machine

    def prepare(self, machine: DepartmentMachine, threads: int = 1) -> Prepared:
        """Masks, shares, boxes."""
        return machine.prepare(self.opening, os.urandom, threads=threads)

    def upload(self, machine: DepartmentMachine, prepared: Prepared | None = None) -> Upload:
        """Encode and mask: what lies between trained tensors and the link."""
        bulk, exact = self.codec.encode(self.values, self.opening.bounds, os.urandom(32))
        head, body, self._masked[machine.me] = machine.mask(self.opening, bulk, exact, prepared or os.urandom)
        return Upload(head, body)

    # -- the coordinator -------------------------------------------------------------------------------------------

    def round(self) -> CoordinatorRound:
        """A fresh round."""
        return CoordinatorRound(self.roster, self.coordinator, self.opening, self.codec.layout)

    def answers(self, uploads: dict[int, Upload]) -> list[tuple[int, bytes]]:
        """What an opening quorum of the survivors answers: each from its memory right after the upload, so that one
        set of uploads can be opened for several survivor sets here, as it never can be in a federation.
        """
        asking = self.round()
        for who, sent in uploads.items():
            asking.upload(who, sent.head, sent.body)
        asking.fix()
        quorum = sorted(uploads)[: self.roster.parameters.opening_quorum]
        machines = {who: DepartmentMachine(self.roster, self.identities[who], self._masked[who]) for who in quorum}
        return [(who, machines[who].answer(asking.open_for(who))[0]) for who in quorum]

    def coordinate(
        self, uploads: Iterable[tuple[int, Upload]], answers: Sequence[tuple[int, bytes]], threads: int = 1
    ) -> Opened:
        """A whole round at the coordinator: check and add uploads, check and join shares, unmask, decode."""
        at_work = self.round()
        for who, sent in uploads:
            at_work.upload(who, sent.head, sent.body)
        survivors = at_work.fix()
        for who, head in answers:
            at_work.shares(who, head)
        return self.codec.decode(*at_work.finish(threads=threads), len(survivors), self.opening.bounds)


class Kernels:
    """The vector work of a larger federation: k neighbours and one own mask a department, without its messages."""

    def __init__(self, n: int, k: int, values: Tensors, lanes: Lanes) -> None:
        self.n, self.k = n, k
        self.values: dict[str, NDArray[np.floating]] = {**values, "weight": np.asarray(0.5)}
        self.codec = SumCodec(_charter(values, "auto").manifest, n, lanes)
        self._bounds = self.codec.initial_bounds()

    @property
    def layout(self) -> Layout:
        """Of an upload."""
        return self.codec.layout

    def masks(self) -> tuple[NDArray[np.generic], NDArray[np.uint64]]:
        """One department's: its own and k pairwise streams, which can be made ahead."""
        words = self.layout.empty()
        streams: list[Signed] = [(1 if at % 2 else -1, os.urandom(32)) for at in range(self.k)]
        fill_streams(*words, [(1, os.urandom(32)), *streams])
        return words

    def upload(self, masks: tuple[NDArray[np.generic], NDArray[np.uint64]] | None = None) -> memoryview:
        """Encode, mask and hash."""
        words = self.codec.encode(self.values, self._bounds, os.urandom(32))
        for word, mask in zip(words, masks or self.masks(), strict=True):
            np.add(word, mask, out=word)
        body = join_body(*words)
        sha256(body)
        return body

    def coordinate(self, body: memoryview, dropped: int) -> None:
        """Hash and add the survivors' uploads, take off their own masks and those of edges to the lost, decode.

        All uploads are the same bytes here and no mask was ever added, so the sum is noise until it is zeroed; every
        pass over memory is made as in a round.
        """
        survivors = self.n - dropped
        bulk, exact = np.zeros(self.layout.bulk, dtype=self.layout.word), np.zeros(self.layout.exact, dtype="<u8")
        for _ in range(survivors):
            sha256(body)
            for total, words in zip((bulk, exact), self.layout.split(body), strict=True):
                np.add(total, words, out=total)
        edges = round(dropped * self.k * survivors / (self.n - 1))  # from a lost department to a survivor
        streams: list[Signed] = [(-1, os.urandom(32)) for _ in range(survivors + edges)]
        add_streams(bulk, exact, streams)
        bulk[:], exact[:] = 0, 0
        self.codec.decode(bulk, exact, survivors, self._bounds)


