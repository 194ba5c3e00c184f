"""The numbered points of a run at which a process may die, and how each is found in the code.

A point is a place just before or just after something that is written or sent.  ``docs/crashes.md`` says for each what
is on disk then, what is lost and what happens at the next start; ``commonroot bench crash`` kills real processes there
(``mortal``).  Production code knows nothing of this: a point is the name of a function that is wrapped from outside.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import PurePath
from typing import Any, Literal

from commonroot.common.parcel import Parcel

Side = Literal["coordinator", "department"]
#: When in a run a point is passed: before its first round; in every round; where an upload is lost; where a round is;
#: where departments train before a round opens; after the last round.
Stage = Literal["beginning", "round", "confirm", "lost", "ready", "end"]

_LINKS = "commonroot.server.flower_links:FlowerLinks"
_JOURNAL = "commonroot.server.journal:Journal"
_MACHINE = "commonroot.common.secure_sum.coordinator:CoordinatorRound"
_SESSION = "commonroot.client.session:Session"
_STORE = "commonroot.client.store:DepartmentStore"
_KEEP = "commonroot.client.statements:keep"
_NODE = "commonroot.client.node:FlowerNode"
_LEARNER = "commonroot.client.learner_in_waiting:LearnerInWaiting"


@dataclass(frozen=True, slots=True)
class Point:
    """One place where a process may die.

    number   C1 … of the coordinator, D1 … of a department
    where    ``module:function`` or ``module:Class.method`` that is passed
    word     only where an argument tells it: a parcel's kind, a state, the beginning of a file's name
    what     what has just happened, or is about to
    disk     what of it is on disk
    lost     what goes with the process
    restart  what the next process does
    """

    number: str
    stage: Stage
    when: Literal["before", "after"]
    where: str
    word: str
    what: str
    disk: str
    lost: str
    restart: str

    @property
    def side(self) -> Side:
        """Whose point it is."""
        return "coordinator" if self.number.startswith("C") else "department"

    @property
    def place(self) -> str:
        """The place in words: ``after Journal.open_round``."""
        name = self.where.partition(":")[2]
        return f"{self.when} `{name}`" + (f" ({self.word.rstrip('-')})" if self.word else "")


def _points(prefix: str, rows: Iterable[tuple[Any, ...]]) -> tuple[Point, ...]:
    return tuple(Point(f"{prefix}{at}", *row) for at, row in enumerate(rows, start=1))


COORDINATOR = _points(
    "C",
    [
        # -- before the first round
        ("beginning", "before", f"{_JOURNAL}.set_run", "running", "the hub listens; a queued run is about to begin",
         "the run, queued", "nothing", "takes the oldest queued run"),
        ("beginning", "after", f"{_JOURNAL}.set_run", "running", "the run has begun",
         "the run, running", "nothing", "goes on with the running run before any queued one"),
        ("beginning", "after", "commonroot.server.backbones:BackboneStore.write", "", "version 0 is stored",
         "its file, which the journal does not name", "nothing", "makes the same file again from the charter's seed"),
        ("beginning", "after", f"{_JOURNAL}.add_version", "", "version 0 is journaled",
         "version 0 with its hash", "nothing", "asks who is there"),
        ("beginning", "after", f"{_LINKS}.send", "charter", "a department was shown the charter",
         "nothing of it", "the question and its answer", "shows it to everybody who is there"),
        ("beginning", "before", f"{_JOURNAL}.keep_greeting", "", "a greeting has arrived and was checked",
         "greetings kept before", "this greeting", "asks for it again; a department's greeting is always the same"),
        ("beginning", "after", f"{_JOURNAL}.keep_greeting", "", "a greeting is kept",
         "the greeting", "nothing", "asks only for those that are missing"),
        ("beginning", "after", f"{_LINKS}.send", "introduce", "a department was introduced to the others",
         "all greetings", "who has met whom", "introduces everybody again; who has met somebody says so"),
        # -- a round
        ("round", "before", f"{_JOURNAL}.open_round", "", "the round is signed",
         "nothing of it; nobody has seen it", "the cohort and the round's number, which was never used",
         "opens another round of that number"),
        ("round", "after", f"{_JOURNAL}.open_round", "", "the round is journaled as open; no message has left",
         "the signed opening", "nothing", "sends this very opening"),
        ("round", "after", f"{_LINKS}.send", "round-open", "one department has been sent the opening",
         "the signed opening", "messages in flight", "sends the same opening to all; who has uploaded repeats it"),
        ("round", "after", f"{_MACHINE}.upload", "", "one upload is in the running sum",
         "the signed opening", "the running sum", "asks all again and gets the identical uploads"),
        ("round", "after", f"{_MACHINE}.fix", "", "the survivor set is chosen, in memory",
         "the signed opening", "the set and the sum; nobody was told", "gathers again; the set may be a larger one"),
        ("round", "after", "commonroot.server.journal:atomic_write", "round-", "the masked sum is in its file",
         "a file that the journal does not name", "as before", "gathers again and replaces the file"),
        ("round", "after", f"{_JOURNAL}.fix_round", "", "the survivor set is journaled; nobody was asked to open it",
         "survivor set and masked sum, for ever", "nothing", "asks for exactly this set, and never for another"),
        # -- where an upload was lost
        ("confirm", "after", f"{_LINKS}.send", "confirm", "one member was asked to confirm the set",
         "survivor set and masked sum", "messages in flight", "asks all members to confirm the same set"),
        ("confirm", "after", f"{_MACHINE}.confirmation", "", "one confirmation is in",
         "survivor set and masked sum", "the confirmation", "asks again; who has confirmed repeats it"),
        ("confirm", "after", "commonroot.server.round:RoundDriver._confirm", "", "a quorum has confirmed",
         "survivor set and masked sum", "the confirmations", "collects them again before it asks anybody to open"),
        # -- opening
        ("round", "after", f"{_LINKS}.send", "open", "one member was asked to open",
         "survivor set and masked sum", "messages in flight", "asks for the same set again"),
        ("round", "after", f"{_MACHINE}.shares", "", "one answer is in",
         "survivor set and masked sum", "the answer", "asks again; who has answered repeats its answer"),
        ("round", "after", f"{_MACHINE}.finish", "", "the sum is open, in memory",
         "survivor set and masked sum", "the sum", "opens the same sum again"),
        ("round", "before", f"{_JOURNAL}.count_received", "", "the bytes of this round are about to be accounted",
         "survivor set and masked sum", "the account of what this process received in the round",
         "accounts for what arrives again"),
        ("round", "after", "commonroot.server.backbones:BackboneStore.write", "", "the next version is stored",
         "its file, which the journal does not name", "nothing", "opens again, and writes the same file again"),
        ("round", "after", f"{_JOURNAL}._insert_version", "", "inside the transaction that closes the round",
         "as before: the transaction did not happen", "nothing", "opens again and closes the round"),
        ("round", "before", "pathlib:Path.unlink", "round-", "the round is closed; its masked sum is still there",
         "the new version and a file that nothing names", "nothing", "goes on; the next round removes the file"),
        ("round", "after", f"{_JOURNAL}.close_round", "", "the round is closed",
         "the new version", "nothing", "opens the next round"),
        # -- a round that is lost
        ("lost", "before", f"{_JOURNAL}.lose_round", "", "too few have uploaded; the round is about to be given up",
         "the signed opening", "nothing", "asks for this round once more, and gives it up if too few answer"),
        ("lost", "after", f"{_JOURNAL}.lose_round", "", "the round is given up",
         "the round, lost, with the reason", "how many were lost in a row", "tries the same version in a new round"),
        # -- the ready stage
        ("ready", "after", f"{_LINKS}.send", "train", "one department was asked to train ahead",
         "nothing of it", "messages in flight", "asks everybody to train; who has trained says so at once"),
        ("ready", "after", "commonroot.common.messages:Ready.check", "", "one department has trained",
         "nothing of it", "who is ready", "asks everybody again"),
        ("ready", "after", "commonroot.server.ready_stage:ReadyStage.train", "", "those who are ready are the cohort",
         "nothing of it", "the cohort", "asks everybody again"),
        # -- after the last round
        ("end", "after", f"{_LINKS}.send", "run-close", "one department was sent the final backbone",
         "the last version", "messages in flight", "sends it to all who have not taken it over"),
        ("end", "before", f"{_JOURNAL}.department_closed", "", "a department says that it has taken it over",
         "the last version", "its word", "asks it again; it says the same"),
        ("end", "after", f"{_JOURNAL}.department_closed", "", "that is journaled",
         "who has taken it over", "nothing", "asks the others"),
        ("end", "before", f"{_JOURNAL}.set_run", "finished", "everybody has taken it over",
         "who has taken it over", "nothing", "has nobody to ask, and finishes the run"),
        ("end", "after", f"{_JOURNAL}.set_run", "finished", "the run is finished",
         "the run, finished", "nothing", "waits for the next run"),
    ],
)  # fmt: skip

DEPARTMENT = _points(
    "D",
    [
        # -- before the first round
        ("beginning", "after", f"{_STORE}.__init__", "", "the store is open; the hub was not joined",
         "everything from before", "nothing", "joins"),
        ("beginning", "after", f"{_NODE}._join", "", "the hub is joined",
         "a note beside the node's key: active on the hub", "nothing",
         "signs the dead node off in its name and joins at once"),
        ("beginning", "before", f"{_SESSION}.handle", "charter", "asked for the charter",
         "the approval", "the request", "is asked again, as everybody who comes back"),
        ("beginning", "before", f"{_NODE}._reply", "ready", "the data fits the charter; the answer has not left",
         "the approval", "the answer", "is asked again"),
        ("beginning", "after", f"{_SESSION}._note_sent", "greeting", "the greeting is in the ledger and has not left",
         "its ledger entry", "the greeting, which is a function of what is on disk", "is asked again, greets alike"),
        ("beginning", "before", f"{_STORE}.commit_introduction", "", "the others' greetings are checked",
         "the keys of the epoch's beginning", "the agreed keys", "is introduced again"),
        ("beginning", "after", f"{_STORE}.commit_introduction", "", "the agreed keys are stored, nothing left",
         "chains with everybody who was met", "the answer", "is introduced again and says whom it has met"),
        ("beginning", "after", f"{_NODE}._reply", "introduced", "that was sent",
         "chains with everybody who was met", "nothing", "is asked for the charter again"),
        # -- the ready stage
        ("ready", "before", f"{_SESSION}.handle", "train", "asked to train ahead",
         "the head before", "the request", "is asked again"),
        ("ready", "before", f"{_STORE}.commit_ready", "", "trained ahead, in memory",
         "the head before", "what was trained", "is asked again, trains alike"),
        ("ready", "after", f"{_STORE}.commit_ready", "", "the answer is in the ledger and has not left",
         "its ledger entry; the head before", "what was trained", "is asked again, trains alike"),
        # -- a round
        ("round", "before", f"{_SESSION}.handle", "round-open", "the opening has arrived",
         "the head before", "the request", "is sent it again"),
        ("round", "after", f"{_LEARNER}.train", "", "training is over",
         "the head before", "what was trained", "trains alike from the same head"),
        ("round", "before", f"{_STORE}.commit_upload", "", "the upload is masked, in memory",
         "the head before; the round's keys are not spent", "the upload, which nobody saw",
         "trains alike and masks anew"),
        ("round", "after", "commonroot.client.blobs:atomic_write", "upload-", "the upload is in its file",
         "a file that nothing names", "as before", "removes the file, trains alike and masks anew"),
        ("round", "after", "commonroot.client.blobs:atomic_write", "head-", "the head is in its file",
         "two files that nothing names", "as before", "removes both, trains alike and masks anew"),
        ("round", "after", _KEEP, "round-open", "inside the transaction of the upload",
         "as before: the transaction did not happen", "as before", "removes both files, trains alike and masks anew"),
        ("round", "before", f"{_STORE}._forget_replaced", "", "a step is committed; replaced keys are not overwritten",
         "the new state; old keys in the database's log", "nothing", "goes on; the next commit overwrites them"),
        ("round", "after", f"{_STORE}.commit_upload", "", "upload, head, keys and ledger entry are stored",
         "all of it", "nothing", "is asked again and sends the stored upload"),
        ("round", "before", "commonroot.client.node:FleetHttpClient.PushObject", "",
         "the hub knows of a reply whose bytes have not left", "the reply", "nothing",
         "is asked again and sends the stored reply"),
        ("round", "after", f"{_NODE}._reply", "masked", "the upload was sent",
         "the upload", "nothing", "is in the sum whether it is back or not"),
        # -- where somebody's upload was lost
        ("confirm", "before", f"{_SESSION}.handle", "confirm", "asked to confirm a survivor set",
         "the upload", "the request", "is asked again"),
        ("confirm", "before", f"{_STORE}.commit_answer", "confirm", "the confirmation is signed, in memory",
         "the upload; no set is confirmed", "the confirmation, which nobody saw", "is asked again"),
        ("confirm", "after", _KEEP, "confirm", "inside the transaction of the confirmation",
         "as before: the transaction did not happen", "as before", "is asked again"),
        ("confirm", "after", f"{_STORE}.commit_answer", "confirm", "the set is confirmed on disk, nothing left",
         "the one set that this department will ever confirm", "the reply", "is asked again, confirms the same set"),
        ("confirm", "after", f"{_NODE}._reply", "confirmed", "the confirmation was sent",
         "the set", "nothing", "is asked to open this set"),
        # -- opening
        ("round", "before", f"{_SESSION}.handle", "open", "asked to open a survivor set",
         "the upload", "the request", "is asked again"),
        ("round", "before", f"{_STORE}.commit_answer", "open", "the answer is made, in memory",
         "the upload; no set is opened", "the answer, which nobody saw", "is asked again"),
        ("round", "after", _KEEP, "open", "inside the transaction of the answer",
         "as before: the transaction did not happen", "as before", "is asked again"),
        ("round", "after", f"{_STORE}.commit_answer", "open", "the opened set is on disk, nothing left",
         "the one set that this department will ever open", "the reply", "is asked again, gives the same answer"),
        ("round", "after", f"{_NODE}._reply", "shares", "the answer was sent",
         "the opened set", "nothing", "takes part in the next round"),
        # -- after the last round
        ("end", "before", f"{_SESSION}.handle", "run-close", "the final backbone has arrived",
         "the last head", "the request", "is sent it again"),
        ("end", "after", f"{_LEARNER}.finish", "", "the choice is made and its model stored",
         "the model's folder, which nothing names", "nothing", "chooses again, alike, into the same folder"),
        ("end", "after", f"{_STORE}.commit_closed", "", "the choice is on record, the answer has not left",
         "head, model, record", "the answer", "is asked again and says so"),
        ("end", "after", f"{_NODE}._reply", "closed", "that was sent",
         "head, model, record", "nothing", "waits for the next run"),
    ],
)  # fmt: skip

POINTS: tuple[Point, ...] = COORDINATOR + DEPARTMENT


def point(number: str) -> Point:
    """The point of that number; KeyError where there is none."""
    return {one.number: one for one in POINTS}[number]


# -- wrapping ----------------------------------------------------------------------------------------------------------

#: Called with every point that is passed.
OnPass = Callable[[Point], None]
#: Sets an attribute of an owner, as ``setattr`` does; tests give one that is undone.
Patch = Callable[[Any, str, Any], None]


def install(points: Iterable[Point], on_pass: OnPass, patch: Patch = setattr) -> None:
    """Have ``on_pass`` called wherever one of these points is passed, from now on in this process."""
    for where, here in _by_place(points).items():
        owner, name = _owner(where)
        original = inspect.getattr_static(owner, name)
        call = original.__func__ if isinstance(original, staticmethod) else original
        wrapped = _wrapped(call, here, on_pass)
        patch(owner, name, staticmethod(wrapped) if isinstance(original, staticmethod) else wrapped)


def _by_place(points: Iterable[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for one in points:
        found.setdefault(one.where, []).append(one)
    return found


def _owner(where: str) -> tuple[Any, str]:
    module, _, path = where.partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for step in outer:
        owner = getattr(owner, step)
    return owner, name


def _wrapped(original: Callable[..., Any], points: list[Point], on_pass: OnPass) -> Callable[..., Any]:
    @functools.wraps(original)
    def passing(*args: Any, **options: Any) -> Any:
        told = [one for one in points if not one.word or any(_tells(a, one.word) for a in (*args, *options.values()))]
        for one in told:
            if one.when == "before":
                on_pass(one)
        result = original(*args, **options)
        for one in told:
            if one.when == "after":
                on_pass(one)
        return result

    return passing


def _tells(argument: Any, word: str) -> bool:
    """Whether an argument says the word: a parcel by its kind, a path by how its name begins, a word by itself."""
    if isinstance(argument, Parcel):
        return argument.kind == word
    if isinstance(argument, PurePath):
        return argument.name.startswith(word)
    if isinstance(argument, Enum):
        return bool(argument.value == word)
    return isinstance(argument, str) and argument == word
