"""A federation small enough for a test: real folders, keys, stores, journal and rounds; only the learning is a toy.

Founding makes keys and certificates, which takes a moment, so it is done once for each shape and copied: a test gets
folders of its own that no other test writes to.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from commonroot.client.data import DataConfig
from commonroot.client.folder import DepartmentFolder
from commonroot.client.session import Session, Trained
from commonroot.client.store import DepartmentStore
from commonroot.common import parcel
from commonroot.common.charter import Charter, SignedCharter
from commonroot.common.ledger import verify
from commonroot.common.messages import Shares
from commonroot.common.parcel import Parcel
from commonroot.server.exchange import Exchange
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.introductions import Introductions
from commonroot.server.journal import Journal
from commonroot.simulations.federation import SimulatedFederation
from commonroot.simulations.founding import Federation, found, write_table
from commonroot.simulations.network import Crossing, MemoryNetwork, Weather, lie
from commonroot.strategies import build
from commonroot.strategies.base import LocalResult

NAMES = ("ash", "birch", "cedar", "dogwood", "elm")
ROWS = {"ash": 60, "birch": 83, "cedar": 41, "dogwood": 52, "elm": 47}
#: More than a complete graph holds: t_c = 4, m = 32, tau = 19, k = 24, and half of them, 17, must survive.
MANY = tuple(f"site-{at:02}" for at in range(34))
ROWS |= dict.fromkeys(MANY, 50)
INPUTS = 6

CHARTER = """\
federation = "grove"
name = "small"
rounds = {rounds}

[method]
name = "fedper"

[backbone]
inputs = 6
widths = {widths}

[training]
batch = 16

[timing]
gather = 20
upload = 30
opening = 15
absence = 10
closing = 40
attempts = {attempts}
"""


@functools.cache
def _template(names: tuple[str, ...], rounds: int, attempts: int, widths: tuple[int, ...], ready: str) -> Path:
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    sections = {name: data_section(name) for name in names}
    toml = CHARTER.format(rounds=rounds, attempts=attempts, widths=list(widths))
    toml = toml.replace("\n[method]", f'ready = "{ready}"\n\n[method]', 1)
    made = found(root, federation="grove", charter_toml=toml, departments=sections)
    for at, name in enumerate(names):
        write_table(made.departments[name].root / "rows.npz", *table(at, ROWS[name], sections[name].task))
    made.coordinator.journal().close()  # so that it is there before anything is compared with before
    return root


def data_section(name: str) -> DataConfig:
    """Two kinds of task, so that heads differ in shape; the table lies in the department's own folder."""
    task = "regression" if name == "cedar" else "binary"
    return DataConfig(path=Path("rows.npz"), target="y", task=task, seed=7)


