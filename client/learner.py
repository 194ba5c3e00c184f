"""A department's learning half: its rows, its head, its models, behind the three calls that a session makes."""

from __future__ import annotations

from pathlib import Path

from commonroot.client.data import DataConfig, Prepared, prepare
from commonroot.client.session import Local, Tensors, Trained
from commonroot.client.trainer import Trainer
from commonroot.common.charter import Charter
from commonroot.common.secure_sum.primitives import derive
from commonroot.strategies import build


class DepartmentLearner:
    """Reads the data once, trains when asked, and at the end chooses what is best for this department.

    root     the department's folder; data paths are relative to it
    secret   32 bytes that only this department holds; with the charter they decide every random choice of training
    """

    def __init__(self, root: Path, name: str, data: DataConfig, secret: bytes) -> None:
        self._root = root
        self._name = name
        self._data = data
        self._secret = secret
        self._prepared: dict[int, Prepared] = {}

    def check(self, charter: Charter) -> None:
        """Raise DataError or ConfigError, naming every problem, where the data does not fit the charter."""
        trainer = self._trainer(charter)
        received = build(charter).initial(charter)
        trainer.net(received, trainer.start())

    def train(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> Trained:
        """Carry out the strategy's plan on the training rows."""
        strategy = build(charter)
        trainer, rows = self._trainer(charter), self._rows(charter)
        private = trainer.start() if local is None else {name: array for name, array in local.items()}
        trained = trainer.train(
            strategy.plan(charter), received, private, rows.train, rows.validation, version=version
        )
        return Trained(strategy.contribute(charter, received, trained.result), trained.private)

    def _rows(self, charter: Charter) -> Prepared:
        inputs = charter.backbone.inputs
        if inputs not in self._prepared:
            self._prepared[inputs] = prepare(self._data, folder=self._root, inputs=inputs)
        return self._prepared[inputs]

    def _trainer(self, charter: Charter) -> Trainer:
        strategy = build(charter)
        seed = int.from_bytes(derive(self._secret, "training", charter.digest))
        return Trainer(charter, self._rows(charter).task, seed, strategy.shares_head)
def read_report(folder): ...
