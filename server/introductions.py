"""Bringing departments together at the beginning of an epoch, and whoever comes late.

The coordinator asks each department for its greeting once, keeps it in the journal, and passes it on to the others as
it came.  A cohort holds only departments that have met one another; the others are introduced before a later round.
Everything here can be repeated: a greeting is always the same, and who was introduced is asked anew in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from commonroot.common import parcel
from commonroot.common.errors import BadGreeting, PeerError
from commonroot.common.greetings import Greet, Introduced
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.committee import peers_of
from commonroot.common.secure_sum.epoch import acquainted, check_letter, countersigners, introduction
from commonroot.common.secure_sum.primitives import Identity
from commonroot.logs import Tell
from commonroot.server.exchange import Exchange
from commonroot.server.journal import Journal
from commonroot.server.round import OnExhibit, OnFault, expect

#: How long a department that once left such a request unanswered is waited for when it is asked again, in seconds.
_ASK_AGAIN = 2.0


class Introductions:
    """Who has greeted and who has met whom, in one epoch.

    Parameters  on_reply: each reply that arrived, for the account; on_fault: (department, code, what);
                on_exhibit: (department, code, parcel) that it is blamed for
    """

    def __init__(
        self,
        *,
        roster: Roster,
        identity: Identity,
        journal: Journal,
        exchange: Exchange,
        on_reply: Callable[[Parcel], None],
        on_fault: OnFault,
        on_exhibit: OnExhibit,
        on_event: Tell,
    ) -> None:
        self._roster = roster
        self._identity = identity
        self._journal = journal
        self._exchange = exchange
        self._on_reply = on_reply
        self._on_fault = on_fault
        self._on_exhibit = on_exhibit
        self._on_event = on_event
        self._peers = {at: peers_of(roster, at) for at in range(len(roster.departments))}
        self._countersigners = countersigners(roster)
        self._greetings = journal.greetings(roster.digest)
        #: Whom each department has met, and the incarnation that said so.
        self._met: dict[int, tuple[str, frozenset[int]]] = {}
        self._refused: dict[int, str] = {}
        self._silent: dict[int, str] = {}

    def bring_together(self, ready: Mapping[int, str], *, seconds: float, floor: int) -> None:
        """Ask for the greetings that are missing, and introduce those who lack some, once ``floor`` have greeted.

        Parameters  ready: departments that want to take part in a round, with their incarnation
        """
        self._refused = {who: life for who, life in self._refused.items() if ready.get(who) == life}
        self._greet({who: life for who, life in ready.items() if who not in self._greetings}, seconds)
        able = {who: life for who, life in ready.items() if who in self._greetings}
        if len(able) >= floor and len(self._greetings) >= self._countersigners:
            self._introduce(able, seconds)

    def cohort(self, present: Mapping[int, str]) -> tuple[int, ...]:
        """Those of ``present`` who have met one another."""
        met = {who: self._known(who, life) for who, life in present.items()}
        able = [
            who
            for who in present
            if who in self._greetings and who not in self._refused and len(met[who]) >= self._countersigners
        ]
        return acquainted(able, met, self._peers)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _greet(self, ready: Mapping[int, str], seconds: float) -> None:
        request = Greet.signed(self._identity, roster=self._roster.digest, epoch=self._roster.epoch).encode()

        def take(who: int, reply: Parcel) -> None:
            expect(reply, parcel.GREETING)
            check_letter(self._roster, who, reply.head, reply.body, self._peers[who])
            self._greetings[who] = (reply.head, bytes(reply.body))
            self._journal.keep_greeting(self._roster.digest, who, *self._greetings[who])
            self._on_event("greeted", {"department": self._roster.departments[who].name})

        self._ask({who: Parcel(parcel.GREET, request) for who in ready}, ready, seconds, take)

    def _introduce(self, able: Mapping[int, str], seconds: float) -> None:
        requests = {}
        for who, life in able.items():
            known = self._known(who, life) | {who}
            peers = set(self._peers[who])
            if (peers & set(able)) - known or len(known) < self._countersigners:
                letters = self._letters_for(known, peers)
                requests[who] = Parcel(parcel.INTRODUCE, *introduction(self._identity, self._roster, who, letters))

        def take(who: int, reply: Parcel) -> None:
            expect(reply, parcel.INTRODUCED)
            told = Introduced.decode(reply.head)
            member = self._roster.departments[who]
            told.check(bytes.fromhex(member.identity), who=f"department {member.name!r}")
            if (told.roster, told.epoch, told.sender) != (self._roster.digest, self._roster.epoch, who):
                raise BadGreeting(f"department {member.name!r} answered about another epoch or as another department")
            self._met[who] = (able[who], frozenset(told.met))

        self._ask(requests, able, seconds, take)

    def _letters_for(self, known: Collection[int], peers: Collection[int]) -> dict[int, tuple[bytes, bytes]]:
        """The greetings of a department's peers, and the shortest of as many others as must have countersigned."""
        new = {at: greeting for at, greeting in self._greetings.items() if at not in known}
        letters = {at: greeting for at, greeting in new.items() if at in peers}
        more = max(0, self._countersigners - len(known) - len(letters))
        others = sorted(new.keys() - letters.keys(), key=lambda at: (len(new[at][0]), at))
        return letters | {at: new[at] for at in others[:more]}

    def _ask(
        self,
        requests: Mapping[int, Parcel],
        lives: Mapping[int, str],
        seconds: float,
        take: Callable[[int, Parcel], None],
    ) -> None:
        requests = {who: one for who, one in requests.items() if self._refused.get(who) != lives[who]}
        if not requests:
            return

        def accept(who: int, reply: Parcel) -> bool:
            self._on_reply(reply)
            try:
                take(who, reply)
            except PeerError as error:
                self._refused[who] = lives[who]
                name = self._roster.departments[who].name
                self._on_fault(name, error.code, f"the introduction: {error}")
                self._on_exhibit(name, error.code, reply)
            return False

        if all(self._silent.get(who) == lives[who] for who in requests):
            seconds = min(seconds, _ASK_AGAIN)
        unanswered = self._exchange.ask(requests, seconds=seconds, accept=accept)
        self._silent = {w: life for w, life in self._silent.items() if w not in requests}
        self._silent |= {who: lives[who] for who in unanswered}

    def _known(self, who: int, life: str) -> frozenset[int]:
        told = self._met.get(who)
        return told[1] if told is not None and told[0] == life else frozenset()
