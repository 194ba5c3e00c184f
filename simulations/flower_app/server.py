"""The ServerApp of ``flwr run``: the whole simulation, with Flower's nodes for workers.

What is simulated stands in the run's configuration, as ``writing`` writes it: ``scenario``, ``arms`` (parted by
spaces), ``sum``, ``quick``, ``data``, ``folder``, ``out``.  Paths are absolute, and mean the same on every machine.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from commonroot.common.errors import ConfigError
from commonroot.simulations.flower_app.crews import hire_on

_log = logging.getLogger("flwr")  # what Flower streams to whoever started the run

SETTINGS: Final = ("scenario", "arms", "sum", "quick", "data", "folder", "out")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Simulate, and write the report.

    Raises ConfigError for a configuration that misses something, and what ``simulate`` raises.
    """
    import torch

    from commonroot.simulations.comparison import save
    from commonroot.simulations.simulate import simulate

    torch.set_num_threads(1)
    found = context.run_config
    missing = [key for key in SETTINGS if key not in found]
    if missing:
        raise ConfigError(
            f"[tool.flwr.app.config] of this run has no {', '.join(missing)}",
            hint="commonroot simulate FEDERATION.toml --write-flower-app DIR writes them",
        )
    result = simulate(
        Path(str(found["scenario"])),
        arms=str(found["arms"]).split(),
        folder=Path(str(found["folder"])),
        sum=str(found["sum"]) or None,
        finish=not found["quick"],
        data=Path(str(found["data"])) if found["data"] else None,
        engine=hire_on(grid),
        tell=_tell,
    )
    for path in save(result, Path(str(found["out"]))):
        _log.info("written: %s", path)
    for report in result["arms"]:
        _log.info("%s: %s after %d rounds, backbone %s", report["arm"], report["state"], report["rounds"],
                  report.get("backbone", "none"))  # fmt: skip


def _tell(arm: str, kind: str, facts: dict[str, Any]) -> None:
    if kind == "run-closed":
        told = f", loss {facts['loss']:.3f}" if facts.get("loss") is not None else ""
        _log.info("%s: version %d of the backbone%s", arm, facts["version"], told)
    elif kind in ("run-lost", "run-stopped"):
        _log.warning("%s: %s", arm, facts["why"])
