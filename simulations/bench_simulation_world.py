"""What every system of ``bench simulation`` runs: the same network, rows of the same shapes, the same local steps.

Departments draw their rows from scikit-learn's handwritten digits, with replacement; for the CNN the 8 × 8 images are
enlarged to 28 × 28.  Departments beyond ``FILES`` read the same files again, with an order of rows of their own.
A job goes to a process of its own as JSON, and comes back as the moments at which rounds ended.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from commonroot.client.data import DataConfig
from commonroot.common.charter import Draft
from commonroot.simulations.engine.sums import Sum
from commonroot.simulations.founding import write_table
from commonroot.simulations.scenario import Department, Scenario

#: Different files of rows at most.
FILES: Final = 200
RATE, MOMENTUM, DECAY, CLIP = 0.05, 0.9, 1e-4, 5.0
_CLASSES: Final = 10
#: Our departments keep this share of their rows for choosing; the others' have only those that train.
_HELD_OUT: Final = 0.2
_TEST: Final = "test.npz"


@dataclass(frozen=True)
class Job:
    """One run of one system.

    steps   local steps of a department in a round, of ``batch`` rows each
    heads   ``shared`` by all, which every system can do; ``private`` is ours alone
    """

    model: Literal["mlp", "cnn"]
    departments: int
    rounds: int
    folder: str
    steps: int = 20
    batch: int = 16
    workers: int = 2
    heads: Literal["shared", "private"] = "shared"
    sum: Sum = "ring"

    @classmethod
    def read(cls, text: str) -> Job:
        """What ``text`` says."""
        return cls(**json.loads(text))

    def text(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @property
    def rows(self) -> int:
        """Rows that a department trains on."""
        return self.steps * self.batch

    # -- rows --------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write the files of rows."""
        from sklearn.datasets import load_digits

        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        pixels, digits = load_digits(return_X_y=True)
        x = (pixels / 16).astype(np.float32) if self.model == "mlp" else _enlarged(pixels)
        every = round(self.rows / (1 - _HELD_OUT))
        for at in range(min(self.departments, FILES)):
            rows = np.random.default_rng([at, 0x73696D]).integers(len(x), size=every)
            write_table(folder / f"{at}.npz", x[rows], digits[rows].astype(str))
        write_table(folder / _TEST, x[:_CLASSES], digits[:_CLASSES].astype(str))  # nobody looks at it

    def department(self, at: int) -> tuple[Tensor, Tensor]:
        """The rows that a department trains on, ready for a network."""
        with np.load(self._file(at), allow_pickle=False) as found:
            x, y = found["X"][: self.rows], found["y"][: self.rows].astype(np.int64)
        x = x if x.dtype == np.float32 else (x.astype(np.float32) / 255)[:, None]
        return torch.from_numpy(x), torch.from_numpy(y)

    def _file(self, at: int) -> Path:
        return Path(self.folder) / f"{at % FILES}.npz"

    # -- the network -------------------------------------------------------------------------------------------------

    def network(self) -> nn.Module:
        """The network that our departments train, as a plain module with the charter's first tensors."""
        from commonroot.client.model import DepartmentModel

        spec = self.draft.network
        torch.manual_seed(1)
        net = DepartmentModel(spec, _CLASSES)
        nn.init.zeros_(net.head.bias)
        nn.init.normal_(net.head.weight, std=0.05)
        first = spec.initial(1)
        head = {name: getattr(net.head, name).detach().numpy().copy() for name in ("weight", "bias")}
        net.load(first, head)
        net.train()
        return net

    # -- ours --------------------------------------------------------------------------------------------------------

    @property
    def draft(self) -> Draft:
        """The charter of our departments."""
        method: dict[str, Any] = {"epochs": 1}
        if self.heads == "shared":
            method |= {"head": "shared", "outputs": _CLASSES}
        backbone: dict[str, Any] = {"inputs": 64, "widths": [64, 32]}
        if self.model == "cnn":
            backbone = {"family": "rescnn", "channels": 1, "height": 28, "width": 28, "stages": [8, 16]}
        return Draft.model_validate(
            {
                "federation": "bench",
                "name": "simulation",
                "rounds": self.rounds,
                "method": {"name": "fedavg", "options": method},
                "backbone": backbone,
                "training": {"batch": self.batch, "learning_rate": RATE, "momentum": MOMENTUM, "weight_decay": DECAY,
                             "gradient_clip": CLIP},
            }
        )  # fmt: skip

    def scenario(self) -> Scenario:
        """The same as a scenario."""
        labels = tuple(str(digit) for digit in range(_CLASSES))
        departments = tuple(
            Department(
                name=f"d{at}",
                data=DataConfig(path=self._file(at), target="y", task="classification", labels=labels,
                                validation=_HELD_OUT, test_path=Path(self.folder) / _TEST, seed=at),
            )
            for at in range(self.departments)
        )  # fmt: skip
        return Scenario(seed=1, sum=self.sum, charter=self.draft, departments=departments)


def steps(net: nn.Module, x: Tensor, y: Tensor, batch: int) -> None:
    """One pass of SGD over a department's rows, as plain as PyTorch has it."""
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    for rows in torch.split(torch.randperm(len(x)), batch):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(net(x[rows]), y[rows]))
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()


def say(ended: list[float]) -> None:
    """Tell the benchmark at what moments (``time.time``) rounds ended; the last line that a process writes."""
    print(json.dumps({"ended": ended}), flush=True)


def now() -> float:
    """A moment that processes of one machine agree on, in seconds."""
    return time.time()


def _enlarged(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(n, 64) of 0 to 16 as (n, 28, 28) of 0 to 255."""
    from PIL import Image

    images = (pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((28, 28), Image.Resampling.BILINEAR)) for one in images])
