"""Flower's simulation on a job of ``bench simulation``: its FedAvg, and a client as its own examples write it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from commonroot.common.errors import ProcessDied
from commonroot.simulations.bench_simulation_world import Job, now, say, steps

app = ClientApp()


@lru_cache(maxsize=2000)
def _rows(text: str, at: int) -> tuple[Tensor, Tensor]:
    return Job.read(text).department(at)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Load the model, train it on this node's rows, and send it back."""
    torch.set_num_threads(1)
    text = str(message.content.config_records["config"]["job"])
    job = Job.read(text)
    net = job.network()
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    x, y = _rows(text, int(context.node_config["partition-id"]))
    steps(net, x, y, job.batch)
    arrays, metrics = ArrayRecord(net.state_dict()), MetricRecord({"num-examples": len(x)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


class _Timed(FedAvg):
    """FedAvg that notes when a round has been added up."""

    def __init__(self, departments: int, ended: list[float]) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=departments, min_available_nodes=departments)
        self._ended = ended

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """As it is, and the moment."""
        replies = list(replies)
        if len(replies) < self.min_train_nodes or any(reply.has_error() for reply in replies):
            raise ProcessDied("a node of Flower's failed in a round")
        found = super().aggregate_train(server_round, replies)
        self._ended.append(now())
        return found


def main() -> None:
    """``python -m … JOB``."""
    from flwr.app import ConfigRecord
    from flwr.simulation import run_simulation

    from commonroot.simulations.bench_simulation_flower import app as importable  # for its workers, by its name

    job, ended = Job.read(sys.argv[1]), list[float]()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        _Timed(job.departments, ended).start(
            grid,
            ArrayRecord(job.network().state_dict()),
            num_rounds=job.rounds,
            train_config=ConfigRecord({"job": sys.argv[1]}),
        )

    start: dict[str, Any] = {"num_cpus": job.workers, "logging_level": logging.ERROR, "log_to_driver": False}
    run_simulation(
        server_app,
        importable,
        num_supernodes=job.departments,
        backend_config={"init_args": start, "client_resources": {"num_cpus": 1, "num_gpus": 0}},
    )
    say(ended)


if __name__ == "__main__":
    main()
