"""``[coordinator]``: a coordinator that lies, and what departments say to it.

It holds the federation's key, so its lies bear good signatures.  Most are told beside the true request, and the run
goes on; ``different-backbones`` and ``different-cohorts`` are told in its place, to every second department, so that
no sum comes together.  What was answered stands in ``FOLDER/lies.jsonl`` of the arm, one line for each forgery.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from commonroot.common import parcel
from commonroot.common.errors import PeerError
from commonroot.common.messages import Offer, Open, Refusal, RoundOpen, Train
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Name
from commonroot.common.secure_sum.primitives import Identity
from commonroot.files import storage_errors
from commonroot.simulations.behaviour import forgeries
from commonroot.simulations.behaviour.base import Frozen, Round

FILE: Final = "lies.jsonl"

Lie = Literal[
    "second-survivor-set",
    "too-few-survivors",
    "unconfirmed-survivors",
    "old-backbone",
    "another-charter",
    "different-backbones",
    "different-cohorts",
]
_WORDS: Final[dict[str, str]] = {
    "second-survivor-set": "asks to open a second survivor set of a round",
    "too-few-survivors": "asks to open a sum over two departments",
    "unconfirmed-survivors": "asks to open fewer survivors, whom nobody confirmed",
    "old-backbone": "asks for contributions to the backbone before this one, again",
    "another-charter": "shows a charter that was changed after it was approved",
    "different-backbones": "shows every second department another backbone",
    "different-cohorts": "shows every second department another cohort",
}

Handler = Callable[[Parcel], Parcel]


class LyingCoordinator(Frozen):
    """What the coordinator lies about, in which rounds (those that make these versions) and to whom.

    lies         one or more of ``Lie``
    from, until  rounds; by default all
    departments  by default all
    """

    lies: Annotated[tuple[Lie, ...], Field(min_length=1)]
    since: Round = Field(default=1, alias="from")
    until: Round | None = None
    departments: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if len(set(self.lies)) < len(self.lies):
            raise ValueError("a lie stands twice")
        if self.until is not None and self.until < self.since:
            raise ValueError(f"until = {self.until} is before from = {self.since}")
        return self

    def problems(self, names: Sequence[str], rounds: int) -> list[str]:
        """What does not fit a federation of these departments and so many rounds."""
        found = [f"no department is called {name!r}" for name in self.departments or () if name not in names]
        return found + ([f"from = {self.since} comes after the last round, {rounds}"] if self.since > rounds else [])

    def told(self) -> list[str]:
        """For people, one sentence each."""
        return [f"the coordinator {_WORDS[lie]}" for lie in self.lies]


class Liar:
    """Stands between coordinator and departments with the coordinator's key.

    names   of the roster's departments, in order
    record  where every forgery's answer is noted
    """

    def __init__(self, section: LyingCoordinator, key: Identity, names: Sequence[str], record: Path) -> None:
        self._section, self._key, self._names, self._record = section, key, list(names), record
        #: True openings by transcript, and true broadcasts by charter and version.
        self._openings: dict[bytes, RoundOpen] = {}
        self._bodies: dict[tuple[bytes, int], bytes] = {}

    def around(self, name: str, handle: Handler) -> Handler:
        """A department's handler, which now hears lies too."""
        me, lied_to = self._names.index(name), self._section.departments
        if lied_to is not None and name not in lied_to:
            return handle

        def hear(lie: Lie, forged: Parcel, round: int) -> Parcel:
            reply = handle(forged)
            self._note(lie, forged.kind, round, name, reply)
            return reply

        def between(request: Parcel) -> Parcel:
            if request.kind == parcel.CHARTER:
                return self._charter(request, handle, hear)
            if request.kind == parcel.TRAIN:
                return self._train(request, me, handle, hear)
            if request.kind == parcel.ROUND_OPEN:
                return self._round_open(request, me, handle, hear)
            if request.kind == parcel.OPEN:
                return self._open(request, handle, hear)
            return handle(request)

        return between

    def _charter(self, request: Parcel, handle: Handler, hear: Callable[[Lie, Parcel, int], Parcel]) -> Parcel:
        reply = handle(request)
        if "another-charter" in self._section.lies:
            offer = Offer.decode(bytes(request.head))
            hear("another-charter", forgeries.another_charter(offer, self._key, bytes(request.body)), 0)
        return reply

    def _train(self, request: Parcel, me: int, handle: Handler, hear: Callable[[Lie, Parcel, int], Parcel]) -> Parcel:
        asked = Train.decode(bytes(request.head))
        self._bodies[asked.charter, asked.version] = bytes(request.body)
        if not (self._splits("different-backbones", asked.version, me) and asked.version):
            return handle(request)
        forged = forgeries.another_backbone(asked, self._key, bytes(request.body), empty=False)
        return hear("different-backbones", forged, asked.round)

    def _round_open(
        self, request: Parcel, me: int, handle: Handler, hear: Callable[[Lie, Parcel, int], Parcel]
    ) -> Parcel:
        opened = RoundOpen.decode(bytes(request.head))
        self._openings[opened.transcript] = opened
        body = bytes(request.body)
        if body:
            self._bodies[opened.charter, opened.version] = body
        known = self._bodies.get((opened.charter, opened.version), b"")
        # everybody can compute version 0, so a lie about it waits for the next
        if opened.version and known and self._splits("different-backbones", opened.version, me):
            forged = forgeries.another_backbone(opened, self._key, known, empty=not body)
            reply = hear("different-backbones", forged, opened.round)
            hear("different-backbones", forgeries.opening_of(opened, self._key), opened.round)
            return reply
        if self._splits("different-cohorts", opened.version, me):
            reply = hear("different-cohorts", forgeries.another_cohort(opened, self._key, me, body), opened.round)
            hear("different-cohorts", forgeries.opening_of(opened, self._key), opened.round)
            return reply
        reply = handle(request)
        before = self._bodies.get((opened.charter, opened.version - 1))
        if self._tells("old-backbone", opened.version) and before is not None:
            hear("old-backbone", forgeries.older(opened, self._key, before), opened.round)
        return reply

    def _open(self, request: Parcel, handle: Handler, hear: Callable[[Lie, Parcel, int], Parcel]) -> Parcel:
        asked = Open.decode(bytes(request.head))
        opened = self._openings.get(asked.transcript)
        version = -1 if opened is None else opened.version
        one_less = forgeries.fewer_survivors(asked, self._key, left=len(asked.survivors) - 1)
        if self._tells("too-few-survivors", version):
            hear("too-few-survivors", forgeries.fewer_survivors(asked, self._key, left=2), asked.round)
        if self._tells("unconfirmed-survivors", version):
            hear("unconfirmed-survivors", one_less, asked.round)
        reply = handle(request)
        if self._tells("second-survivor-set", version):
            hear("second-survivor-set", one_less, asked.round)
        return reply

    def _tells(self, lie: Lie, version: int) -> bool:
        until = self._section.until
        in_time = self._section.since <= version + 1 and (until is None or version + 1 <= until)
        return lie in self._section.lies and version >= 0 and in_time

    def _splits(self, lie: Lie, version: int, me: int) -> bool:
        return self._tells(lie, version) and me % 2 == 1

    def _note(self, lie: Lie, kind: str, round: int, name: str, reply: Parcel) -> None:
        line = {"lie": lie, "asked": kind, "round": round, "department": name, "said": _said(reply)}
        with storage_errors(self._record), self._record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def heard(record: Path) -> list[dict[str, Any]]:
    """What came of every lie, from its file: ``lie``, ``asked`` (how often), ``departments`` (how many), ``refused``
    (code → how often), ``masked`` (contributions under a transcript of the lie's own, which nobody can open) and
    ``opened`` (answers that help to open something)."""
    if not record.is_file():
        return []
    answers: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in record.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):  # a last line that was cut short is told again
            one = json.loads(line)
            answers[tuple(one[key] for key in ("lie", "asked", "round", "department"))] = one
    found = []
    for lie in get_args(Lie):
        those = [one for one in answers.values() if one["lie"] == lie]
        if those:
            said = Counter(one["said"] for one in those)
            found.append(
                {
                    "lie": lie,
                    "asked": len(those),
                    "departments": len({one["department"] for one in those}),
                    "refused": {word: count for word, count in sorted(said.items()) if word.startswith("CR")},
                    "masked": said[parcel.MASKED] + said[parcel.TRAINED],
                    "opened": said[parcel.SHARES] + said[parcel.CONFIRMED],
                }
            )
    return found


def in_words(lies: Sequence[dict[str, Any]]) -> list[str]:
    """What came of every lie, one sentence each."""
    lines = []
    for one in lies:
        codes = ", ".join(f"{count} with {code}" for code, count in one["refused"].items()) or "none"
        line = f"the coordinator {_WORDS[one['lie']]}: asked {one['asked']} times, refused {codes}"
        if one["masked"]:
            line += f"; {one['masked']} answers that are of no use without the others'"
        lines.append(f"{line}; opened {one['opened'] or 'nothing'}")
    return lines


def _said(reply: Parcel) -> str:
    """A refusal by its code, anything else by its kind."""
    if reply.kind != parcel.REFUSAL:
        return reply.kind
    try:
        return Refusal.decode(bytes(reply.head)).code
    except PeerError:
        return reply.kind
