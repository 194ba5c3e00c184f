"""Showing charters to departments before any run of them, and hearing who leaves, while nothing else is going on.

A department reads a charter and obeys nothing of it before its people, or their policy, have approved it.  People need
days for that, and a run waits minutes; so charters are offered beforehand.  Whoever has something to say, and that is a
good-bye at most, says it in reply to whatever it is asked.
"""

from __future__ import annotations

from typing import Final

from commonroot.common import parcel
from commonroot.common.charter import SignedCharter
from commonroot.common.errors import PeerError, UnknownRound
from commonroot.common.greetings import Greet
from commonroot.common.messages import Goodbye, Offer
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.primitives import Identity
from commonroot.logs import Tell
from commonroot.server.exchange import Exchange
from commonroot.server.journal import Journal
from commonroot.server.round import code_of, expect

#: How long an idle coordinator waits for answers, in seconds.
_PATIENCE: Final = 5.0
#: A department that has not agreed to a charter is shown it again after so long, in seconds.
_AGAIN: Final = 600.0


class Offers:
    """What each department, in each of its incarnations, was shown, and when."""

    def __init__(
        self,
        journal: Journal,
        identity: Identity,
        on_event: Tell = lambda kind, facts: None,
    ) -> None:
        self._journal = journal
        self._identity = identity
        self._on_event = on_event
        #: (department, charter or "") → its incarnation and when it was asked.
        self._asked: dict[tuple[str, str], tuple[str, float]] = {}

    def look(self, roster: Roster, exchange: Exchange) -> None:
        """Show what is to be shown to whoever is there and was not shown it; returns at once where nobody is."""
        present, gone = exchange.present(), self._journal.consent.farewells()
        here = {
            who: life for who, life in present.items() if roster.departments[who].identity not in gone
        }  # whoever has left is not asked any more
        if not here:
            return
        answers = self._journal.consent.answers()
        offered = self._journal.consent.offers()
        for signed in offered:
            name = signed.charter.digest.hex()
            agreed = {who for who, said in answers.get(name, {}).items() if said == "ready"}
            self._show(roster, exchange, here, signed, agreed)
        if not offered:
            self._greet(roster, exchange, here)

    def _show(
        self, roster: Roster, exchange: Exchange, here: dict[int, str], signed: SignedCharter, agreed: set[str]
    ) -> None:
        name = signed.charter.digest.hex()
        due = self._due(roster, exchange, here, name, agreed)
        offer = Offer.signed(
            self._identity, run=0, charter=signed.charter.digest, roster=roster.digest, epoch=roster.epoch
        )
        request = Parcel(parcel.CHARTER, offer.encode(), signed.to_json())

        def accept(who: int, reply: Parcel) -> bool:
            if not self._heard(roster, who, reply):
                answer = "ready" if reply.kind == parcel.READY else code_of(reply)
                if answer:
                    department = roster.departments[who].name
                    self._journal.consent.answered(name, department, answer)
                    self._on_event("answered", {"charter": name, "department": department, "answer": answer})
            return False

        exchange.ask(dict.fromkeys(due, request), seconds=_PATIENCE, accept=accept)

    def _greet(self, roster: Roster, exchange: Exchange, here: dict[int, str]) -> None:
        """Ask whoever came for its greeting, which it gives alike each time, in case it has a good-bye to say."""
        due = self._due(roster, exchange, here, "", {roster.departments[who].name for who in here})
        request = Parcel(parcel.GREET, Greet.signed(self._identity, roster=roster.digest, epoch=roster.epoch).encode())

        def accept(who: int, reply: Parcel) -> bool:
            self._heard(roster, who, reply)
            return False

        exchange.ask(dict.fromkeys(due, request), seconds=_PATIENCE, accept=accept)

    def _due(
        self, roster: Roster, exchange: Exchange, here: dict[int, str], charter: str, agreed: set[str]
    ) -> list[int]:
        """Who came since it was asked, and who has not agreed and was asked long ago; noted as asked now."""
        now, due = exchange.now(), []
        for who, life in here.items():
            name = roster.departments[who].name
            before = self._asked.get((name, charter))
            if before is None or before[0] != life or (name not in agreed and now - before[1] > _AGAIN):
                self._asked[name, charter] = (life, now)
                due.append(who)
        return due

    def _heard(self, roster: Roster, who: int, reply: Parcel) -> bool:
        """Take a good-bye; False where the reply is none.  A forged one is a fault."""
        if reply.kind in parcel.TO_COORDINATOR:
            self._journal.count_received({reply.kind: (1, len(reply))})
        if reply.kind != parcel.GOODBYE:
            return False
        member = roster.departments[who]
        try:
            take_goodbye(self._journal, roster, who, reply)
        except PeerError as error:
            self._journal.faults.note(member.name, error.code, f"the good-bye: {error}")
        else:
            self._on_event("left", {"department": member.name})
        return True


def take_goodbye(journal: Journal, roster: Roster, who: int, reply: Parcel) -> None:
    """Note a department's good-bye.

    Raises  Refused: it is none; Malformed, WrongVersion, BadSignature; UnknownRound: of another roster or department
    """
    expect(reply, parcel.GOODBYE)
    said, member = Goodbye.decode(bytes(reply.head)), roster.departments[who]
    said.check(bytes.fromhex(member.identity), who=f"department {member.name!r}")
    if (said.roster, said.sender) != (roster.digest, who):
        raise UnknownRound(f"department {member.name!r} says good-bye to another roster or as another department")
    journal.consent.left(member.name, member.identity, bytes(reply.head))
