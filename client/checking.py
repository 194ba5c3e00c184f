"""``department check``: read the data exactly as training would, against every approved charter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commonroot.client.data import DataConfig, prepare
from commonroot.client.folder import DepartmentFolder
from commonroot.client.gathering import describe_ratings
from commonroot.client.learner import DepartmentLearner
from commonroot.common.charter import SignedCharter
from commonroot.files import read_bytes
from commonroot.strategies.evaluation import Evaluation


def check_folder(root: Path) -> dict[str, Any]:
    """Sizes of what was read, and the approved charters that it fits.  Raises DataError with every problem at once."""
    folder = DepartmentFolder(root)
    facts = describe(folder.data, root)
    learner = DepartmentLearner(root, folder.config.name, folder.data, bytes(32), pin=False)  # nothing is trained
    fits = []
    for path in sorted((root / "charters").glob("*.json")):
        charter = SignedCharter.from_json(read_bytes(path, what="the charter")).charter
        if charter.method.name != Evaluation.name:  # which reads what a run leaves behind, and no data
            learner.check(charter)
        fits.append(charter.digest.hex())
    return facts | {"charters": fits}


def describe(data: DataConfig, root: Path) -> dict[str, Any]:
    """Sizes of what was read, without any charter.  Raises DataError with every problem at once."""
    if data.goal_kind == "recommendation":
        return describe_ratings(data, root)
    prepared = prepare(data, folder=root)
    return {
        "task": prepared.task.kind,
        "columns": len(prepared.names),
        "train": len(prepared.train),
        "validation": len(prepared.validation),
        "test": len(prepared.test),
        "notes": list(prepared.notes),
    }
