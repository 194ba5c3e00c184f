"""A whole run with everything it says written down, and every secret of the run looked for in it.

Two runs: one in memory, with every object of the program looked at while it goes on, and one as it is deployed, with a
hub, TLS and nodes, whose standard output and standard error are read.  In both a department breaks down, uploads are
damaged, openings are refused and all loggers speak at DEBUG.

Said is: every log record with its arguments and traceback, every event on both sides, every error and every object of
the program's own classes that is alive at any event (as ``str`` and as ``repr``), what ``--json`` commands print, the
files of the coordinator but for its keys, and all that crosses the wire.  Secrets are: all that was ever drawn at
random (identities, agreement keys, b_i, coefficients of shares), the chains, the s_ij, the shares, training secrets,
heads, contributions, encoded vectors, rows, targets, scores, and how many rows there are.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import small
from federation.audit import Witness
from proofs.leaks import Ear, Listener, Secrets, spellings, watch_shares, whole_numbers
from typer.testing import CliRunner

from commonroot.client import node as node_module
from commonroot.client.cli import app as department_cli
from commonroot.client.daemon import serve as serve_department
from commonroot.client.data import prepare
from commonroot.client.learner import DepartmentLearner
from commonroot.client.node_key import load_node_key
from commonroot.client.session import Session, Trained
from commonroot.client.tasks import Regression
from commonroot.client.trainer import Trainer
from commonroot.common import parcel
from commonroot.common.errors import PeerError
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.chains import Chains
from commonroot.common.secure_sum.primitives import Identity
from commonroot.logs import LogOptions
from commonroot.server import superlink
from commonroot.server.cli import app as coordinator_cli
from commonroot.server.coordinator import serve as serve_coordinator
from commonroot.simulations.federation import SimulatedFederation
from commonroot.simulations.founding import Federation, found, write_table
from commonroot.simulations.network import Crossing, MemoryNetwork, lie
from commonroot.simulations.processes import free_port
from commonroot.strategies.base import LocalResult

#: Sorts of secrets that a whole run must have given the ear to listen for.
SORTS = {
    "key material",
    "key chains",
    "pairwise secrets",
    "shares",
    "unmasked lanes",
    "contribution",
    "head and optimizer",
    "trained backbone",
    "training secrets",
    "rows",
    "targets",
    "scores",
}
NAMES = small.NAMES[:4]
#: Ash's number of rows, and of those it trains on, look like no other number of a small run.
ROWS = small.ROWS | {"ash": 1733}
#: Dogwood's task is words; nobody else has them.
WORDS = ("zinnia-quorum", "murmuring-oxide")
LOUD = ("uploaded", "opened", "refused", "opening", "closed", "finished")

Meddle = Callable[[pytest.MonkeyPatch, Federation], None]


@contextmanager
def listening(patch: pytest.MonkeyPatch) -> Iterator[tuple[Ear, Witness]]:
    """An ear on all loggers and a witness of all secrets, while the block runs."""
    ear, witness = Ear(), Witness()
    witness.needles = Secrets()
    listener, log = Listener(ear), logging.getLogger()
    before = {name: logging.getLogger(name).level for name in ("", "flwr", "httpx", "httpcore", "alembic", "uvicorn")}
    log.addHandler(listener)
    for name in before:
        logging.getLogger(name).setLevel(logging.DEBUG)
    witness.watch(patch)
    watch_shares(witness, patch)
    try:
        yield ear, witness
    finally:
        log.removeHandler(listener)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def founded(root: Path, witness: Witness, port: int = 9443) -> Federation:
    """Four departments; their keys, rows, targets and numbers of rows are known to the witness."""
    sections = {name: small.data_section(name) for name in NAMES}
    made = found(
        root,
        federation="grove",
        charter_toml=small.CHARTER.format(rounds=2, attempts=3, widths=[8, 4]),
        departments=sections,
        port=port,
        random=witness.random(os.urandom),
    )
    needles = witness.needles
    assert isinstance(needles, Secrets)
    for at, (name, folder) in enumerate(made.departments.items()):
        x, y = small.table(at, ROWS[name], sections[name].task)
        if name == "dogwood":
            y = np.where(y == y[0], *WORDS)
        write_table(folder.root / "rows.npz", x, y)
        needles.numbers("rows", x)
        if y.dtype.kind == "f":
            needles.numbers("targets", y)
        prepared = prepare(folder.data, folder=folder.root)
        if isinstance(prepared.task, Regression):
            needles.numbers("targets", [prepared.task.centre, prepared.task.scale])
        for part in (prepared.train, prepared.validation, prepared.test):
            needles.numbers("rows", part.x)
            needles.counts_of_rows |= {count for count in (len(y), len(part.y)) if count > 1000}
        needles.add("training secrets", folder.secret())
        needles.add("key material", folder.identity().secret_bytes())
        needles.add(
            "key material",
            load_node_key(folder.node_key).private_numbers().private_value.to_bytes(48, "big").lstrip(b"\0"),
        )
    for word in WORDS:
        needles.add("targets", word.encode())
    for key in (made.coordinator.identity(), made.coordinator.authority()):
        needles.add("key material", key.secret_bytes())
    return made


def know_scores(patch: pytest.MonkeyPatch, witness: Witness, ear: Ear) -> None:
    """Losses while training are secrets; what holds them lives too short to be met otherwise."""

    def learnt(made: Any, **_: Any) -> None:
        ear.note("results", made)
        ear.note("results", made.result)
        witness.needles.numbers("scores", [made.result.loss, made.result.held_out])

    witness._after(patch, Trainer, "train", learnt)


def hear_what_is_left(ear: Ear, witness: Witness, made: Federation) -> None:
    """After a run: what commands print for the coordinator's people, and its files; and reports become secrets."""
    for folder in made.departments.values():
        report = json.loads((folder.root / "report.json").read_text())
        witness.needles.numbers("scores", [report[key] for key in ("alone", "federated", "chosen")])
        for command in ("ledger", "evidence"):
            ear.note("commands", CliRunner().invoke(department_cli, [command, str(folder.root), "--json"]).output)
    for command in ("status", "models", "evidence"):
        shown = CliRunner().invoke(coordinator_cli, [command, str(made.coordinator.root), "--json"])
        assert (shown.exit_code, shown.output[:1]) in ((0, "{"), (0, "[")), shown.output
        ear.note("commands", shown.output)
    for path in sorted(made.coordinator.root.rglob("*")):
        if path.is_file() and path.suffix not in (".key", ".pem"):
            ear.raw("coordinator's files", path.read_bytes())


