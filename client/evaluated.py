"""How runs ended on this department's validation rows: what is kept of it, and what of it an evaluation sums.

    evaluations/HASH.json         losses and errors under the training charter HASH; stays here
    evaluations/HASH.under        hash of the one evaluation that may sum them
    evaluations/HASH.opened.json  the sums over departments, and what they say

One training charter is evaluated under one charter: two evaluations that opened over different departments would have a
difference, and that would be one department's losses.  Within one charter the secure sum sees to it.

Nothing here is computed from test rows; the files hold no figure of theirs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.guard import FEWEST_ROWS
from commonroot.client.tasks import Floats, Task
from commonroot.common.charter import Charter
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write, read_text, storage_errors
from commonroot.strategies import build
from commonroot.strategies.averaging import department_weight
from commonroot.strategies.base import Tensors
from commonroot.strategies.evaluation import CHOICES, Evaluation, outcome_of, told_choice

#: The folder, inside a department's.
FOLDER: Final = "evaluations"
#: Beside the training charter's seed, so that what is told is drawn apart from everything else.
_DRAW: Final = 0x746F6C64


def figures(task: Task, alone: Floats, shared: Iterable[Floats], y: NDArray[Any]) -> dict[str, Any]:
    """Mean losses on validation rows and the standard error of their difference, as JSON values.

    alone    prediction array of the best model trained alone, for rows that fitted none of the models
    shared   of the candidates that came from the others

    ``federated`` is the candidate with the lowest loss, and the model trained alone where there is none.  A loss that
    is no number is null.
    """
    rows = len(y)
    if rows < FEWEST_ROWS:
        return {"rows": rows}
    base = task.row_losses(alone, y)
    others = [task.row_losses(array, y) for array in shared]
    best = min(others, key=lambda losses: _order(float(losses.mean())), default=base)
    found = {"alone": base.mean(), "federated": best.mean(), "error": _error(base - best)}
    return {"rows": rows} | {name: _number(float(value)) for name, value in found.items()}


def keep(charter: Charter, root: Path, report: Mapping[str, Any], *, secret: int) -> None:
    """Keep the validation figures of a run that just ended.

    report  with ``rows``, ``kept`` and ``validation`` (see ``figures``), as ``finish`` makes it
    secret  the department's own seed under this charter; draws, once for all, which choice an evaluation is told
    """
    told = told_choice(str(report["kept"]), np.random.default_rng([_DRAW, secret]))
    found = dict(report["validation"]) | {
        "charter": charter.digest.hex(),
        "weight": department_weight(charter, int(report["rows"]["train"])),
        "told": CHOICES[told],
    }
    _write(_path(root, charter.digest.hex()), found)


def given(charter: Charter, root: Path, *, tells: bool) -> dict[str, NDArray[np.generic]]:
    """What a department gives to an evaluation.

    Raises ConfigError where no run of its training charter ended here, or another evaluation has its figures already.
    """
    method = _method(charter)
    path = _path(root, method.of)
    if not path.is_file():
        raise ConfigError(
            f"charter {charter.name!r} evaluates charter {method.of[:16]}…, and no run of that has ended here",
            hint="it can be evaluated once this department has taken over its final backbone",
        )
    other = _bound(root, method.of)
    if other not in ("", charter.digest.hex()):
        raise ConfigError(
            f"charter {method.of[:16]}… is evaluated under charter {other[:16]}… already",
            hint="two sums over different departments would show one department's losses; resume the first evaluation",
        )
    found = json.loads(read_text(path, what="the validation figures"))
    enough = found["rows"] >= FEWEST_ROWS
    values = {name: _or_nan(found[name]) if enough else 0.0 for name in _NUMBERS}
    values["weight"] = float(found["weight"]) if enough else 0.0
    choice = CHOICES.index(found["told"]) if tells else -1
    return {name: np.asarray(value) for name, value in values.items()} | {"choice": np.asarray(choice)}


def bind(charter: Charter, root: Path) -> None:
    """Before figures leave: from now on no other evaluation gets them.  Does nothing for other methods."""
    method = build(charter)
    if isinstance(method, Evaluation) and not _bound(root, method.of):
        atomic_write(_under(root, method.of), charter.digest.hex().encode(), mode=0o600)


def keep_opened(charter: Charter, root: Path, received: Tensors) -> None:
    """What all departments' figures add up to, beside this one's own."""
    of = _method(charter).of
    found = {"charter": of, "evaluation": charter.digest.hex()} | outcome_of(received)
    _write(_path(root, of).with_suffix(".opened.json"), found)


_NUMBERS: Final = ("alone", "federated", "error")


def _method(charter: Charter) -> Evaluation:
    method = build(charter)
    if not isinstance(method, Evaluation):
        raise TypeError(f"{charter.method.name!r} is no evaluation")
    return method


def _path(root: Path, digest: str) -> Path:
    return root / FOLDER / f"{digest}.json"


def _under(root: Path, digest: str) -> Path:
    return root / FOLDER / f"{digest}.under"


def _bound(root: Path, digest: str) -> str:
    path = _under(root, digest)
    return read_text(path, what="an evaluation's hash") if path.is_file() else ""


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with storage_errors(path.parent):
        path.parent.mkdir(exist_ok=True)
    atomic_write(path, json.dumps(values, indent=2).encode(), mode=0o600)


def _error(differences: Floats) -> float:
    return float(differences.std(ddof=1)) / math.sqrt(len(differences))


def _order(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
