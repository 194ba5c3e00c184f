"""A deployed round of five departments and 10^7 parameters, masked, and the same federation in the clear.

Both sides are processes on this machine that train the same backbone on the same few rows, over the same Flower links
with TLS.  The masked one is the program itself: ``coordinator up`` and ``department up``, with every durable write.
The one in the clear exists for this comparison alone: departments answer with their terms as float32, the coordinator
adds them up, and nothing but the new backbone is stored.  It cannot be reached from any command.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.data import DataConfig
from commonroot.client.folder import DepartmentFolder
from commonroot.client.learner import DepartmentLearner
from commonroot.client.session import Local
from commonroot.common.charter import Charter, SignedCharter
from commonroot.common.errors import RunStopped
from commonroot.common.manifest import flatten, unflatten
from commonroot.common.parcel import MASKED, ROUND_OPEN, Parcel
from commonroot.console import stop_on_signals
from commonroot.server.backbones import BackboneStore
from commonroot.server.exchange import Exchange
from commonroot.server.flower_links import FlowerLinks
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.superlink import SuperLink
from commonroot.simulations.bench import Row
from commonroot.simulations.founding import Federation, found, write_table
from commonroot.simulations.processes import Processes, free_port, processes
from commonroot.strategies import build

_LIMIT: Final = 300.0
_NAMES: Final = ("north", "south", "west", "east", "centre")
_INPUTS: Final = 1000
#: 1,000 · 2,500 + 2,500 + 2,500 · 3,000 + 3,000 = 10,005,500 parameters.
_WIDTHS: Final = (2500, 3000)


def deployed_rows(rounds: int, inputs: int = _INPUTS, widths: tuple[int, ...] = _WIDTHS) -> list[Row]:
    """Median seconds of a round, masked and in the clear, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        federation = found(
            root,
            federation="deployed",
            charter_toml=_charter(rounds, inputs, widths),
            departments=_tables(root, inputs),
            port=free_port(),
        )
        parameters = federation.charter.charter.backbone.parameters()
        # In the clear before and after, so that a machine that gets slower or faster does so for both.
        before = clear_seconds(federation, rounds)
        masked = statistics.median(masked_seconds(federation, rounds))
        clear = statistics.median(before + clear_seconds(federation, rounds))
    of = f"{len(_NAMES)} departments, {parameters:,} parameters, TLS on loopback"
    return [
        Row(
            f"deployed secure round ÷ the same in the clear, {of}: wall time",
            masked / clear,
            "<=",
            1.15,
            None,
            f"{masked - clear:.1f} s of {masked:.1f} s: masks, durable writes before each step, one more exchange",
        ),
        Row(f"deployed secure round, {of}: median seconds", masked),
        Row(f"the same federation in the clear, {of}: median seconds", clear),
    ]


def _charter(rounds: int, inputs: int, widths: tuple[int, ...]) -> str:
    return f"""\
federation = "deployed"
name = "deployed"
rounds = {rounds}
method = {{ name = "fedper" }}
backbone = {{ inputs = {inputs}, widths = {list(widths)} }}
"""


def _tables(root: Path, inputs: int) -> dict[str, DataConfig]:
    random = np.random.default_rng(1)
    sections = {}
    for name in _NAMES:
        x = random.normal(size=(40, inputs))
        path = root / f"{name}.npz"
        write_table(path, x, np.where(x[:, 0] > 0, "up", "down"))
        sections[name] = DataConfig(path=path, target="y", task="binary")
    return sections


def masked_seconds(federation: Federation, rounds: int) -> list[float]:
    """From one round's end to the next one's."""
    journal = federation.coordinator.journal()
    try:
        journal.queue(federation.charter)
        with processes(federation.root / "logs") as running:
            running.start_coordinator(federation.coordinator.root)
            for name, department in federation.departments.items():
                running.start_department(name, department.root)

            def ended() -> list[float]:
                return [r.ended for r in journal.rounds() if r.state == "closed" and r.ended]

            _until(running, lambda: len(ended()) >= rounds)
            return [after - before for before, after in pairwise(ended())]
    finally:
        journal.close()