# -- in memory ---------------------------------------------------------------------------------------------------------


@contextmanager
def overheard(root: Path, *meddling: Meddle) -> Iterator[tuple[Ear, Witness]]:
    """A run of four departments with real learners, of which one is always late, in bad weather."""
    with pytest.MonkeyPatch.context() as patch, listening(patch) as (ear, witness):
        know_scores(patch, witness, ear)
        made = founded(root, witness)
        for meddle in meddling:
            meddle(patch, made)
        run(made, ear, witness)
        hear_what_is_left(ear, witness, made)
        yield ear, witness


def run(made: Federation, ear: Ear, witness: Witness) -> None:
    def spoil(crossing: Crossing) -> Parcel | None:
        """Dogwood's uploads and one of ash's openings are damaged: there are errors and a non-survivor."""
        honest = crossing.parcel
        ear.raw("wire", bytes(honest.head))
        ear.raw("wire", bytes(honest.body))
        damaged = bytes([honest.head[0]]) + honest.head[1:-1] if honest.head else b""
        if (honest.kind, crossing.department) in ((parcel.MASKED, "dogwood"), (parcel.OPEN, "ash")):
            return Parcel(honest.kind, damaged, honest.body)
        return None

    def heard(sort: str) -> Callable[..., None]:
        def note(*event: Any) -> None:
            ear.note(sort, event)
            if any(word in event for word in LOUD):
                ear.objects()
            if event[0] == "closed" and event[1]["round"] == 1:  # a department is killed and comes back
                at_work.kill("cedar")
                at_work.start("cedar")

        return note

    at_work = SimulatedFederation(
        made,
        MemoryNetwork(weather=[lie(spoil)]),
        random=witness.random(os.urandom),
        on_department=heard("department events"),
    )
    with closing(at_work):
        at_work.start_all()
        at_work.queue()
        at_work.run(heard("coordinator events"))


