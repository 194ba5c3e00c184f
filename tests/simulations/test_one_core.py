"""Processes that are one of many: one thread, and memory that is kept."""

import os
import subprocess
import sys

import pytest

from commonroot.simulations.one_core import on_one_core

#: Takes and leaves six blocks of 8 MB ten times, as the steps of a network do, and says how often a page was asked for.
LOOP = """
import resource, numpy as np
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    held = [np.ones(1_000_000) for _ in range(6)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(environment: dict[str, str]) -> int:
    done = subprocess.run([sys.executable, "-c", LOOP], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif("glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="for glibc alone")
def test_memory_that_a_step_leaves_is_there_for_the_next(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    assert 3 * faults(on_one_core()) < faults(dict(os.environ))


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    found = on_one_core()
    assert found["MALLOC_TRIM_THRESHOLD_"] == "1"
    assert found["OMP_NUM_THREADS"] == "1"
    assert found["MALLOC_MMAP_THRESHOLD_"] == str(32 << 20)
