"""A thousand departments, a third of them lost in every round: real processes, killed once, without masks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest

DEPARTMENTS, ROUNDS = 1000, 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_departments_of_which_a_third_drop_out_end_and_killed_they_end_alike(tmp_path):
    """The ready scenario with fewer rounds and steps: 700 of 1,000, give or take four standard deviations of 14.5."""
    text = files("commonroot.simulations.scenarios").joinpath("crowd.toml").read_text()
    text = text.replace("rounds = 10", f"rounds = {ROUNDS}").replace("backbone_epochs = 2", "backbone_epochs = 1")
    path = tmp_path / "crowd.toml"
    path.write_text(text)
    undisturbed = _simulated(path, tmp_path / "undisturbed")
    assert [row["cohort"] for row in undisturbed["history"]] == [DEPARTMENTS] * ROUNDS
    assert all(642 <= row["survivors"] <= 758 for row in undisturbed["history"])
    kept = tmp_path / "kept"
    process = subprocess.Popen(_command(path, kept), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not _made(kept, 1):
            time.sleep(0.02)
        time.sleep(0.3)  # somewhere in the round after
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not _made(kept, ROUNDS)
    assert _simulated(path, kept)["backbone"] == undisturbed["backbone"]


def _command(path: Path, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "commonroot", "simulate", str(path), "--quick", "--workers", "2"]
    return [*command, "--folder", str(folder), "--json"]


def _simulated(path: Path, folder: Path) -> dict[str, object]:
    done = subprocess.run(_command(path, folder), check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout)["arms"][0]
    return found


def _made(kept: Path, version: int) -> bool:
    """Has the arm come to this version?  Its folder is renamed while it is founded."""
    try:
        return any(kept.glob(f"arms/*/coordinator/backbones/run-1-version-{version}.*"))
    except FileNotFoundError:
        return False