@pytest.fixture(scope="module")
def honest(module_path: Path) -> Iterator[tuple[Ear, Witness]]:
    with overheard(module_path / "honest") as (ear, witness):
        yield ear, witness


def test_no_secret_of_a_whole_run_is_ever_said(honest):
    ear, witness = honest
    assert set(witness.needles.counts()) == SORTS
    assert all(number > 20 for number in witness.needles.counts().values()), witness.needles.counts()
    assert len(witness.needles.counts_of_rows) >= 2
    assert ear.found(witness.needles) == {}


def test_the_ear_heard_a_whole_run(honest):
    """Otherwise the test above would prove nothing."""
    ear, _ = honest
    everywhere = {"log", "department events", "coordinator events", "objects", "errors", "wire", "commands"}
    assert everywhere | {"log arguments", "coordinator's files", "results"} == set(ear.counts)
    protocol = {
        "Session",
        "DepartmentMachine",
        "DepartmentMemory",
        "Chains",
        "EpochSetup",
        "Upload",
        "Commitment",
        "CoordinatorRound",
        "Parcel",
        "Open",
        "Identity",
        "Trained",
        "Prepared",
        "Rows",
        "DepartmentStore",
        "Journal",
        "RoundDriver",
        "RunDriver",
        "DepartmentLearner",
    }
    assert protocol <= ear.kinds, f"not looked at: {sorted(protocol - ear.kinds)}"
    said = b"\n".join(ear.heard["department events"])
    assert b"refused" in said and b"CR20" in said


