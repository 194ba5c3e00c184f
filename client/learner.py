"""A department's learning half: its rows, its head, its models, behind the three calls that a session makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client import evaluated
from commonroot.client.accelerator import failing_plainly
from commonroot.client.alone_memory import AloneMemory, Basis
from commonroot.client.contribution import Local, Tensors, Trained
from commonroot.client.data import DataConfig, Pin, Prepared, prepare
from commonroot.client.gathering import Gatherer, Place, check_gathering, gatherer_for
from commonroot.client.metrics import POINTS
from commonroot.client.own_side import SPLIT, own_backbone, seen_split, side_of
from commonroot.client.shared_statistics import load as load_statistics
from commonroot.client.signature import signature
from commonroot.client.tasks import Task
from commonroot.client.trainer import Private, Trainer
from commonroot.client.unlabelled import check_unlabelled
from commonroot.common.backbone import PretrainedSpec
from commonroot.common.charter import Charter
from commonroot.common.errors import ConfigError
from commonroot.common.secure_sum.primitives import derive
from commonroot.files import atomic_write, read_text
from commonroot.strategies import Gathering, Strategy, build, build_trained, gathers
from commonroot.strategies.clustered import Clustered
from commonroot.strategies.families import family_of
from commonroot.strategies.statistics import Statistics

if TYPE_CHECKING:
    from commonroot.client.leaving import Leaving

REPORT: Final = "report.json"
#: Beside the head: evaluations in a row that spoke against the others, and how many are enough to leave.
AGAINST: Final = "guard/against"
ENOUGH: Final = 3


def alone_seed(secret: bytes) -> int:
    """The seed of everything that a department fits alone, from its 32 bytes for training."""
    return int.from_bytes(derive(secret, "alone"))


class DepartmentLearner:
    """Reads the data once, trains when asked, and at the end chooses what is best for this department.

    root     the department's folder; data paths are relative to it.  None: a check that stores nothing
    secret   32 bytes that only this department holds; with the charter they decide every random choice of training
    pin      store the split at first use under a charter; a mere check does not
    leaves   stop giving where the others do harm (``leaving``)
    tells    let evaluations count, deniably, what this department keeps
    memory   a folder where outputs of models trained alone are kept for other charters on the same rows, or None
    """

    def __init__(
        self,
        root: Path | None,
        name: str,
        data: DataConfig,
        secret: bytes,
        *,
        pin: bool = True,
        leaves: bool = False,
        tells: bool = True,
        memory: Path | None = None,
    ) -> None:
        self._root = root or Path()
        self._stores = root is not None
        self._name = name
        self._data = data
        self._secret = secret
        self._pin = pin
        self._leaves = leaves
        self._tells = tells
        self._memory = None if memory is None else AloneMemory(memory, data)
        self._leaving: dict[bytes, Leaving] = {}
        self._prepared: dict[bytes, Prepared] = {}
        self._gatherers: dict[bytes, Gatherer] = {}
        self._methods: dict[bytes, Strategy | Gathering] = {}
        self._trainers: dict[bytes, Trainer] = {}
        self._signatures: dict[bytes, NDArray[np.float64] | None] = {}

    def check(self, charter: Charter) -> None:
        """Raise DataError or ConfigError, naming every problem, where the data does not fit the charter.

        StatisticsMissing where the charter builds on shared statistics that are not here.
        """
        method = build(charter)
        if gathers(method):
            if not self._data.labelled and not isinstance(method, Statistics):
                raise ConfigError(
                    f"method {method.name!r} gathers from labels, and this department has none",
                    hint="it can take part in methods that share a head",
                )
            check_gathering(charter, method, self._gatherer(charter))
            return
        rows = self._rows(charter)
        check_labels(charter, self._name, rows.task)
        trainer = self._trainer(charter)
        if not rows.labelled:
            check_unlabelled(charter, trainer.form)
        trainer.check(method.initial(charter), rows.train)
        self._facing(charter, method, 0)

    @failing_plainly()
    def train(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> Trained:
        """Carry out the strategy's plan on the training rows, or gather from them."""
        strategy = self._method(charter)
        if gathers(strategy):
            data = self._gatherer(charter).data()
            evaluated.bind(charter, self._root)
            found = strategy.gather(charter, received, data, local or {})
            return Trained(found.terms, found.private)
        trainer, rows = self._trainer(charter), self._rows(charter)
        private = self._private(trainer, local)
        if not rows.labelled and not trainer.form.unlabelled:  # it only receives, and nobody can tell
            return Trained({term.name: np.zeros(term.shape) for term in charter.manifest.terms}, private)
        strategy = self._facing(charter, strategy, version)
        own = own_backbone(charter, strategy, received, local or {})
        trained = trainer.train(strategy.plan(charter), own, private, rows.train, rows.validation, version=version)
        terms = strategy.contribute(charter, received, trained.result)
        # whoever leaves a small side uncovers the others
        if not self._leaves or not rows.labelled or isinstance(strategy, Clustered):
            return Trained(terms, trained.private | seen_split(strategy, received))
        against = self._left(charter, trainer).after(local or {}, received, private, version)
        if against >= ENOUGH:
            terms = {name: np.zeros_like(term) for name, term in terms.items()}
        return Trained(terms, trained.private | {AGAINST: np.array([against], dtype=np.float32)})

    def rows_bytes(self, charter: Charter) -> int:
        """Bytes of the encoded rows that training under this charter holds; reads them where they are not read yet."""
        if gathers(build(charter)):
            return 0
        rows = self._rows(charter)
        return sum(part.x.nbytes + part.y.nbytes for part in (rows.train, rows.validation, rows.test))

    @failing_plainly()
    def finish(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> str:
        """Fine-tune, compare with training alone, choose, store; the name of the predictor's folder.

        Writes ``report.json`` for this department's eyes.  Doing it again after a crash gives the same.
        A gathering keeps what came out in its own way (``gathering``).
        """
        strategy = self._method(charter)
        if gathers(strategy):
            return self._gatherer(charter).finish(received, version)
        return self._conclude(charter, strategy, received, version, local)

    def _conclude(
        self, charter: Charter, strategy: Strategy, received: Tensors, version: int, local: Local | None
    ) -> str:
        from commonroot.client.finish import conclude  # scikit-learn takes its time to load

        prepared, seed = self._rows(charter), self._seed(charter)
        private = self._private(self._trainer(charter), local)
        strategy = self._facing(charter, strategy, version)
        own = own_backbone(charter, strategy, received, local or {})
        found = conclude(charter, strategy, prepared, own, private, secret=seed, basis=self._basis(), version=version)
        name = f"{charter.digest.hex()[:16]}-version-{version}"
        found.predictor.save(self._root / "predictors" / name)
        evaluated.keep(charter, self._root, found.report, secret=seed)
        report = summary(self._name, charter, found.report) | side_of(charter, strategy, received)
        atomic_write(self._root / REPORT, json.dumps(report, indent=2).encode(), mode=0o600)
        return name

    def _left(self, charter: Charter, trainer: Trainer) -> Leaving:
        from commonroot.client.leaving import Leaving  # scikit-learn takes its time to load

        if charter.digest not in self._leaving:
            self._leaving[charter.digest] = Leaving(trainer, self._rows(charter))
        return self._leaving[charter.digest]

    def _rows(self, charter: Charter) -> Prepared:
        """Read under this charter: once, and with the split that it began with."""
        if charter.digest not in self._prepared:
            network = charter.network
            shared = None if charter.statistics is None else load_statistics(self._root, charter.statistics)
            self._prepared[charter.digest] = prepare(
                self._data,
                folder=self._root,
                spec_input=network.input,
                adapter=network.adapter,
                shared=shared,
                checkpoint=network if isinstance(network, PretrainedSpec) else None,
                root=self._root if self._stores else None,
                pin=self._pin_of(charter),
            )
        return self._prepared[charter.digest]

    def _pin_of(self, charter: Charter) -> Pin | None:
        return Pin.of(self._root, charter.digest.hex(), write=self._pin) if self._stores else None

    def _gatherer(self, charter: Charter) -> Gatherer:
        if charter.digest not in self._gatherers:
            place = Place(
                self._root,
                self._name,
                self._data,
                self._seed(charter),
                self._basis(),
                self._root / REPORT,
                stores=self._stores,
                pin=self._pin_of(charter),
                tells=self._tells,
            )
            self._gatherers[charter.digest] = gatherer_for(charter, place)
        return self._gatherers[charter.digest]

    def _trainer(self, charter: Charter) -> Trainer:
        if charter.digest not in self._trainers:
            rows, strategy = self._rows(charter), build_trained(charter).as_department(self._name)
            self._trainers[charter.digest] = Trainer(
                charter,
                rows.task,
                self._seed(charter),
                strategy.shares_head,
                rows.train.x.shape[-1],
                strategy.form(charter),
                labelled=rows.labelled,
            )
        return self._trainers[charter.digest]

    def _method(self, charter: Charter) -> Strategy | Gathering:
        if charter.digest not in self._methods:
            method = build(charter)
            self._methods[charter.digest] = method if gathers(method) else method.as_department(self._name)
        return self._methods[charter.digest]

    def _facing(self, charter: Charter, strategy: Strategy, version: int) -> Strategy:
        """The method at one version, with this department's signature where it asks for one."""
        if not isinstance(strategy, Clustered):
            return strategy
        if charter.digest not in self._signatures:
            rows = self._rows(charter)
            self._signatures[charter.digest] = signature(charter, strategy, rows.task, rows.train)
        return strategy.facing(self._signatures[charter.digest], version)

    def _basis(self) -> Basis:
        return Basis(alone_seed(self._secret), self._memory)

    def _seed(self, charter: Charter) -> int:
        return int.from_bytes(derive(self._secret, "training", charter.digest))

    @staticmethod
    def _private(trainer: Trainer, local: Local | None) -> Private:
        if not local:
            return trainer.start()
        return {
            name: np.asarray(a, np.float32)
            for name, a in local.items()
            if name != AGAINST and not name.startswith(SPLIT)
        }


def check_labels(charter: Charter, name: str, task: Task) -> None:
    """Raise ConfigError where a family's labels are not those of this member's task, in the same order."""
    family = family_of(charter, name)
    labels = getattr(task, "labels", None)
    if family is None or not family.labels or labels == tuple(map(str, family.labels)):
        return
    raise ConfigError(
        f"family {family.name!r} lists {len(family.labels)} labels, and they are not those of this department's task",
        hint="list the same labels in the same order under [data], or have the department left out of the family",
    )


def summary(name: str, charter: Charter, found: dict[str, Any]) -> dict[str, Any]:
    """A department's report in its stable form: the metric as it is (fractions of 1, or an error in its own unit), gain
    and interval in ``unit``: points (1 = 0.01 of a fraction) or % of the error.  Scores, gain and interval
    are None where no test row has a label."""
    scores, gain = found["scores"], found["gain"]
    whole = POINTS if found["unit"] == "points" else 1.0
    kept = found["kept"]

    def score(name: str) -> float | None:
        return scores.get(name, scores["alone"]) / whole if scores else None

    return {
        "name": name,
        "task": found["task"],
        "metric": found["metric"],
        "better": found["better"],
        "unit": found["unit"],
        "n_train": found["rows"]["train"] + found["rows"]["validation"],
        "n_test": found["rows"]["test"],
        "alone": score("alone"),
        "alone_model": found["alone"],
        "federated": score("federated"),
        "chosen": score(kept),
        "choice": kept,
        "why": found["reason"],
        "gain": None if gain is None else gain["points"],
        "interval": None if gain is None else [gain["low"], gain["high"]],
        "charter": charter.digest.hex(),
        "details": found,
    }


def read_report(folder: Path) -> dict[str, Any]:
    """The department's own report.  Raises ConfigError where no run has ended yet."""
    path = folder / REPORT
    if not path.is_file():
        raise ConfigError(f"{path} does not exist", hint="it is written when a run ends")
    found: dict[str, Any] = json.loads(read_text(path, what="the report"))
    return found
