"""Four small departments and their federation.toml: quick to simulate in every way."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from one_thread import one_thread

from commonroot.client.baselines import GRID

NAMES = ("north", "east", "south", "west")
CHARTER = """
[charter]
federation = "works"
name = "tried"
rounds = {rounds}
method = {{ name = "fedper", options = {{ backbone_epochs = 1, fine_tune_head_epochs = 1, fine_tune_epochs = 1 }} }}
backbone = {{ inputs = 4, widths = [6, 5] }}
training = {{ batch = 8 }}
"""
STORM = '[network]\ndrop = 0.2\nrepeat = 0.3\ndelay = 3.0\nparcels = ["round-open", "masked"]\n'


@contextmanager
def few_recipes(recipes: int) -> Iterator[None]:
    """Of what departments try alone and at the end, which is tested elsewhere, only the first and quickest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("commonroot.client.alone.GRID", GRID[:recipes])
        patch.setattr("commonroot.client.shared_models.STRENGTHS", (1.0,))
        yield


@contextmanager
def quick_last_steps(recipes: int) -> Iterator[None]:
    """The same, on one thread."""
    with one_thread(), few_recipes(recipes):
        yield


def scenario(folder: Path, *, rounds: int = 4, seed: int = 1, more: str = "") -> Path:
    """Four departments of 36 rows whose columns tell of two labels or a value, and their federation.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"seed = {seed}\n" + CHARTER.format(rounds=rounds)
    for at, name in enumerate(NAMES):
        random = np.random.default_rng(at)
        x = random.normal(size=(36, 4))
        value = x @ [1.0, -1.0, 0.5, 0.0] + 0.3 * random.normal(size=36)
        task = "regression" if name == "west" else "binary"
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow([*"abcd", "target"])
            rows.writerows(
                [*row, y if task == "regression" else ("yes" if y > 0 else "no")]
                for row, y in zip(x, value, strict=True)
            )
        text += f'[[departments]]\nname = "{name}"\n[departments.data]\n'
        text += f'path = "{name}.csv"\ntarget = "target"\ntask = "{task}"\n'
    path = folder / "federation.toml"
    path.write_text(text + more)
    return path


def started(monkeypatch) -> list[subprocess.Popen]:
    """Every process that is started from now on, as it is started."""
    processes = []
    real = subprocess.Popen

    def popen(*arguments, **options):
        processes.append(real(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return processes
