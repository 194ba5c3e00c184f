"""What large messages take in memory: peaks of the coordinator's and a department's process, over their payload.

The links alone: real processes over TLS, a hub that broadcasts P bytes to each department and adds up replies of P / 2,
which is what a round with 16-bit lanes moves for P / 4 parameters.  Everything that learns or masks is left out; it has
its own accounts.  A process's peak is what the kernel says it was (VmHWM), less what it was with empty hands.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from commonroot.client.data import DataConfig
from commonroot.client.folder import DepartmentFolder
from commonroot.common.errors import RunStopped
from commonroot.common.parcel import MASKED, RUN_CLOSE, Parcel
from commonroot.console import stop_on_signals
from commonroot.machine import give_memory_back
from commonroot.server.exchange import Exchange
from commonroot.server.flower_links import FlowerLinks
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.superlink import SuperLink
from commonroot.simulations.bench import Row
from commonroot.simulations.founding import Federation, found, write_table
from commonroot.simulations.processes import Processes, free_port, processes

OPTIONS: Final = ("megabytes",)
#: Of the broadcast, in 10^6 bytes.
MEGABYTES: Final = 400
DEPARTMENTS: Final = (1, 4)
_NAMES: Final = ("north", "south", "west", "east")
_LIMIT: Final = 1200.0

#: What docs/payload.md promises of large payloads: the broadcast, the sum, one reply being added and, for each
#: department at once, one that arrives; a department holds broadcast and reply.
HUB_BOUND: Final = {1: 3.0, 4: 4.5}
DEPARTMENT_BOUND: Final = 2.0

_CHARTER = """\
federation = "payload"
name = "payload"
rounds = 1
method = { name = "fedper" }
backbone = { inputs = 2, widths = [4] }
"""


def run(console: Console, *, megabytes: int = MEGABYTES) -> list[Row]:
    """Peaks with one department and with four."""
    rows = []
    for count in DEPARTMENTS:
        console.print(f"{count} departments, {megabytes} MB down and half of it up, twice …")
        told = measure(count, megabytes * 1_000_000)
        of = f"{megabytes} MB broadcast, {count} department{'s' if count > 1 else ''}"
        rows += [
            Row(f"coordinator's peak ÷ broadcast, {of}", told["hub"], "<=", HUB_BOUND[count]),
            Row(f"a department's peak ÷ broadcast, {of}", told["department"], "<=", DEPARTMENT_BOUND),
            Row(f"seconds for one exchange, {of}", told["seconds"]),
        ]
    return rows


def measure(count: int, size: int) -> dict[str, float]:
    """Peaks over ``size`` (bytes of the broadcast) of the hub and of the department that took most, and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        federation = _founded(root)
        with processes(root / "logs") as running:
            this = "commonroot.simulations.bench_payload"
            hub = str(federation.coordinator.root)
            running.start("hub", "coordinator", hub, str(count), str(size), str(root / "hub.json"), module=this)
            for name in _NAMES[:count]:
                told = str(root / f"{name}.json")
                running.start(name, "department", str(federation.departments[name].root), told, module=this)
            _until_written(running, [root / "hub.json", *(root / f"{name}.json" for name in _NAMES[:count])])
        found = json.loads((root / "hub.json").read_text())
        departments = [json.loads((root / f"{name}.json").read_text())["peak"] for name in _NAMES[:count]]
    return {"hub": found["peak"] / size, "department": max(departments) / size, "seconds": found["seconds"]}


def _founded(root: Path) -> Federation:
    random = np.random.default_rng(1)
    sections = {}
    for name in _NAMES:
        path = root / f"{name}.npz"
        write_table(path, random.normal(size=(20, 2)), np.where(np.arange(20) % 2, "up", "down"))
        sections[name] = DataConfig(path=path, target="y", task="binary")
    return found(root, federation="payload", charter_toml=_CHARTER, departments=sections, port=free_port())


def _until_written(running: Processes, files: list[Path]) -> None:
    deadline = time.monotonic() + _LIMIT
    while not all(path.exists() for path in files):
        running.check()
        if time.monotonic() > deadline:
            raise RunStopped(f"the exchanges took longer than {_LIMIT:.0f} s")
        time.sleep(0.2)


def peak() -> int:
    """The most that this process ever had in memory, in bytes, as the kernel counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


# -- the processes -----------------------------------------------------------------------------------------------------


def serve_department(root: Path, told: Path) -> None:
    """Answer with half as many bytes as came, and write down the peak when told that it is over."""
    from commonroot.client.node import FlowerNode

    stop = threading.Event()
    stop_on_signals(stop)
    give_memory_back()
    folder = DepartmentFolder(root)
    base = [0]

    def handle(request: Parcel) -> Parcel:
        if request.kind == RUN_CLOSE:
            _write(told, {"peak": peak() - base[0]})
            return Parcel(MASKED)
        if not request.body:
            base[0] = peak()
            return Parcel(MASKED)
        # As much as masked lanes take, and as little alike.
        reply = np.random.default_rng().integers(0, 2**64, len(request.body) // 16, dtype=np.uint64)
        return Parcel(MASKED, b"", reply.view(np.uint8).data)

    FlowerNode(folder.config.coordinator, folder.ca, folder.node_key).serve(handle, stop)


def serve_coordinator(root: Path, count: int, size: int, told: Path) -> None:
    """Broadcast twice, add replies up, and write down the peak."""
    stop = threading.Event()
    stop_on_signals(stop)
    give_memory_back()
    folder = CoordinatorFolder(root)
    roster = folder.roster()
    everybody = [at for at, member in enumerate(roster.departments) if member.name in _NAMES[:count]]
    hub = SuperLink(
        root / "links",
        folder.config.host,
        folder.config.port,
        folder.server_certificate,
        folder.server_key,
        limits=folder.config.limits,
    )
    with hub:
        for member in roster.departments:
            hub.register(member.node_key, member.name)
        with FlowerLinks(hub) as links:
            exchange = Exchange(links, roster, time.monotonic, absence=60.0, stop=stop)
            while len(exchange.present()) < len(everybody):
                exchange.pause(0.1)
                stop.wait(0.1)

            def ask(parcel: Parcel, accept: Any) -> None:
                if exchange.ask(dict.fromkeys(everybody, parcel), seconds=_LIMIT, accept=accept):
                    raise RunStopped("a department did not answer")

            ask(Parcel("open", b"begin"), lambda who, reply: False)
            base = peak()
            total = np.zeros(size // 16 * 4, dtype=np.uint16)

            def add(who: int, reply: Parcel) -> bool:
                np.add(total, np.frombuffer(reply.body, dtype=np.uint16), out=total)
                return False

            began = time.monotonic()
            for _ in range(2):
                ask(Parcel("round-open", b"", np.random.default_rng().bytes(size)), add)
            seconds = (time.monotonic() - began) / 2
            most = peak() - base
            ask(Parcel(RUN_CLOSE, b"end"), lambda who, reply: False)
            _write(told, {"peak": most, "seconds": seconds})
            stop.wait()


def _write(path: Path, facts: dict[str, float]) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(facts))
    beside.replace(path)


if __name__ == "__main__":
    if sys.argv[1] == "department":
        serve_department(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        serve_coordinator(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
