"""Apple's ``pfl`` on a job of ``bench simulation``: its federated averaging on PyTorch, its workers over gloo.

Granqvist et al., 2024, arXiv:2404.06430.  Users' rows stay in memory, nothing is evaluated.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from commonroot.common.errors import ProcessDied
from commonroot.simulations.bench_simulation_world import CLIP, DECAY, MOMENTUM, RATE, Job, now, say


class _Net(nn.Module):
    """The network with the two methods that ``pfl`` asks for."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def loss(self, x: Tensor, y: Tensor, eval: bool = False) -> Tensor:
        return nn.functional.cross_entropy(self.net(x), y)

    def metrics(self, x: Tensor, y: Tensor, eval: bool = False) -> dict[str, Any]:
        return {}


def _worker(job: Job) -> None:
    torch.set_num_threads(1)
    # none of it is installed here, but beside the peers, and none of it is typed
    base, hyper = import_module("pfl.algorithm.base"), import_module("pfl.hyperparam.base")
    averaging, simulate = import_module("pfl.algorithm.federated_averaging"), import_module("pfl.aggregate.simulate")
    callbacks, datasets = import_module("pfl.callback.base"), import_module("pfl.data.dataset")
    federated, sampling = import_module("pfl.data.federated_dataset"), import_module("pfl.data.sampling")
    models, metrics = import_module("pfl.model.pytorch"), import_module("pfl.metrics")

    ended: list[float] = []

    class Clock(cast(type, callbacks.TrainingProcessCallback)):  # type: ignore[misc]
        def after_central_iteration(self, *args: object, **kwargs: object) -> tuple[bool, Any]:
            ended.append(now())
            return False, metrics.Metrics()

    rows = {at: datasets.Dataset(raw_data=job.department(at)) for at in range(job.departments)}
    sampler = sampling.get_user_sampler("minimize_reuse", list(range(job.departments)))
    users = federated.FederatedDataset(rows.__getitem__, sampler)
    net = _Net(job.network())
    model = models.PyTorchModel(
        net,
        lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM, weight_decay=DECAY),
        torch.optim.SGD(net.parameters(), lr=1.0),
    )
    averaging.FederatedAveraging().run(
        base.NNAlgorithmParams(
            central_num_iterations=job.rounds,
            evaluation_frequency=10**9,
            train_cohort_size=job.departments,
            val_cohort_size=None,
        ),
        simulate.SimulatedBackend(training_data=users, val_data=None),
        model,
        hyper.NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=RATE, local_batch_size=job.batch, local_max_grad_norm=CLIP
        ),
        callbacks=[Clock()],
        send_metrics_to_platform=False,
    )
    say(ended)


def main() -> None:
    """``python -m … JOB``, which starts ``python -m … JOB NUMBER`` for every worker; the first one tells."""
    job = Job.read(sys.argv[1])
    if len(sys.argv) > 2:
        _worker(job)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    addresses = ",".join(f"127.0.0.1:{port + at}" for at in range(job.workers))
    command = [sys.executable, "-m", "commonroot.simulations.bench_simulation_pfl", sys.argv[1]]
    workers = [
        subprocess.Popen(
            [*command, str(at)],
            env=os.environ | {"PFL_WORKER_ADDRESSES": addresses, "PFL_WORKER_RANK": str(at)},
            stdout=None if at == 0 else subprocess.DEVNULL,
        )
        for at in range(job.workers)
    ]
    ends = [worker.wait() for worker in workers]
    if any(ends):
        raise ProcessDied("a worker of pfl ended with an error")


if __name__ == "__main__":
    main()
