"""Commonroot: departments learn together, and only sums leave.

The path rule of this project is one line: *root folder `x` is `commonroot.x`*.  An installed package needs nothing for
that; in a checkout that was not installed the folders stand beside this one, so they are added to the search path here.
"""

from pathlib import Path

__version__ = "0.1.0"

_here = Path(__file__).resolve().parent
if not (_here / "common").is_dir() and (_here.parent / "common").is_dir():
    __path__.append(str(_here.parent))
