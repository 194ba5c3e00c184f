"""Commonroot: departments learn together, and only sums leave.

The path rule of this project is one line: *root folder `x` is `commonroot.x`*.  An installed package needs nothing for
that; in a checkout that was not installed the folders stand beside this one, so they are added to the search path here.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from commonroot.client.notebook import Department
    from commonroot.client.predictor import Predictor
    from commonroot.common.charter import Charter, Draft, SignedCharter
    from commonroot.common.errors import CommonrootError, PeerError, RoundLost, UsageError
    from commonroot.common.manifest import Manifest, Term
    from commonroot.common.roster import Roster
    from commonroot.simulations.notebook import simulate
    from commonroot.simulations.notebook_result import Result
    from commonroot.simulations.sweeps.run import Sweep, sweep
    from commonroot.strategies import STRATEGIES, Strategy, seal

__version__ = "0.1.0"

_here = Path(__file__).resolve().parent
if not (_here / "common").is_dir() and (_here.parent / "common").is_dir():
    __path__.append(str(_here.parent))

# Flower and Ray read these when they are first imported: no telemetry, no question whether there is a newer version, no
# installing of packages at run time.  Whoever wants them sets them before.
for _name, _value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker sees the accelerators that its machine shows
}.items():
    os.environ.setdefault(_name, _value)

#: The public face: a name, and where it really lives.  Loaded when first used, so that importing this costs nothing.
_FACE = {
    "Charter": "commonroot.common.charter",
    "CommonrootError": "commonroot.common.errors",
    "Department": "commonroot.client.notebook",
    "Draft": "commonroot.common.charter",
    "Manifest": "commonroot.common.manifest",
    "PeerError": "commonroot.common.errors",
    "Predictor": "commonroot.client.predictor",
    "Result": "commonroot.simulations.notebook_result",
    "Roster": "commonroot.common.roster",
    "RoundLost": "commonroot.common.errors",
    "STRATEGIES": "commonroot.strategies",
    "SignedCharter": "commonroot.common.charter",
    "Strategy": "commonroot.strategies",
    "Sweep": "commonroot.simulations.sweeps.run",
    "Term": "commonroot.common.manifest",
    "UsageError": "commonroot.common.errors",
    "seal": "commonroot.strategies",
    "simulate": "commonroot.simulations.notebook",
    "sweep": "commonroot.simulations.sweeps.run",
}

__all__ = [
    "STRATEGIES",
    "Charter",
    "CommonrootError",
    "Department",
    "Draft",
    "Manifest",
    "PeerError",
    "Predictor",
    "Result",
    "Roster",
    "RoundLost",
    "SignedCharter",
    "Strategy",
    "Sweep",
    "Term",
    "UsageError",
    "__version__",
    "seal",
    "simulate",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FACE[name]), name)
