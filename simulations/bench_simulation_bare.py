"""The limit: the local steps of every department and nothing else, in as many processes as everybody has.

No contribution is added, encoded, averaged, stored or journaled; every round begins from the same tensors.  Processes
wait for each other at the end of a round, as whoever needs a sum must.
"""

from __future__ import annotations

import subprocess
import sys

import torch

from commonroot.common.errors import ProcessDied
from commonroot.simulations.bench_simulation_world import Job, now, say, steps


def _share(job: Job, at: int) -> None:
    """One process: a line in, a round, a line out."""
    torch.set_num_threads(1)
    net = job.network()
    first = [tensor.detach().clone() for tensor in net.parameters()]
    mine = [job.department(number) for number in range(at, job.departments, job.workers)]
    for _ in sys.stdin:
        for x, y in mine:
            with torch.no_grad():
                for tensor, value in zip(net.parameters(), first, strict=True):
                    tensor.copy_(value)
            steps(net, x, y, job.batch)
        print("done", flush=True)


def main() -> None:
    """``python -m … JOB``, which starts ``python -m … JOB NUMBER`` for every worker."""
    job = Job.read(sys.argv[1])
    if len(sys.argv) > 2:
        _share(job, int(sys.argv[2]))
        return
    command = [sys.executable, "-m", "commonroot.simulations.bench_simulation_bare", sys.argv[1]]
    workers = [
        subprocess.Popen([*command, str(at)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for at in range(job.workers)
    ]
    ended = []
    for _ in range(job.rounds):
        for worker in workers:
            if worker.stdin is not None:
                worker.stdin.write("go\n")
                worker.stdin.flush()
        for worker in workers:
            if worker.stdout is None or worker.stdout.readline() != "done\n":
                raise ProcessDied("a worker of the bare loop ended")
        ended.append(now())
    for worker in workers:
        worker.communicate()
    say(ended)


if __name__ == "__main__":
    main()