def clear_seconds(federation: Federation, rounds: int) -> list[float]:
    """The same for a federation that hides nothing."""
    told = federation.root / "clear.jsonl"
    told.write_text("")
    with processes(federation.root / "logs") as running:
        this = "commonroot.simulations.bench_secure_sum_deployed"
        coordinator = str(federation.coordinator.root)
        running.start(
            "clear", "coordinator", coordinator, str(federation.charter_path), str(rounds), str(told), module=this
        )
        for name, department in federation.departments.items():
            running.start(name, "department", str(department.root), str(federation.charter_path), module=this)
        _until(running, lambda: len(told.read_text().splitlines()) >= rounds)
    ended = [json.loads(line)["ended"] for line in told.read_text().splitlines()]
    return [after - before for before, after in pairwise(ended)]


def _until(running: Processes, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT
    while not done():
        running.check()
        if time.monotonic() > deadline:
            raise RunStopped(f"the deployed rounds took longer than {_LIMIT:.0f} s")
        time.sleep(0.5)


# -- the federation in the clear ---------------------------------------------------------------------------------------


def serve_department(root: Path, charter_path: Path) -> None:
    """Train when asked; answer with the terms as float32."""
    import torch

    from commonroot.client.node import FlowerNode

    torch.set_num_threads(1)
    stop = threading.Event()
    stop_on_signals(stop)
    folder = DepartmentFolder(root)
    charter = _read_charter(charter_path)
    learner = DepartmentLearner(root, folder.config.name, folder.data, folder.secret())
    local: list[Local | None] = [None]

    def handle(request: Parcel) -> Parcel:
        received = unflatten(request.body, charter.broadcast)
        version = int.from_bytes(request.head, "big")
        trained = learner.train(charter, received, version, local[0])
        local[0] = trained.local
        flat = np.concatenate([np.ravel(trained.terms[t.name]) for t in charter.manifest.terms], dtype=np.float32)
        return Parcel(MASKED, b"", flat.data)

    FlowerNode(folder.config.coordinator, folder.ca, folder.node_key).serve(handle, stop)


def serve_coordinator(root: Path, charter_path: Path, rounds: int, told: Path) -> None:
    """Broadcast, add up, combine, store; one line when a round has ended."""
    stop = threading.Event()
    stop_on_signals(stop)
    folder = CoordinatorFolder(root)
    roster, charter = folder.roster(), _read_charter(charter_path)
    strategy, everybody = build(charter), range(len(roster.departments))
    state = strategy.initial(charter)
    backbones = BackboneStore(root / "in-the-clear")
    terms = charter.manifest.terms
    hub = SuperLink(
        root / "links-in-the-clear",
        folder.config.host,
        folder.config.port,
        folder.server_certificate,
        folder.server_key,
    )
    with hub:
        for member in roster.departments:
            hub.register(member.node_key, member.name)
        with FlowerLinks(hub) as links:
            exchange = Exchange(links, roster, time.monotonic, absence=60.0, stop=stop)
            while len(exchange.present()) < len(everybody):
                exchange.pause(0.1)
                stop.wait(0.1)
            for version in range(rounds):
                request = Parcel(ROUND_OPEN, version.to_bytes(4, "big"), flatten(state, charter.broadcast))
                total = np.zeros(sum(term.size for term in terms), dtype=np.float32)
                exchange.ask(dict.fromkeys(everybody, request), seconds=_LIMIT, accept=partial(_add, total))
                sums, at = {}, 0
                for term in terms:
                    sums[term.name] = total[at : at + term.size].reshape(term.shape).astype(np.float64)
                    at += term.size
                state = strategy.combine(charter, state, sums)
                backbones.write(1, version + 1, state)
                with told.open("a") as lines:
                    lines.write(json.dumps({"ended": time.time()}) + "\n")
            stop.wait()


def _add(total: NDArray[np.float32], _who: int, reply: Parcel) -> bool:
    np.add(total, np.frombuffer(reply.body, dtype="<f4"), out=total)
    return False


def _read_charter(path: Path) -> Charter:
    return SignedCharter.from_json(path.read_bytes()).charter


if __name__ == "__main__":
    if sys.argv[1] == "department":
        serve_department(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        serve_coordinator(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
