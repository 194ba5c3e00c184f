"""Flower's simulation started from this process, with workers (Ray) on this machine or on a cluster that is up.

With ``RAY_ADDRESS`` in the environment Ray joins that cluster and takes as many workers as it has cores; all of its
machines need this package, and the folder of the simulation and the data under the same paths.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from commonroot.common.errors import ConfigError, ProcessDied
from commonroot.simulations.engine.workers import Hire
from commonroot.simulations.flower_app.client import app as client_app
from commonroot.simulations.flower_app.crews import hire_on

T = TypeVar("T")

INSTALL: Final = "pip install 'commonroot[flower-simulation]'"
#: Messages of a round and worker: few cost little, and several let workers that are done early take another.
_SHARES: Final = 4
#: Seconds in which the rounds notice that Flower has stopped.
_NOTICE: Final = 10.0


def under_flower(body: Callable[[Hire], T], *, departments: int, workers: int) -> T:
    """What ``body`` returns, which is run as a ServerApp and given Flower's workers.

    Raises ConfigError where Ray is missing, what ``body`` raises, and ProcessDied where Flower ends before it.
    """
    refuse_without_ray()
    from flwr.simulation import run_simulation

    stopped, ended = threading.Event(), threading.Event()
    done: list[T] = []
    wrong: list[BaseException] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            done.append(body(hire_on(grid, stopped)))
        except BaseException as error:  # told by the thread that waits
            wrong.append(error)
        finally:
            ended.set()

    died: Exception | None = None
    with _as_it_was(), _quietly():
        try:
            run_simulation(
                server_app,
                client_app,
                num_supernodes=min(departments, _SHARES * workers),
                backend_config=_backend(workers),
            )
        except Exception as error:  # Flower makes a bare RuntimeError of everything
            died = error
        finally:
            stopped.set()
            ended.wait(_NOTICE)
    if wrong and not (died is not None and isinstance(wrong[0], ProcessDied)):
        raise wrong[0]
    if died is not None or not done:
        why = died.__cause__ or died if died is not None else "it ended before the rounds did"
        raise ProcessDied(f"Flower's simulation stopped: {why}", hint="what it wrote above says more") from died
    return done[0]


def refuse_without_ray() -> None:
    """Raise ConfigError where Ray, which Flower's simulation runs on, is not installed."""
    if find_spec("ray") is None:
        raise ConfigError("Flower's simulation engine needs ray, which is not installed", hint=INSTALL)


def _backend(workers: int) -> dict[str, dict[str, Any]]:
    start: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if "RAY_ADDRESS" not in os.environ:
        start["num_cpus"] = workers
    return {"init_args": start, "client_resources": {"num_cpus": 1, "num_gpus": 0}}


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Flower writes its module path into this process's environment."""
    before = os.environ.get("PYTHONPATH")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Flower's own progress, which a person who ran ``simulate`` did not ask for; its errors are kept."""
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
