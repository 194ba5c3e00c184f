"""What a department must remember between messages and over a crash.

The driver makes a memory durable (fsync) *before* the message that came with it is sent.  It holds the key chains, so
it is as secret as a private key, and an older copy must not be kept: forward secrecy ends where old memories lie about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from commonroot.common import canonical
from commonroot.common.errors import ForeignState, Malformed
from commonroot.common.messages import RoundOpen, Train
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.chains import Chains
from commonroot.common.secure_sum.committee import Committee
from commonroot.common.secure_sum.primitives import KEY_BYTES, Random
from commonroot.common.secure_sum.states import DEPARTMENT, KeyEvent, KeyState

#: Commitments kept for identical repeats and for comparing with announced results.
COMMITMENTS_KEPT = 8
#: Bytes of answers kept: one has up to 2 MB where there are 1,000 departments, and the newest is always kept.
ANSWERS_KEPT = 1 << 20
#: Openings kept, so that one backbone is opened for one survivor set.  Versions of a charter never go back, so only a
#: broadcast that returns under another version or charter is looked for further back than the last.
OPENINGS_KEPT = 64


@dataclass(frozen=True, slots=True)
class Upload:
    """The round this department last masked for.  What it sent then the driver keeps, head and body.

    round, transcript, cohort   of the RoundOpen
    floor                       fewest survivors accepted: the larger of the roster's and the charter's
    charter, version            digest of the charter, and the backbone version that was trained on
    asked                       ``asked_of``: what a retry of this version must repeat
    broadcast                   SHA-256 of the broadcast
    body                        digest (``pieces``) of the masked vector
    """

    round: int
    transcript: bytes
    cohort: tuple[int, ...]
    floor: int
    charter: bytes
    version: int
    asked: bytes
    broadcast: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Commitment:
    """The one survivor set of a round: the round, H(T, U), and the answer given for it, for an identical repeat.

    The answer is empty where the set was confirmed and not opened yet, once it was let go of, and from an earlier
    epoch.
    """

    round: int
    opened: bytes
    answer: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Opening:
    """The one survivor set of a backbone: the charter's digest, the version, the broadcast's hash, and the set.

    The set of an earlier epoch is in this epoch's numbers.  An empty one closes the backbone for good: see ``follow``.
    """

    charter: bytes
    version: int
    broadcast: bytes
    survivors: tuple[int, ...]

    def same_backbone(self, other: Upload | RoundOpen | Train) -> bool:
        """Whether this backbone is meant or was trained on, by its number or by its contents."""
        return (self.charter, self.version) == (other.charter, other.version) or self.broadcast == other.broadcast


def quorums_meet(one: Roster, other: Roster) -> bool:
    """Does every opening quorum of the one epoch share an honest department with every one of the other?

    Of those S that are on both committees (everybody, in a complete graph), a quorum tau of m members holds at least
    tau - (m - |S|).  Two such parts overlap in more than t_c departments if together they are more than |S| + t_c.
    Committees of larger rosters are drawn anew in each epoch, so theirs hardly ever do.
    """
    members = [{r.departments[at].identity for at in Committee.of(r).members} for r in (one, other)]
    both = len(members[0] & members[1])
    parts = [r.parameters.opening_quorum - (len(m) - both) for r, m in zip((one, other), members, strict=True)]
    return min(parts) > 0 and sum(parts) > both + max(one.parameters.colluders, other.parameters.colluders)


@dataclass(frozen=True, slots=True)
class DepartmentMemory:
    """The protocol state of one department in one epoch.

    roster       digest of the roster it belongs to
    me           this department's number in it
    chains       key chains at the last round masked for, or one later once that round was answered or for who never
                 opens
    upload       the last upload; None before the first
    commitments  the survivor set of each of the latest rounds, confirmed or answered, oldest first
    openings     the backbones that they are of, oldest first, without repetitions
    newest       by the charter's digest, the newest version masked for and what was asked of it (``asked_of``)
    """

    roster: bytes
    epoch: int
    me: int
    chains: Chains = field(repr=False)
    upload: Upload | None = None
    commitments: tuple[Commitment, ...] = ()
    openings: tuple[Opening, ...] = ()
    newest: tuple[tuple[bytes, int, bytes], ...] = ()

    @classmethod
    def begin(cls, roster: Roster, me: int, random: Random) -> DepartmentMemory:
        """The first memory of an epoch, before anybody was met (``epoch.EpochSetup``)."""
        return cls(roster.digest, roster.epoch, me, Chains.begin(len(roster.departments), me, random(KEY_BYTES)))

    def follow(self, before: DepartmentMemory, *, left: Roster | None, roster: Roster) -> DepartmentMemory:
        """This epoch's first memory with what an earlier one's must not let go of: keys are left behind, rules are not.

        Parameters  before: the last memory of the earlier epoch; left: the roster it belongs to, None where that is
                    lost (no backbone opened under it is opened again); roster: this epoch's
        Raises      ForeignState where memories and rosters do not belong together
        A backbone is opened for one survivor set ever and versions never go back, whatever epochs lie between; results
        announced later are compared with what was opened.  Survivors are told by their identities.

        Closed for good, to be contributed to no more, are backbones opened for a set that cannot be had again because
        somebody in it left; and where an opening quorum of the one epoch need not share an honest department with one
        of the other (``quorums_meet``), every backbone last masked for: others may have opened it unseen.
        """
        if roster.digest != self.roster or (left is not None and left.digest != before.roster):
            raise ForeignState("a memory and a roster are of different epochs")
        now = {member.identity: at for at, member in enumerate(roster.departments)}

        def renumbered(survivors: tuple[int, ...]) -> tuple[int, ...]:
            identities = [left.departments[at].identity for at in survivors] if left is not None else [""]
            return tuple(sorted(now[one] for one in identities)) if set(identities) <= set(now) else ()

        openings = tuple(replace(o, survivors=renumbered(o.survivors)) for o in before.openings)
        if left is None or not quorums_meet(left, roster):
            last = before.upload
            openings += tuple(
                Opening(charter, version, last.broadcast if last and last.charter == charter else bytes(32), ())
                for charter, version, _ in before.newest
            )
        return replace(
            self,
            commitments=tuple(replace(c, answer=b"") for c in before.commitments),
            openings=openings[-OPENINGS_KEPT:],
            newest=before.newest,
        )

    def passed_over(self, request: RoundOpen | Train) -> DepartmentMemory:
        """With a backbone, and all of its charter before it, closed for good: it may have been opened, and forgotten.

        Parameters  request: whose signature was checked
        """
        closed = Opening(request.charter, request.version, request.broadcast, ())
        newest, _ = self.newest_version(request.charter)
        others = tuple(known for known in self.newest if known[0] != request.charter)
        return replace(
            self,
            openings=(*self.openings, closed)[-OPENINGS_KEPT:],
            newest=tuple(sorted((*others, (request.charter, max(newest, request.version), bytes(32))))),
        )

    @property
    def round(self) -> int:
        """The last round masked for; 0 before the first."""
        return self.upload.round if self.upload else 0

    @property
    def state(self) -> KeyState:
        """Where this memory stands in ``states.DEPARTMENT``."""
        if self.upload is None:
            return KeyState.UNUSED
        if self.chains.at != self.upload.round:
            return KeyState.ERASED
        return KeyState.MASKED if self.committed(self.upload.round) is None else KeyState.CONFIRMED

    def committed(self, round_number: int) -> Commitment | None:
        """What was confirmed or answered in a round, if it is still kept."""
        return next((one for one in self.commitments if one.round == round_number), None)

    def with_upload(self, upload: Upload, chains: Chains) -> DepartmentMemory:
        """After masking."""
        others = tuple(known for known in self.newest if known[0] != upload.charter)
        newest = (*others, (upload.charter, upload.version, upload.asked))
        # Numbers grow within an epoch: a commitment of this very number is of an earlier one, whose keys are gone.
        others_rounds = tuple(one for one in self.commitments if one.round != upload.round)
        after = replace(self, upload=upload, chains=chains, commitments=others_rounds, newest=tuple(sorted(newest)))
        DEPARTMENT.require(self.state, after.state, KeyEvent.MASK, KeyEvent.MASK_OUTSIDE)
        return after

    def newest_version(self, charter: bytes) -> tuple[int, bytes | None]:
        """The newest version of a charter's backbone that was masked for, and what was asked of it."""
        return next(((version, asked) for known, version, asked in self.newest if known == charter), (0, None))

    def with_confirmation(self, commitment: Commitment, upload: Upload, survivors: tuple[int, ...]) -> DepartmentMemory:
        """After confirming: from now on this round, and this backbone, has this survivor set and no other."""
        after = replace(self, **self._committing(commitment, upload, survivors))
        DEPARTMENT.require(self.state, after.state, KeyEvent.CONFIRM)
        return after

    def with_answer(self, commitment: Commitment, upload: Upload, survivors: tuple[int, ...]) -> DepartmentMemory:
        """After answering: the round's chains are gone, identical repeats are served from ``commitments``."""
        after = replace(
            self,
            chains=self.chains.forward(commitment.round + 1),
            **self._committing(commitment, upload, survivors),
        )
        DEPARTMENT.require(self.state, after.state, KeyEvent.ANSWER)
        return after

    def _committing(self, commitment: Commitment, upload: Upload, survivors: tuple[int, ...]) -> dict[str, Any]:
        """What changes with a round's commitment; the first one, without its answer, gives way to the second."""
        before = tuple(one for one in self.commitments if one.round != commitment.round)
        opening = Opening(upload.charter, upload.version, upload.broadcast, survivors)
        openings = self.openings if opening in self.openings else (*self.openings, opening)[-OPENINGS_KEPT:]
        return {"commitments": _lightened((*before, commitment)[-COMMITMENTS_KEPT:]), "openings": openings}

    # -- bytes -----------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Canonical JSON with hexadecimal keys.  Secret."""
        up = self.upload
        return canonical.dumps(
            {
                "layout": 2,
                "roster": self.roster.hex(),
                "epoch": self.epoch,
                "me": self.me,
                "chains": {
                    "at": self.chains.at,
                    "blocks": [key.hex() for key in self.chains.blocks],
                    "rounds": [key.hex() for key in self.chains.rounds],
                },
                "upload": up
                and {
                    "round": up.round,
                    "transcript": up.transcript.hex(),
                    "cohort": list(up.cohort),
                    "floor": up.floor,
                    "charter": up.charter.hex(),
                    "version": up.version,
                    "asked": up.asked.hex(),
                    "broadcast": up.broadcast.hex(),
                    "body": up.body.hex(),
                },
                "commitments": [[c.round, c.opened.hex(), c.answer.hex()] for c in self.commitments],
                "openings": [[o.charter.hex(), o.version, o.broadcast.hex(), list(o.survivors)] for o in self.openings],
                "newest": [[charter.hex(), version, asked.hex()] for charter, version, asked in self.newest],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> DepartmentMemory:
        """The inverse of ``to_bytes``; ForeignState for anything else."""
        try:
            value: Mapping[str, Any] = canonical.loads(data, what="the department's memory")
            if value["layout"] != 2:
                raise ForeignState(f"the department's memory has layout {value['layout']}, expected 2")
            chains, up = value["chains"], value["upload"]
            return cls(
                bytes.fromhex(value["roster"]),
                value["epoch"],
                value["me"],
                Chains(
                    chains["at"],
                    tuple(map(bytes.fromhex, chains["blocks"])),
                    tuple(map(bytes.fromhex, chains["rounds"])),
                ),
                up
                and Upload(
                    up["round"],
                    bytes.fromhex(up["transcript"]),
                    tuple(up["cohort"]),
                    up["floor"],
                    bytes.fromhex(up["charter"]),
                    up["version"],
                    bytes.fromhex(up["asked"]),
                    bytes.fromhex(up["broadcast"]),
                    bytes.fromhex(up["body"]),
                ),
                tuple(Commitment(r, bytes.fromhex(o), bytes.fromhex(a)) for r, o, a in value["commitments"]),
                tuple(Opening(bytes.fromhex(c), v, bytes.fromhex(b), tuple(u)) for c, v, b, u in value["openings"]),
                tuple((bytes.fromhex(c), v, bytes.fromhex(asked)) for c, v, asked in value["newest"]),
            )
        except (Malformed, KeyError, TypeError, ValueError) as error:
            raise ForeignState("the department's memory is damaged or of another program") from error


def _lightened(commitments: tuple[Commitment, ...]) -> tuple[Commitment, ...]:
    """The same, without the older answers once there are more than ``ANSWERS_KEPT`` bytes of them."""
    kept: list[Commitment] = []
    size = 0
    for one in reversed(commitments):
        size += len(one.answer)
        kept.append(one if not kept or size <= ANSWERS_KEPT else replace(one, answer=b""))
    return tuple(reversed(kept))