def table(seed: int, rows: int, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows that something can be learned from: the target is a linear rule of the columns."""
    random = np.random.default_rng([20, seed])
    x = random.normal(size=(rows, INPUTS)) * 3.7
    score = x @ random.normal(size=INPUTS) + random.normal(size=rows)
    return x, score if task == "regression" else np.where(score > 0, f"accepted-{seed}", f"rejected-{seed}")


def founded(
    root: Path,
    *,
    departments: int = 3,
    rounds: int = 3,
    attempts: int = 3,
    widths: tuple[int, ...] = (8, 4),
    ready: str = "auto",
) -> Federation:
    """A founded federation with folders of its own under ``root``."""
    names = NAMES[:departments] if departments <= len(NAMES) else MANY[:departments]
    shutil.copytree(_template(names, rounds, attempts, widths, ready), root, dirs_exist_ok=True)
    return opened(root)


def opened(root: Path) -> Federation:
    """The federation that lies under ``root``."""
    coordinator = CoordinatorFolder(root / "coordinator")
    names = [member.name for member in coordinator.roster().departments]
    path = next((root / "coordinator" / "charters").glob("*.json"))
    departments = {name: DepartmentFolder(root / "departments" / name) for name in names}
    return Federation(root, coordinator, departments, SignedCharter.from_json(path.read_bytes()), path)


def move_to_port(federation: Federation, port: int) -> None:
    """Let coordinator and departments meet at another port of this machine."""
    for folder in (federation.coordinator, *federation.departments.values()):
        for path in folder.root.glob("*.toml"):
            text = (
                path.read_text().replace("127.0.0.1:9443", f"127.0.0.1:{port}").replace("port = 9443", f"port = {port}")
            )
            path.write_text(text)


class ToyLearner:
    """Learning without data: what comes out is a function of the department, the version and what went in.

    The head after a version is half the head before plus something new, so a head that was lost, trained twice or taken
    from the wrong version shows in every later one.
    """

    def __init__(self, root: Path, name: str, *, reach: float = 0.1) -> None:
        self.root, self.name, self.reach = root, name, reach
        self.seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        #: What was handed to the secure sum, by version.
        self.contributed: dict[int, dict[str, np.ndarray]] = {}
        self.finished = 0

    def check(self, charter: Charter) -> None:
        """Everything fits."""

    def train(self, charter: Charter, received: Any, version: int, local: Any) -> Trained:
        random = np.random.default_rng([self.seed, version])
        shared = {k: (v + self.reach * random.standard_normal(v.shape)).astype(np.float32) for k, v in received.items()}
        result = LocalResult(shared, ROWS[self.name], 0.5 + random.random(), 0.5 + random.random())
        terms = build(charter).contribute(charter, received, result)
        before = np.zeros(5, np.float32) if local is None else local["head/weight"]
        self.contributed[version] = terms
        return Trained(terms, {"head/weight": 0.5 * before + random.standard_normal(5).astype(np.float32)})

    def finish(self, charter: Charter, received: Any, version: int, local: Any) -> str:
        self.finished += 1
        name = f"{charter.digest.hex()[:16]}-version-{version}"
        folder = self.root / "predictors" / name
        folder.mkdir(exist_ok=True)
        (folder / "head").write_bytes(b"first" if local is None else local["head/weight"].tobytes())
        return name


class ToyFederation(SimulatedFederation):
    """The simulated federation with toy learners, whose departments' handlers a test may stand in front of."""

    def __init__(self, federation: Federation, network: MemoryNetwork, **options: Any) -> None:
        super().__init__(federation, network, **options)
        self.learners = {name: ToyLearner(folder.root, name) for name, folder in federation.departments.items()}
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.front: Callable[[str, Callable[[Parcel], Parcel]], Callable[[Parcel], Parcel]] = lambda name, handle: (
            handle
        )

    def start(self, name: str) -> None:
        folder = self.federation.reopen(name)
        store = DepartmentStore(folder.root, federation="grove", department=name, owner=True)
        self._stores[name] = store
        session = Session(
            roster=folder.roster(),
            identity=folder.identity(),
            secret=folder.secret(),
            store=store,
            learner=self.learners[name],
            approved=folder.approved,
            random=self._random,
            on_event=lambda kind, facts: self.events.append((name, kind, facts)),
        )
        self.sessions[name] = session
        self.network.attach(self._keys[name], name, self.front(name, session.handle))

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Facts of every event of a kind, whichever department it came from."""
        return [facts for _, what, facts in self.events if what == kind]

    def __enter__(self) -> ToyFederation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def running(root: Path, *, network: MemoryNetwork | None = None, **shape: Any) -> ToyFederation:
    """A founded federation, all departments up and a run queued."""
    at_work = ToyFederation(founded(root, **shape), network or MemoryNetwork())
    at_work.start_all()
    at_work.queue()
    return at_work


def trained(federation: Federation) -> Federation:
    """The same federation after a whole run with the real learner, calm weather and all departments up."""
    from commonroot.simulations.federation import SimulatedFederation

    at_work = SimulatedFederation(federation, MemoryNetwork())
    at_work.start_all()
    at_work.queue()
    at_work.run()
    at_work.close()
    return federation


def last_seen(kind: str) -> tuple[dict[str, Parcel], Weather]:
    """The last parcel of a kind that crossed to or from each department, and the weather that looks."""
    seen: dict[str, Parcel] = {}

    def watch(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind == kind:
            seen[crossing.department] = crossing.parcel
        return None

    return seen, lie(watch)


def undealt_shares(federation: Federation) -> Weather:
    """Ash signs shares that nobody ever dealt to it."""
    key = federation.departments["ash"].identity()

    def other(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.SHARES or crossing.department != "ash":
            return None
        told = Shares.decode(crossing.parcel.head)
        wrong = tuple(bytes(b ^ 0x55 for b in share) for share in told.shares)
        fields = {"transcript": told.transcript, "member": told.member, "opened": told.opened, "shares": wrong}
        return Parcel(parcel.SHARES, Shares.signed(key, **fields).encode())

    return lie(other)


def introduce(at_work: ToyFederation) -> None:
    """Have everybody who is up meet everybody else, as a run does before its first round."""
    coordinator = at_work.federation.coordinator
    exchange = Exchange(at_work.network, coordinator.roster(), at_work.network.clock, absence=10)

    def refused(*about: object) -> None:
        raise AssertionError(about)

    with journal_of(at_work.federation) as journal:
        made = Introductions(
            roster=coordinator.roster(),
            identity=coordinator.identity(),
            journal=journal,
            exchange=exchange,
            on_reply=lambda reply: None,
            on_fault=refused,
            on_exhibit=refused,
            on_event=lambda kind, facts: None,
        )
        made.bring_together(exchange.present(), seconds=30, floor=1)
        assert len(made.cohort(exchange.present())) == len(at_work.sessions)


def versions(federation: Federation) -> list[str]:
    """SHA-256 of every version of the first run's backbone."""
    with journal_of(federation) as journal:
        return [version.digest.hex() for version in journal.versions(1)]


def heads(federation: Federation) -> dict[str, list[bytes]]:
    """The heads that each department still keeps, oldest first."""
    charter = federation.charter.charter.digest.hex()
    out = {}
    for name, folder in federation.departments.items():
        with store_of(folder) as store:
            kept = [store.head_before(charter, version + 1) for version in store.head_versions(charter)]
            out[name] = [b"".join(head[key].tobytes() for key in sorted(head)) for head in kept if head is not None]
    return out


class _Closing:
    """``with`` for things that have ``close``."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __enter__(self) -> Any:
        return self.thing

    def __exit__(self, *_: object) -> None:
        self.thing.close()


def journal_of(federation: Federation) -> _Closing:
    """The coordinator's journal, closed after the block."""
    journal: Journal = federation.coordinator.journal()
    return _Closing(journal)


def store_of(folder: DepartmentFolder) -> _Closing:
    """A department's store, opened beside its daemon as commands do, closed after the block."""
    return _Closing(DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name))


