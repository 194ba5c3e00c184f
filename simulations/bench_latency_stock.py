"""Flower's own deployment, timed: the peer of our latency benchmark.

A SuperLink, three SuperNodes and the stock ``FedAvg`` on a numpy model, each in the processes that Flower starts for
it, over TLS on loopback, train and evaluate in every round, started with ``flwr run``.  Nothing is tuned and nothing of
ours is in it but the certificates.  The clock is a stock hook: Flower calls ``evaluate_fn`` once before the first round
and once after each.
"""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import httpx

from commonroot.common.errors import ProcessDied, RunStopped
from commonroot.server import pki
from commonroot.simulations.processes import free_port

#: Nothing takes longer than this, in seconds.
LIMIT: Final = 180.0

_PYPROJECT: Final = """\
[project]
name = "stock"
version = "1.0.0"
description = "plain FedAvg on a numpy vector"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "stock.server_app:app"
clientapp = "stock.client_app:app"
[tool.flwr.app.config]
rounds = {rounds}
parameters = {parameters}
nodes = {nodes}
clock = "{clock}"
"""

_CONFIG: Final = """\
[superlink]
default = "stock"
[superlink.stock]
address = "{address}"
root-certificates = "{ca}"
"""

_SERVER_APP: Final = '''\
"""Plain FedAvg; after every round a line with the time."""
import time
import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config

    def tick(server_round, arrays):
        with open(config["clock"], "a") as clock:
            clock.write(f"{time.time()}\\n")

    nodes = int(config["nodes"])
    strategy = FedAvg(
        fraction_train=1.0, fraction_evaluate=1.0,
        min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes,
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(int(config["parameters"]), dtype=np.float32)]),
        num_rounds=int(config["rounds"]),
        evaluate_fn=tick,
    )
'''

_CLIENT_APP: Final = '''\
"""One step towards one, and how far away that is."""
import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message: Message, context: Context) -> Message:
    model = message.content["arrays"].to_numpy_ndarrays()[0]
    model = model + 0.1 * (1 - model)
    metrics = MetricRecord({"num-examples": 60, "loss": float(np.mean((1 - model) ** 2))})
    return Message(RecordDict({"arrays": ArrayRecord([model]), "metrics": metrics}), reply_to=message)

@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    model = message.content["arrays"].to_numpy_ndarrays()[0]
    metrics = MetricRecord({"num-examples": 60, "loss": float(np.mean((1 - model) ** 2))})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
'''


def stock_round_seconds(rounds: int = 3, nodes: int = 3, parameters: int = 1000) -> list[float]:
    """Seconds of each train-and-evaluate round of a stock Flower deployment on this machine.

    Everything happens in a temporary folder, and every process is gone at the end.
    Raises  ProcessDied: a process ended by itself; RunStopped: it took longer than :data:`LIMIT` seconds
    """
    deadline = time.monotonic() + LIMIT
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        root = Path(folder)
        clock = root / "clock"
        ca, ca_key = pki.make_authority(root / "tls", "stock")
        certificate, key = pki.make_server_certificate(
            root / "tls", ["127.0.0.1", "localhost"], ca_certificate=ca, ca_key=ca_key
        )
        tls = ["--ssl-ca-certfile", str(ca), "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
        port = free_port()
        address = f"127.0.0.1:{port}"
        deployment = [
            running.enter_context(_process(root, "superlink", "--host", "127.0.0.1", "--port", str(port), *tls))
        ]
        _wait_until_healthy(f"https://{address}/health", ca, deployment, deadline)
        for number in range(nodes):
            own = ["--host", "127.0.0.1", "--port", str(free_port())]
            arguments = ["--superlink", address, "--root-certificates", str(ca), *own, *tls]
            deployment.append(running.enter_context(_process(root, "supernode", *arguments, log=f"supernode-{number}")))
        _submit(root, _application(root, rounds, nodes, parameters, clock), address, ca)
        while len(ticks := clock.read_text().split() if clock.exists() else []) < rounds + 1:
            _check(deployment, deadline)
            time.sleep(0.2)
    times = [float(tick) for tick in ticks]
    return [after - before for before, after in pairwise(times)]


def _application(root: Path, rounds: int, nodes: int, parameters: int, clock: Path) -> Path:
    app = root / "app"
    package = app / "stock"
    package.mkdir(parents=True)
    (app / "pyproject.toml").write_text(
        _PYPROJECT.format(rounds=rounds, nodes=nodes, parameters=parameters, clock=clock)
    )
    (package / "__init__.py").write_text("")
    (package / "server_app.py").write_text(_SERVER_APP)
    (package / "client_app.py").write_text(_CLIENT_APP)
    return app


def _submit(root: Path, app: Path, address: str, ca: Path) -> None:
    """``flwr run``, with its configuration in the temporary folder instead of the user's home."""
    home = root / "flwr"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(_CONFIG.format(address=address, ca=ca))
    run = subprocess.run(
        [str(_program("flwr")), "run", str(app), "stock"],
        env=_environment(root),
        cwd=root,
        capture_output=True,
        text=True,
        timeout=LIMIT / 3,
        check=False,
    )
    if run.returncode:
        raise RunStopped(f"flwr run ended with {run.returncode}: {(run.stdout + run.stderr).strip()[-300:]}")


def _program(name: str) -> Path:
    """A program of Flower's in this interpreter's environment."""
    return Path(sys.executable).with_name(name)


def _environment(root: Path) -> dict[str, str]:
    return {
        **os.environ,
        "FLWR_HOME": str(root / "flwr"),
        "PATH": f"{_program('flwr').parent}{os.pathsep}{os.environ.get('PATH', '')}",  # it starts its helpers by name
        "NO_PROXY": "127.0.0.1,localhost",
    }


@contextlib.contextmanager
def _process(root: Path, kind: str, *arguments: str, log: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """One of Flower's programs, from this interpreter's environment, with everything it starts gone at the end."""
    with (root / f"{log or kind}.log").open("wb") as output:
        command = [str(_program(f"flower-{kind}")), *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=_environment(root), cwd=root)
        try:
            yield process
        finally:
            family = [process.pid, *_descendants(process.pid)]
            for pid in reversed(family):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _descendants(pid: int) -> list[int]:
    """Every process below this one, parents first; Flower starts its own in sessions of their own."""
    found: list[int] = []
    try:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                found += [child, *_descendants(child)]
    except OSError:
        return found  # it ended while we looked
    return found


def _wait_until_healthy(url: str, ca: Path, deployment: list[subprocess.Popen[bytes]], deadline: float) -> None:
    with httpx.Client(verify=ssl.create_default_context(cafile=str(ca)), trust_env=False) as client:
        while True:
            _check(deployment, deadline)
            with contextlib.suppress(httpx.TransportError):
                if client.get(url).status_code == 200:
                    return
            time.sleep(0.2)


def _check(deployment: list[subprocess.Popen[bytes]], deadline: float) -> None:
    for number, process in enumerate(deployment):
        if process.poll() is not None:
            raise ProcessDied(f"Flower's {'supernode' if number else 'superlink'} ended with {process.returncode}")
    if time.monotonic() > deadline:
        raise RunStopped(f"Flower's deployment took longer than {LIMIT:.0f} s")
