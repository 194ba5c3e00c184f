"""Any order of anything: uploads, losses, crashes, old memories, repeats, lies about survivors.

A machine of rules plays a federation of three to six departments through rounds, backbones and epochs; Hypothesis looks
for an order of events that breaks one of two laws:

    whatever opens is the ring sum of the encoded vectors of its survivors, computed here with Python's integers
    one backbone is opened for at most one survivor set
    shares for different sets, put together, free no other sum

Everything that ever leaves a department stays in the network's hands and may arrive again at any time.  The coordinator
lies as it likes: it asks any member for any subset, goes on under old rosters, and forgets what it fixed.  At most t_c
departments are ever put back to an older memory.

``make fuzz`` looks ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import currently_in_test_context, event
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from proofs.pooling import Secret, freed, secrets_of
from sum_federation import Federation

from commonroot.common.errors import CommonrootError, NotEnoughShares, PeerError, RoundLost
from commonroot.common.messages import Confirm, Confirmed, Masked, Open, RoundOpen, Shares, opened_digest
from commonroot.common.secure_sum.coordinator import CoordinatorRound
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import sha256

Lanes = tuple[list[int], list[int]]
Subset = tuple[int, ...]


def broadcast(version: int) -> bytes:
    return bytes([version + 1]) * 24


class Round:
    """What there is of one round: its opening, and everything that departments ever sent for it."""

    def __init__(self, federation: Federation, opening: RoundOpen) -> None:
        #: Of the epoch that the round is in.
        self.federation = federation
        self.opening = opening
        #: Every upload of each department: more than one only from a rolled-back memory.
        self.uploads: dict[int, list[tuple[bytes, bytes]]] = {}
        #: Every answer by (member, hash of transcript and survivors).
        self.answers: dict[tuple[int, bytes], bytes] = {}
        #: Survivor sets that were asked for.
        self.asked: set[Subset] = set()
        #: Signatures under each of them, by member.
        self.confirmed: dict[Subset, dict[int, bytes]] = {}


class Sums(RuleBasedStateMachine):
    """The federation, its network and its coordinator."""

    @initialize(n=st.integers(3, 6), seed=st.integers(0, 1000))
    def found(self, n: int, seed: int) -> None:
        #: By epoch.  Each department is in one of them, and is the machine of that epoch.
        self.federations = [Federation(n, seed=seed)]
        self.epoch_of = [0] * n
        #: By epoch: memories that hold its chains and nothing else yet.
        self.fresh = [[machine.memory for machine in self.federations[0].machines]]
        self.n = n
        self.parameters = self.federations[0].roster.parameters
        #: Everything that each department ever stored: the epoch and its memory in it.
        self.memories = [[(0, machine.memory.to_bytes())] for machine in self.federations[0].machines]
        self.rounds: list[Round] = []
        #: The honest coordinator's machines, one a round, and their snapshots once the set is fixed.
        self.at_work: list[CoordinatorRound] = []
        self.snapshots: dict[int, bytes] = {}
        self.rolled_back: set[int] = set()
        #: Survivor sets opened, by version.
        self.opened: dict[int, set[Subset]] = {}
        self._open(self.federations[0], tuple(range(n)), newer=False, late=set())

    # -- departments and what they store -----------------------------------------------------------------------------

    def machine(self, department: int) -> DepartmentMachine:
        return self.federations[self.epoch_of[department]].machines[department]

    def _store(self, department: int, memory: DepartmentMemory) -> None:
        self.memories[department].append((self.epoch_of[department], memory.to_bytes()))

    def _restart(self, department: int, stored: tuple[int, bytes]) -> None:
        self.epoch_of[department], memory = stored
        self.federations[self.epoch_of[department]].restart(department, memory)

    @precondition(lambda self: len(self.federations) < 3)
    @rule(data=st.data(), newer=st.booleans(), late=st.sets(st.integers(0, 5), max_size=2))
    def another_epoch(self, data: st.DataObject, newer: bool, late: set[int]) -> None:
        """All renew their keys; most join at once, others perhaps later, and the coordinator goes on."""
        order = data.draw(st.permutations(range(self.n)))
        self._another_epoch(order[data.draw(st.sampled_from([0, 0, 1, 2])) :], newer=newer, late=late)

    def _another_epoch(self, joining: Iterable[int], *, newer: bool, late: set[int]) -> None:
        self.federations.append(self.federations[-1].next_epoch())
        self.fresh.append([machine.memory for machine in self.federations[-1].machines])
        for at in joining:
            self._join(at)
        self._open(self.federations[-1], tuple(range(self.n)), newer=newer, late=late)

    @rule(department=st.integers(0, 5))
    def join(self, department: int) -> None:
        if department < self.n:
            self._join(department)

    def _join(self, department: int) -> None:
        """Into the next epoch, with the memory of the last: its rules stay, its keys go."""
        left = self.federations[self.epoch_of[department]]
        if left is self.federations[-1]:
            return
        before = self.machine(department).memory
        self.epoch_of[department] += 1
        joined = self.federations[self.epoch_of[department]]
        fresh = self.fresh[self.epoch_of[department]][department]
        self._store(department, fresh.follow(before, left=left.roster, roster=joined.roster))
        self._restart(department, self.memories[department][-1])

    # -- the coordinator opens rounds --------------------------------------------------------------------------------

    @rule(data=st.data(), newer=st.sampled_from([False, False, True]), late=st.sets(st.integers(0, 5), max_size=2))
    def open_round(self, data: st.DataObject, newer: bool, late: set[int]) -> None:
        """On the same backbone as the last round, or on the next; most of the cohort uploads."""
        least = max(self.parameters.opening_quorum, self.parameters.survivors_min)
        size = data.draw(st.sampled_from([self.n, self.n, *range(least, self.n + 1)]))
        newest = self.federations[-1]
        federation = data.draw(st.sampled_from([newest, newest, newest, *self.federations]))
        self._open(federation, tuple(sorted(data.draw(st.permutations(range(self.n)))[:size])), newer=newer, late=late)

    def _open(self, federation: Federation, cohort: Subset, *, newer: bool, late: set[int]) -> None:
        versions = [r.opening.version for r in self.rounds] or [0]
        version = min(max(versions) + newer, federation.charter.rounds - 1)
        number = len(self.rounds) + 1
        opening = federation.opening(number, cohort, version=version, broadcast=sha256(broadcast(version)))
        self.rounds.append(Round(federation, opening))
        self.at_work.append(federation.round(opening))
        for who in cohort:
            if who not in late:
                self._upload(number - 1, who, "no")

    def pick(self, data: st.DataObject) -> int:
        """A round: mostly the newest."""
        last = len(self.rounds) - 1
        return data.draw(st.sampled_from([last, last, last, *range(last + 1)]))

    # -- departments upload ------------------------------------------------------------------------------------------

    @rule(data=st.data(), department=st.integers(0, 5), crash=st.sampled_from(["no", "no", "before", "after"]))
    def upload(self, data: st.DataObject, department: int, crash: str) -> None:
        """Review and mask; the process may die before its memory is on disk, or after that and before it sends."""
        if department < self.n:
            self._upload(self.pick(data), department, crash)

    def _upload(self, at: int, department: int, crash: str) -> None:
        made = self.rounds[at]
        opening = made.opening
        if department not in opening.cohort:
            return
        machine = self.machine(department)
        body = broadcast(opening.version)
        try:
            reviewed = machine.review(opening.encode(), body, charter=made.federation.charter)
        except PeerError:
            return  # an old round, one of an old backbone, or of another epoch
        if (before := machine.repeat(reviewed)) is not None:
            # a repeat after a crash: what was stored is sent again
            assert before.body in [Masked.decode(head).body for head, _ in made.uploads[department]]
            return
        head, masked, memory = machine.mask(
            reviewed, *made.federation.lanes(department, opening, opening.version), made.federation.random
        )
        if crash == "before":
            self._restart(department, self.memories[department][-1])
            return  # nothing was stored and nothing was sent
        self._store(department, memory)
        made.uploads.setdefault(department, []).append((head, bytes(masked)))
        if crash == "after":
            self._restart(department, self.memories[department][-1])

    # -- the network delivers, in any order and more than once -------------------------------------------------------

    @rule(data=st.data(), times=st.integers(1, 3))
    def deliver_uploads(self, data: st.DataObject, times: int) -> None:
        at = self.pick(data)
        sent = [(who, one) for who, many in sorted(self.rounds[at].uploads.items()) for one in many]
        for each in data.draw(st.permutations(range(len(sent)))) * times:
            self._deliver(at, *sent[each])
        if data.draw(st.booleans()):
            self._fix(at)

    def _deliver(self, at: int, who: int, sent: tuple[bytes, bytes]) -> None:
        try:
            self.at_work[at].upload(who, *sent)
        except PeerError:
            assert who in self.rolled_back, "an honest upload was refused"

    @rule(data=st.data())
    def fix(self, data: st.DataObject) -> None:
        """All that arrived so far survives, if it is enough."""
        self._fix(self.pick(data))

    def _fix(self, at: int) -> bool:
        try:
            self.at_work[at].fix()
        except RoundLost:
            return False
        if at not in self.snapshots:
            self.snapshots[at] = self.at_work[at].snapshot()
        return True

    @rule(forgets=st.sampled_from([False, False, True]))
    def coordinator_crashes(self, forgets: bool) -> None:
        """It goes on from what it wrote, or from an older copy; what was not fixed begins with no uploads at all."""
        if forgets:
            self.snapshots = dict(list(self.snapshots.items())[:-1])
        for at, made in enumerate(self.rounds):
            if at in self.snapshots:
                self._restore(at)
            else:
                self.at_work[at] = made.federation.round(made.opening)

    def _restore(self, at: int) -> None:
        federation = self.rounds[at].federation
        self.at_work[at] = CoordinatorRound.restore(federation.roster, federation.coordinator, self.snapshots[at])

    # -- openings ----------------------------------------------------------------------------------------------------

    @rule(data=st.data(), crash=st.sampled_from(["no", "no", "before", "after"]))
    def ask(self, data: st.DataObject, crash: str) -> None:
        """The honest opening of a fixed set, to some of the cohort; the shares may arrive now or later or never."""
        if not self.snapshots:
            return
        at = data.draw(st.sampled_from(sorted(self.snapshots)))
        members = data.draw(st.permutations(self.rounds[at].opening.cohort))
        if not self._confirmed(at):
            return
        for member in members[data.draw(st.sampled_from([0, 0, 0, 1, 2, len(members) - 1])) :]:
            self._answer(at, member, self.at_work[at].open_for(member), crash)

    @rule(data=st.data(), everyone=st.booleans())
    def lie(self, data: st.DataObject, everyone: bool) -> None:
        """Any subset of those who uploaded, to one member or to all, with the right boxes."""
        at = self.pick(data)
        made = self.rounds[at]
        uploaded = sorted(made.uploads)
        left_out = data.draw(st.sampled_from([0, 1, 1, 2, 3]))
        chosen = tuple(sorted(data.draw(st.permutations(uploaded))[left_out:]))
        if not chosen:
            return
        cohort = made.opening.cohort
        asking = cohort if everyone else [data.draw(st.sampled_from(cohort))]
        if data.draw(st.booleans()):
            for member in data.draw(st.permutations(asking)):
                self._confirm(at, member, chosen, "no")
        for member in asking:
            self._answer(at, member, self._forged(made, chosen, member), "no")

    @rule(data=st.data(), each=st.integers(1, 2), everybody=st.booleans())
    def lie_to_each(self, data: st.DataObject, each: int, everybody: bool) -> None:
        """Every member another set around one department, in turn, each set with all confirmations there are."""
        at = self.pick(data)
        made = self.rounds[at]
        uploaded = sorted(made.uploads)
        if len(uploaded) < 4:
            return
        victim = data.draw(st.sampled_from(uploaded))
        self._lie_to_each(at, victim, 1 + each, everybody=everybody)

    def _lie_to_each(self, at: int, victim: int, beside: int, *, everybody: bool) -> None:
        """``everybody`` is asked to confirm every set, or each member its own."""
        made = self.rounds[at]
        cohort = made.opening.cohort
        others = [who for who in sorted(made.uploads) if who != victim]
        sets = {
            member: tuple(sorted({victim, *(others[(2 * member + step) % len(others)] for step in range(beside))}))
            for member in cohort
        }
        for member, chosen in sets.items():
            for confirming in cohort if everybody else (member,):
                self._confirm(at, confirming, chosen, "no")
        for member, chosen in sets.items():
            self._answer(at, member, self._forged(made, chosen, member), "no")

    @rule(data=st.data(), crash=st.sampled_from(["no", "before", "after"]))
    def confirm(self, data: st.DataObject, crash: str) -> None:
        """The honest request to confirm a fixed set, to one of the cohort."""
        if not self.snapshots:
            return
        at = data.draw(st.sampled_from(sorted(self.snapshots)))
        member = data.draw(st.sampled_from(self.rounds[at].opening.cohort))
        self._confirm(at, member, self.at_work[at].survivors, crash)

    def _confirmed(self, at: int) -> bool:
        """The honest coordinator has its set confirmed, as far as that goes."""
        machine, made = self.at_work[at], self.rounds[at]
        for member in made.opening.cohort:
            if not machine.confirmed:
                self._confirm(at, member, machine.survivors, "no")
                self._hear(at)
        return machine.confirmed

    def _hear(self, at: int) -> None:
        """The honest coordinator takes every confirmation of its set that was ever given."""
        machine = self.at_work[at]
        for member, signature in sorted(self.rounds[at].confirmed.get(machine.survivors, {}).items()):
            machine.confirmation(member, Confirmed(machine.opened_digest, member, signature).encode())

    def _confirm(self, at: int, member: int, survivors: Subset, crash: str) -> None:
        made = self.rounds[at]
        fields = {"transcript": made.opening.transcript, "round": made.opening.round, "survivors": survivors}
        try:
            reply, memory = self.machine(member).confirm(Confirm.signed(made.federation.coordinator, **fields).encode())
        except PeerError:
            return
        if crash == "before":
            self._restart(member, self.memories[member][-1])
            return
        self._store(member, memory)
        made.confirmed.setdefault(survivors, {})[member] = Confirmed.decode(reply).signature
        if crash == "after":
            self._restart(member, self.memories[member][-1])

    def _forged(self, made: Round, survivors: Subset, member: int) -> bytes:
        """An opening under the coordinator's signature."""
        place = made.opening.cohort.index(member)
        boxes = tuple(Masked.decode(made.uploads[who][-1][0]).boxes[place] for who in survivors)
        fields = {"transcript": made.opening.transcript, "round": made.opening.round}
        signed = sorted(made.confirmed.get(survivors, {}).items())
        fields |= {"confirmed_by": tuple(who for who, _ in signed), "confirmations": tuple(one for _, one in signed)}
        return Open.signed(made.federation.coordinator, **fields, survivors=survivors, boxes=boxes).encode()

    def _answer(self, at: int, member: int, asked: bytes, crash: str) -> None:
        made = self.rounds[at]
        made.asked.add(Open.decode(asked).survivors)
        try:
            reply, memory = self.machine(member).answer(asked)
        except PeerError:
            return
        if crash == "before":
            self._restart(member, self.memories[member][-1])
            return
        self._store(member, memory)
        key = (member, Shares.decode(reply).opened)
        if member not in self.rolled_back:
            assert made.answers.get(key, reply) == reply, "one question, two answers"
        made.answers[key] = reply
        if crash == "after":
            self._restart(member, self.memories[member][-1])

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """The honest coordinator takes what answers there are, in any order, and opens if it can."""
        if not self.snapshots:
            return
        at = data.draw(st.sampled_from(sorted(self.snapshots)))
        machine, made = self.at_work[at], self.rounds[at]
        self._hear(at)
        if not machine.confirmed:
            return
        answers = sorted(made.answers.items())
        for each in data.draw(st.permutations(range(len(answers)))):
            (member, opened), reply = answers[each]
            if opened == machine.opened_digest:
                machine.shares(member, reply)
        try:
            found = machine.finish()
        except NotEnoughShares:
            return
        self._opens(at, machine.survivors, tuple(part.tolist() for part in found))
        self._restore(at)

    @rule(late=st.sets(st.integers(0, 5), max_size=1), silent=st.sets(st.integers(0, 5), max_size=1))
    def play_out(self, late: set[int], silent: set[int]) -> None:
        """The newest round as it goes on a good day, but for a late upload and a silent member."""
        at = len(self.rounds) - 1
        for who, sent in self.rounds[at].uploads.items():
            if who not in late:
                self._deliver(at, who, sent[0])
        if self._fix(at) and self._confirmed(at):
            for member in self.rounds[at].opening.cohort:
                if member not in silent:
                    self._answer(at, member, self.at_work[at].open_for(member), "no")

    # -- departments crash and fall back -----------------------------------------------------------------------------

    @rule(department=st.integers(0, 5))
    def restart(self, department: int) -> None:
        """From its stored memory, as a daemon does."""
        if department < self.n:
            self._restart(department, self.memories[department][-1])

    @rule(data=st.data(), department=st.integers(0, 5))
    def roll_back(self, data: st.DataObject, department: int) -> None:
        """From an old backup; whoever does that counts among the t_c."""
        if department >= self.n or len(self.rolled_back | {department}) > self.parameters.colluders:
            return
        self.rolled_back.add(department)
        old = data.draw(st.sampled_from(self.memories[department]))
        self.memories[department].append(old)
        self._restart(department, old)

    # -- the laws ----------------------------------------------------------------------------------------------------

    @invariant()
    def whatever_could_be_opened_obeys_the_laws(self) -> None:
        """A lying coordinator needs no rules of order: it tries every set that anybody ever answered for."""
        for at, made in enumerate(getattr(self, "rounds", [])):
            for survivors in made.asked:
                answers = self._answers_for(made, survivors)
                if len(answers) >= self.parameters.opening_quorum and set(survivors) <= set(made.uploads):
                    self._try_to_open(at, survivors, answers)
            self._put_together(made)

    def _put_together(self, made: Round) -> None:
        """All shares for all sets of one round, whatever set each was given for."""
        if any(len(many) > 1 for many in made.uploads.values()):
            return  # shares of two uploads of a rolled-back department would be taken for shares of one
        sets = {opened_digest(made.opening.transcript, survivors): survivors for survivors in made.asked}
        given: dict[Secret, set[int]] = {}
        for member, opened in made.answers:
            for secret in secrets_of(sets[opened], made.opening.cohort):
                given.setdefault(secret, set()).add(member)
        free = freed(made.opening.cohort, made.uploads, given, self.parameters.opening_quorum)
        assert len(free) <= 1, "shares for different sets free two sums"
        assert all(tuple(sorted(one)) in made.asked for one in free), "shares for different sets free another sum"
        assert all(len(one) >= self.parameters.survivors_min for one in free), "shares for different sets free too few"

    def _answers_for(self, made: Round, survivors: Subset) -> dict[int, bytes]:
        wanted = opened_digest(made.opening.transcript, survivors)
        return {member: reply for (member, opened), reply in made.answers.items() if opened == wanted}

    def _try_to_open(self, at: int, survivors: Subset, answers: dict[int, bytes]) -> None:
        made = self.rounds[at]
        machine = made.federation.round(made.opening)
        for who in survivors:
            machine.upload(who, *made.uploads[who][-1])
        machine.fix()
        machine._confirmations = dict.fromkeys(range(self.n), b"")  # a liar's own program asks for none
        for member, reply in answers.items():
            machine.shares(member, reply)
        try:
            found = machine.finish()
        except CommonrootError:
            return  # the boxes of one upload of a rolled-back department, the vector of another
        self._opens(at, survivors, tuple(part.tolist() for part in found))

    def _opens(self, at: int, survivors: Subset, found: tuple[list[int], ...]) -> None:
        made = self.rounds[at]
        assert list(found) == self._expected(made, survivors), "what opened is not the survivors' sum"
        assert len(survivors) >= self.parameters.survivors_min
        if currently_in_test_context():
            event(f"opened by {'all' if len(survivors) == self.n else 'some'} of {self.n}")
            event(f"epoch {made.opening.epoch}")
            event(f"retried: {made.opening.version in [r.opening.version for r in self.rounds[:at]]}")
        sets = self.opened.setdefault(made.opening.version, set())
        sets.add(survivors)
        assert len(sets) == 1, f"version {made.opening.version} was opened for {sorted(sets)}"

    def _expected(self, made: Round, survivors: Iterable[int]) -> list[list[int]]:
        """The slow reference: encoded lanes as Python integers, added and reduced."""
        lanes = [made.federation.lanes(who, made.opening, made.opening.version) for who in survivors]
        out = []
        for kind in range(2):
            modulus = 1 << 8 * lanes[0][kind].dtype.itemsize
            columns = zip(*(map(int, each[kind]) for each in lanes), strict=True)
            out.append([sum(column) % modulus for column in columns])
        return out
