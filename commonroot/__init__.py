"""Commonroot: departments learn together, and only sums leave.

The path rule of this project is one line: *root folder `x` is `commonroot.x`*.  An installed package needs nothing for
that; in a checkout that was not installed the folders stand beside this one, so they are added to the search path here.
"""

import os
from pathlib import Path

__version__ = "0.1.0"

_here = Path(__file__).resolve().parent
if not (_here / "common").is_dir() and (_here.parent / "common").is_dir():
    __path__.append(str(_here.parent))

# Flower reads these when it is first imported: no telemetry, no question whether there is a newer version, no
# installing of packages at run time.  Whoever wants them sets them before.
for _name, _value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}.items():
    os.environ.setdefault(_name, _value)
