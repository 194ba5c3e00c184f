"""A federation of protocol machines without links, data or disks, to be timed piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commonroot.common.backbone import MlpSpec
from commonroot.common.charter import Charter, Method, TermSpec
from commonroot.common.messages import Confirmed, Previous, RoundOpen
from commonroot.common.roster import Member, Parameters, Roster
from commonroot.common.secure_sum.agreement import AgreementKey
from commonroot.common.secure_sum.codec import Opened, SumCodec
from commonroot.common.secure_sum.coordinator import CoordinatorRound, Sums
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.epoch import EpochSetup, introduction
from commonroot.common.secure_sum.lanes import LaneChoice, Lanes, Layout, Words, Words64
from commonroot.common.secure_sum.masks import Signed, add_streams, fill_streams, join_body
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.pieces import digests
from commonroot.common.secure_sum.precompute import Prepared
from commonroot.common.secure_sum.primitives import KEY_BYTES, Identity, derive, seal, sha256, tagged_hash
from commonroot.common.secure_sum.shares import interpolate, split

Tensors = dict[str, NDArray[np.float32]]
#: A tensor's elements lie within this many times their root mean square; what the protocol publishes from the last sum.
_SPREAD = 10.0
_RMS = 0.01
#: Stands for a transcript.
_LABEL = bytes(32)
#: Secrets whose shares are joined at a time.
_JOINED = 512


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
    """What one department sent, and the digests of its body's pieces, against which the hub checks what comes in."""

    head: bytes
    body: memoryview
    pieces: tuple[bytes, ...]


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
        return machine, self.prepared(machine)

    def prepared(self, machine: DepartmentMachine, threads: int = 1) -> Prepared:
        """What a department that has reviewed the round can make ahead."""
        return machine.prepare(self.opening, os.urandom, threads=threads)

    def encoded(self, key: bytes) -> tuple[Words, Words64]:
        """A department's words."""
        return self.codec.encode(self.values, self.opening.bounds, key)

    def upload(self, machine: DepartmentMachine, prepared: Prepared | None = None, key: bytes = b"") -> Upload:
        """Encode and mask: what lies between trained tensors and the link."""
        bulk, exact = self.encoded(key or os.urandom(32))
        head, body, self._masked[machine.me] = machine.mask(self.opening, bulk, exact, prepared or os.urandom)
        return Upload(head, body, machine.pieces)

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
            asking.upload(who, sent.head, sent.body, sent.pieces)
        asking.fix()
        quorum = sorted(uploads)[: self.roster.parameters.opening_quorum]
        machines = {who: DepartmentMachine(self.roster, self.identities[who], self._masked[who]) for who in quorum}
        self._confirm(asking)
        return [(who, machines[who].answer(asking.open_for(who))[0]) for who in quorum]

    def _confirm(self, at_work: CoordinatorRound) -> None:
        """A quorum's confirmations, where the survivor set is not the whole cohort."""
        for who in at_work.members[: 0 if at_work.confirmed else self.roster.parameters.opening_quorum]:
            fields = {"opened": at_work.opened_digest, "member": who}
            at_work.confirmation(who, Confirmed.signed(self.identities[who], **fields).encode())

    def unmask(
        self, uploads: Iterable[tuple[int, Upload]], answers: Sequence[tuple[int, bytes]], threads: int = 1
    ) -> tuple[Sums, int]:
        """Check and add uploads, check and join shares, unmask; with the number of survivors."""
        at_work = self.round()
        for who, sent in uploads:
            at_work.upload(who, sent.head, sent.body, sent.pieces)
            del sent  # before the next one arrives
        survivors = at_work.fix()
        self._confirm(at_work)
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
    """The work on vectors and shares of a larger federation, without its messages and signatures.

    Parameters  n: departments, each with k neighbours; committee: members who get shares of a department's secrets
    """

    def __init__(self, n: int, k: int, values: Tensors, lanes: Lanes, committee: int = 10) -> None:
        self.n, self.k, self.committee = n, k, committee
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

    def masks(self, threads: int = 1) -> tuple[bytes, tuple[Words, Words64]]:
        """One department's, its own and k pairwise streams, and what the committee gets: all that can be made ahead."""
        head, streams = self._deal()
        words = self.layout.empty()
        fill_streams(*words, streams, threads=threads)
        return head, words

    def _deal(self) -> tuple[bytes, list[Signed]]:
        """Secrets, their shares in sealed boxes, and commitments; more than half of the committee can join them."""
        chains = [os.urandom(KEY_BYTES) for _ in range(max(self.k, self.committee))]
        secrets = [os.urandom(KEY_BYTES), *(derive(chain, "mask", _LABEL) for chain in chains[: self.k])]
        table = np.frombuffer(b"".join(secrets), dtype=np.uint8).reshape(len(secrets), KEY_BYTES)
        points = range(1, self.committee + 1)
        shares = split(table, points, self.committee // 2 + 1, os.urandom)
        boxes = [
            seal(derive(chain, "box", _LABEL), each.tobytes(), _LABEL)
            for chain, each in zip(chains, shares, strict=False)
        ]
        commitments = [tagged_hash("p", _LABEL, secret) for secret in secrets]
        return b"".join((*boxes, *commitments)), [(-1 if at % 2 else 1, secret) for at, secret in enumerate(secrets)]

    def upload(self, ahead: tuple[bytes, tuple[Words, Words64]] | None = None) -> Upload:
        """Encode, mask and hash."""
        words = self.encode()
        if ahead is None:
            head, streams = self._deal()
            add_streams(*words, streams)
        else:
            head, masks = ahead
            for word, mask in zip(words, masks, strict=True):
                np.add(word, mask, out=word)
        body = join_body(*words)
        return Upload(head, body, digests(body))

    def streams_after(self, dropped: int) -> int:
        """Streams that are left on the sum: the survivors' own, and those of edges from a lost one to a survivor."""
        survivors = self.n - dropped
        return survivors + round(dropped * self.k * survivors / (self.n - 1))

    def unmask(self, bodies: Iterable[memoryview], dropped: int, threads: int = 1) -> Sums:
        """Add the survivors' uploads, join the shares of the secrets that are wanted, take their streams off."""
        bulk, exact = np.zeros(self.layout.bulk, dtype=self.layout.word), np.zeros(self.layout.exact, dtype="<u8")
        for body in bodies:
            for total, words in zip((bulk, exact), self.layout.split(body), strict=True):
                np.add(total, words, out=total)
            del body, words  # before the next one arrives
        quorum = self.committee // 2 + 1
        streams: list[Signed] = []
        for count in _parts(self.streams_after(dropped), _JOINED):
            shares = np.frombuffer(os.urandom(quorum * count * KEY_BYTES), np.uint8).reshape(quorum, count, KEY_BYTES)
            joined = interpolate(range(1, quorum + 1), shares)
            streams += [(-1, secret.tobytes()) for secret in joined]
        add_streams(bulk, exact, streams, threads=threads)
        return bulk, exact

    def coordinate(self, bodies: Sequence[memoryview], dropped: int, threads: int = 1) -> None:
        """A round's passes over memory, decoding included.

        The uploads are the same few again and again, under masks that nobody takes off, so the sum is noise: it is
        zeroed before it is decoded.
        """
        survivors = self.n - dropped
        bulk, exact = self.unmask((bodies[at % len(bodies)] for at in range(survivors)), dropped, threads)
        bulk[:], exact[:] = 0, 0
        self.codec.decode(bulk, exact, survivors, self._bounds)


def _parts(count: int, most: int) -> Iterator[int]:
    """``count`` in parts of at most ``most``."""
    for begin in range(0, count, most):
        yield min(most, count - begin)
