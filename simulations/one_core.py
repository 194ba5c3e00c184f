"""The environment of a process that computes on one core."""

from __future__ import annotations

import os
from typing import Final

#: For glibc, in bytes.  It would give the large blocks of a network's step back to the system after every step, and
#: take them again page by page, which costs a small convolutional network a sixth of its time; other allocators do not
#: look at these.
_KEEPS: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}


def on_one_core() -> dict[str, str]:
    """This process's variables, for another that computes with one thread and is one of many."""
    return _KEEPS | os.environ | {"OMP_NUM_THREADS": "1"}
