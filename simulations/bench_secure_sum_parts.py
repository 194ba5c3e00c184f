"""A federation of protocol machines without links, data or disks, to be timed piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commonroot.common.backbone import MlpSpec
from commonroot.common.charter import Charter, Method, TermSpec
from commonroot.common.messages import Previous, RoundOpen
from commonroot.common.roster import Member, Parameters, Roster
from commonroot.common.secure_sum.agreement import AgreementKey
from commonroot.common.secure_sum.codec import Opened, SumCodec
from commonroot.common.secure_sum.coordinator import CoordinatorRound, Sums
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.epoch import EpochSetup, introduction
from commonroot.common.secure_sum.lanes import LaneChoice, Lanes, Layout, Words, Words64
from commonroot.common.secure_sum.masks import Signed, add_streams, fill_streams, join_body
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.precompute import Prepared
from commonroot.common.secure_sum.primitives import Identity, sha256

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
        backbone=MlpSpec(inputs=1, widths=(1,)),
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
        self.n, self.tensors = n, values
        self.values: dict[str, NDArray[np.floating]] = {**values, "weight": np.asarray(0.5)}
        self.coordinator = Identity.generate(random)
        self.identities = [Identity.generate(random) for _ in range(n)]
        private = [AgreementKey.generate(random) for _ in range(n)]
        self.roster = Roster(
            federation="bench",
            epoch=1,
            coordinator=self.coordinator.public.hex(),
            parameters=Parameters.for_size(n),
            departments=tuple(
                Member.signed(f"d{at}", identity, key.public, f"node {at}")
                for at, (identity, key) in enumerate(zip(self.identities, private, strict=True))
            ),
            expires=2**40,
        )
        self.charter = _charter(values, lanes)
        self.codec = SumCodec.of_round(self.charter, self.roster, n)
        self._begun = self._acquainted(private)
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

    def _acquainted(self, private: list[AgreementKey]) -> list[DepartmentMemory]:
        """Every department's memory once all have been introduced to all."""
        setups = [
            EpochSetup.begin(self.roster, identity, key) for identity, key in zip(self.identities, private, strict=True)
        ]
        greetings = {at: (setup.greeting, setup.ciphertexts) for at, setup in enumerate(setups)}
        memories = []
        for at, setup in enumerate(setups):
            others = {peer: greeting for peer, greeting in greetings.items() if peer != at}
            told = introduction(self.coordinator, self.roster, at, others)
            begun = DepartmentMemory.begin(self.roster, at, os.urandom)
            memories.append(setup.introduce(self.roster, *told, begun)[1])
        return memories

    # -- a department ----------------------------------------------------------------------------------------------

    def reviewed(self, department: int) -> DepartmentMachine:
        """A department that has just reviewed the round, as often as it is asked for."""
        machine = DepartmentMachine(self.roster, self.identities[department], self._begun[department])
        machine.review(self._head, self.broadcast, charter=self.charter)
        return machine

    def reviewed_and_prepared(self, department: int = 0) -> tuple[DepartmentMachine, Prepared]:
        """The same with masks, shares and boxes made ahead."""
        machine = self.reviewed(department)
        return machine, machine.prepare(self.opening, os.urandom)

    def encoded(self, key: bytes) -> tuple[Words, Words64]:
        """A department's words."""
        return self.codec.encode(self.values, self.opening.bounds, key)

    def upload(self, machine: DepartmentMachine, prepared: Prepared | None = None, key: bytes = b"") -> Upload:
        """Encode and mask: what lies between trained tensors and the link."""
        bulk, exact = self.encoded(key or os.urandom(32))
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

    def unmask(
        self, uploads: Iterable[tuple[int, Upload]], answers: Sequence[tuple[int, bytes]], threads: int = 1
    ) -> tuple[Sums, int]:
        """Check and add uploads, check and join shares, unmask; with the number of survivors."""
        at_work = self.round()
        for who, sent in uploads:
            at_work.upload(who, sent.head, sent.body)
            del sent  # before the next one arrives
        survivors = at_work.fix()
        for who, head in answers:
            at_work.shares(who, head)
        return at_work.finish(threads=threads), len(survivors)

    def coordinate(self, uploads: dict[int, Upload], answers: Sequence[tuple[int, bytes]], threads: int = 1) -> Opened:
        """A whole round at the coordinator, decoding included."""
        sums, survivors = self.unmask(uploads.items(), answers, threads)
        return self.codec.decode(*sums, survivors, self.opening.bounds)

    def wrong_words(self) -> int:
        """Words of an opened ring sum, the first department lost, that are not the sum of the encoded words."""
        keys = {at: os.urandom(32) for at in range(1, self.n)}
        uploads = {at: self.upload(self.reviewed(at), key=key) for at, key in keys.items()}
        (bulk, exact), _ = self.unmask(uploads.items(), self.answers(uploads))
        for key in keys.values():
            for total, words in zip((bulk, exact), self.encoded(key), strict=True):
                np.subtract(total, words, out=total)
        return int(np.count_nonzero(bulk)) + int(np.count_nonzero(exact))


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

    def encode(self) -> tuple[Words, Words64]:
        """One department's words."""
        return self.codec.encode(self.values, self._bounds, os.urandom(32))

    def masks(self) -> tuple[Words, Words64]:
        """One department's: its own and k pairwise streams, which can be made ahead."""
        words = self.layout.empty()
        fill_streams(*words, self._streams())
        return words

    def _streams(self) -> list[Signed]:
        return [(-1 if at % 2 else 1, os.urandom(32)) for at in range(self.k + 1)]

    def upload(self, masks: tuple[Words, Words64] | None = None) -> memoryview:
        """Encode, mask and hash."""
        words = self.encode()
        if masks is None:
            add_streams(*words, self._streams())
        else:
            for word, mask in zip(words, masks, strict=True):
                np.add(word, mask, out=word)
        body = join_body(*words)
        sha256(body)
        return body

    def unmask(self, bodies: Iterable[memoryview], dropped: int) -> Sums:
        """Hash and add the survivors' uploads, take off their own masks and those of edges to the lost."""
        survivors = self.n - dropped
        bulk, exact = np.zeros(self.layout.bulk, dtype=self.layout.word), np.zeros(self.layout.exact, dtype="<u8")
        for body in bodies:
            sha256(body)
            for total, words in zip((bulk, exact), self.layout.split(body), strict=True):
                np.add(total, words, out=total)
            del body, words  # before the next one arrives
        edges = round(dropped * self.k * survivors / (self.n - 1))  # from a lost department to a survivor
        streams: list[Signed] = [(-1, os.urandom(32)) for _ in range(survivors + edges)]
        add_streams(bulk, exact, streams)
        return bulk, exact

    def coordinate(self, body: memoryview, dropped: int) -> None:
        """A round's passes over memory, decoding included.

        All uploads are the same bytes here, under masks that nobody takes off, so the sum is noise: it is zeroed before
        it is decoded.
        """
        bulk, exact = self.unmask([body] * (self.n - dropped), dropped)
        bulk[:], exact[:] = 0, 0
        self.codec.decode(bulk, exact, self.n - dropped, self._bounds)