def check_books(federation: Federation) -> None:
    """What must hold after any run, however it went: see the assertions."""
    with journal_of(federation) as journal:
        rounds, run = journal.rounds(), journal.runs()[0]
        made = [r.version for r in rounds if r.state == "closed"]
        assert made == sorted(set(made)), "a version was made twice, or out of order"
        assert len(journal.versions(1)) == len(made) + 1
        if run.state in ("finished", "stopped"):
            # a fixed survivor set is for ever: a stopped run keeps it, and resumed, asks for the same one again
            done = rounds[:-1] if run.state == "stopped" and rounds and rounds[-1].state == "fixed" else rounds
            assert all(r.state in ("closed", "lost") for r in done), "a round was left hanging"
            assert bool(run.reason) == (run.state == "stopped")
    for name, folder in federation.departments.items():
        with store_of(folder) as store:
            entries = store.ledger()
        verify(entries)
        uploads: dict[int, set[str]] = {}
        answers: dict[int, set[str]] = {}
        for entry in entries:
            if entry.kind == "sent" and entry.facts["what"] in ("masked", "shares"):
                into = uploads if entry.facts["what"] == "masked" else answers
                into.setdefault(int(entry.facts["round"]), set()).add(entry.facts["digest"])
        assert all(len(each) == 1 for each in uploads.values()), f"{name} made two uploads for one round"
        assert all(len(each) == 1 for each in answers.values()), f"{name} gave two answers in one round"
        named = {path.name for path in (folder.root / "blobs").iterdir()}
        assert len(named) <= 1 + 3, f"{name} keeps litter: {sorted(named)}"