# -- deployed ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deployed(module_path: Path) -> Iterator[tuple[Ear, Witness]]:
    """Hub, TLS, nodes and daemons in threads of this process; birch's learner fails once and quotes a row."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out, err, failures = io.StringIO(), io.StringIO(), []
    with pytest.MonkeyPatch.context() as patch, listening(patch) as (ear, witness):
        know_scores(patch, witness, ear)
        for module in (node_module, superlink):
            patch.setattr(module, "quiet", lambda: None)  # Flower and its HTTP speak at DEBUG like everybody
        patch.setattr(superlink, "Gate", tapped(ear))
        made = founded(module_path / "deployed", witness, free_port())
        fail_once(patch, failures)
        spoil(patch)
        with small.journal_of(made) as journal:
            journal.queue(made.charter)
        stop = threading.Event()
        with redirect_stdout(out), redirect_stderr(err):
            threads = [
                threading.Thread(
                    target=serve_department,
                    args=(folder.root,),
                    kwargs={"log": LogOptions("text", module_path / "logs" / name, "debug"), "stop": stop},
                )
                for name, folder in made.departments.items()
            ]
            for thread in threads:
                thread.start()
            try:
                log = LogOptions("json", module_path / "logs" / "coordinator", "debug")
                serve_coordinator(made.coordinator.root, until_idle=True, log=log)
            finally:
                stop.set()
                for thread in threads:
                    thread.join(30)
                for number, handler in kept.items():
                    signal.signal(number, handler)
        ear.note("standard output", out.getvalue())
        ear.note("standard error", err.getvalue())
        for file in sorted((module_path / "logs").iterdir()):
            ear.note(f"log file of {file.name}", file.read_text())
        assert len(failures) == 1
        hear_what_is_left(ear, witness, made)
        yield ear, witness


def tapped(ear: Ear) -> type:
    """The gate, with a copy of everything that comes in and goes out, after TLS."""

    class Gate(superlink.Gate):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def taking() -> Any:
                event = await receive()
                ear.raw("wire", bytes(event.get("body", b"")))
                return event

            async def giving(event: Any) -> None:
                ear.raw("wire", bytes(event.get("body", b"")))
                await send(event)

            ear.raw("wire", b"\0".join(part for pair in scope["headers"] for part in pair))
            await super().__call__(scope, taking, giving)

    return Gate


def fail_once(patch: pytest.MonkeyPatch, failures: list[str]) -> None:
    """What a library raises over a row may hold the row."""
    train = DepartmentLearner.train

    def training(self: DepartmentLearner, *args: Any) -> Trained:
        if self._name == "birch" and not failures:
            row = prepare(self._data, folder=self._root).train.x[0]
            failures.append(repr(row))
            raise ValueError(f"cannot use {row!r} of {ROWS['birch']} rows")
        return train(self, *args)

    patch.setattr(DepartmentLearner, "train", training)


def spoil(patch: pytest.MonkeyPatch) -> None:
    """The openings that ash gets and the uploads that dogwood sends."""
    handle = Session.handle

    def handling(self: Session, request: Parcel) -> Parcel:
        if request.kind == parcel.OPEN and self._me == "ash":
            request = Parcel(request.kind, request.head[:-1], request.body)
        reply = handle(self, request)
        if reply.kind == parcel.MASKED and self._me == "dogwood":
            return Parcel(reply.kind, reply.head[:-1], reply.body)
        return reply

    patch.setattr(Session, "handle", handling)


@pytest.mark.slow
def test_no_secret_of_a_deployed_run_is_ever_said(deployed):
    ear, witness = deployed
    assert set(witness.needles.counts()) == SORTS
    assert ear.found(witness.needles) == {}


@pytest.mark.slow
def test_the_ear_heard_a_deployed_run(deployed):
    ear, _ = deployed
    assert {"log", "standard output", "standard error", "commands", "coordinator's files", "wire"} <= set(ear.counts)
    files = {f"log file of {name}": b"\n".join(ear.heard[f"log file of {name}"]) for name in ("coordinator", *NAMES)}
    assert all(b"uploaded" in files[f"log file of {name}"] for name in NAMES)
    assert b'"closed"' in files["log file of coordinator"]
    log, shown = b"\n".join(ear.heard["log"]), b"\n".join(ear.heard["standard output"])
    assert re.search(rb"DEBUG", log) and b"httpx" in log
    assert b'"finished"' in shown and b"uploaded" in shown and b"CR20" in shown
    assert sum(map(len, ear.heard["wire"])) > 10_000


# -- the ear can hear --------------------------------------------------------------------------------------------------


def shown_chains(patch: pytest.MonkeyPatch, made: Federation) -> None:
    patch.setattr(Chains, "__repr__", lambda self: f"Chains({self.rounds[0]!r})")


def shown_identity(patch: pytest.MonkeyPatch, made: Federation) -> None:
    patch.setattr(Identity, "__repr__", lambda self: f"Identity({self.secret_bytes().hex()})")


def logged_secret(patch: pytest.MonkeyPatch, made: Federation) -> None:
    text = base64.b64encode(made.departments["birch"].secret()).decode()
    logging.getLogger("anything").debug("starting with %s", text)


def shown_terms(patch: pytest.MonkeyPatch, made: Federation) -> None:
    patch.setattr(Trained, "__repr__", lambda self: f"Trained({dict(self.terms)!r})")


def shown_answers(patch: pytest.MonkeyPatch, made: Federation) -> None:
    patch.setattr(Parcel, "__repr__", lambda self: f"Parcel({self.kind!r}, {self.head!r})")


def journaled_key(patch: pytest.MonkeyPatch, made: Federation) -> None:
    journal = made.coordinator.journal()
    journal.faults.note("ash", "CR20", "key " + made.departments["ash"].identity().secret_bytes().hex())
    journal.close()


def told_lanes(patch: pytest.MonkeyPatch, made: Federation) -> None:
    """An event that holds a few of the numbers that were about to be masked."""
    plain = Session._mask

    def mask(self: Session, charter: Any, opening: Any, trained: Any, *more: Any, **fields: Any) -> Any:
        self._on_event("masking", {"first": np.asarray(trained.terms["update/layers.0.weight"]).ravel()[:4]})
        return plain(self, charter, opening, trained, *more, **fields)

    patch.setattr(Session, "_mask", mask)


def logged_count(patch: pytest.MonkeyPatch, made: Federation) -> None:
    logging.getLogger("anything").debug("ash has %d rows", ROWS["ash"])


def printed_score(patch: pytest.MonkeyPatch, made: Federation) -> None:
    patch.setattr(LocalResult, "__repr__", lambda self: f"LocalResult(held_out={self.held_out})")


def quoted_row(patch: pytest.MonkeyPatch, made: Federation) -> None:
    x = np.load(made.departments["cedar"].root / "rows.npz")["X"]
    logging.getLogger("anything").debug("the third row is %s", x[2])


def quoted_target(patch: pytest.MonkeyPatch, made: Federation) -> None:
    """In what is sent for charters, which is not encrypted for anybody."""
    ready = Session._charter

    def telling(self: Session, request: Parcel) -> Parcel:
        reply = ready(self, request)
        return Parcel(reply.kind, json.dumps({"labels": WORDS}).encode(), reply.body)

    patch.setattr(Session, "_charter", telling)


PLANTED: dict[Meddle, tuple[str, str]] = {
    shown_chains: ("key chains", "objects"),
    shown_identity: ("key material", "objects"),
    shown_terms: ("contribution", "objects"),
    shown_answers: ("shares", "objects"),
    logged_secret: ("training secrets", "log"),
    journaled_key: ("key material", "coordinator's files"),
    told_lanes: ("contribution", "department events"),
    logged_count: ("counts of rows", "log"),
    printed_score: ("scores", "results"),
    quoted_row: ("rows", "log"),
    quoted_target: ("targets", "wire"),
}


def test_secrets_that_are_said_on_purpose_are_heard_where_they_were_said(tmp_path):
    """All of them in one run, each told apart by what it is and where it was heard."""
    with overheard(tmp_path / "meddled", *PLANTED) as (ear, witness):
        found = ear.found(witness.needles)
    missed = {meddle.__name__ for meddle, (what, where) in PLANTED.items() if where not in found.get(what, set())}
    assert missed == set()


SECRET = bytes(range(100, 132))


@pytest.mark.parametrize(
    "said",
    [
        SECRET,
        SECRET.hex(),
        SECRET.hex().upper(),
        SECRET.hex(":"),
        base64.urlsafe_b64encode(b"x" + SECRET).decode(),
        repr(SECRET),
        str({"key": SECRET, "of": "ash"}),
        repr(bytearray(SECRET)),
        repr(list(SECRET)),
        repr(tuple(SECRET)),
        json.dumps({"key": list(SECRET)}),
        repr(np.frombuffer(SECRET, np.uint8)),
        repr(np.frombuffer(SECRET, "<u2")),
        str(np.frombuffer(SECRET, "<u8")),
        str(int.from_bytes(SECRET, "big")),
        str(int.from_bytes(SECRET, "little")),
        base64.b64encode(SECRET).decode(),
        base64.b64encode(b"x" + SECRET).decode(),
        base64.b64encode(b"xy" + SECRET).decode(),
        json.dumps(np.frombuffer(SECRET, "<f8").tolist()),
        repr(np.frombuffer(SECRET, "<f4").tolist()),
        str(PeerError(f"the share was {SECRET[:16]!r}")),
    ],
)
def test_a_secret_is_heard_however_it_is_spelled(said):
    text = said if isinstance(said, bytes) else said.encode()
    witness = Witness()
    witness.needles.add("key material", SECRET)
    assert witness.needles.found_in(spellings(b"round 3 began with " + text + b", it says")) != {}
    assert witness.needles.found_in(spellings(b"round 3 began with " + bytes(40) + b", it says")) == {}


def test_a_count_is_heard_as_a_number_of_its_own():
    assert 1733 in whole_numbers(b"{'rows': 1733, 'epochs': 2}")
    assert 1733 not in whole_numbers(b"at 17.1733, in 21733 bytes, digest a1733f")
