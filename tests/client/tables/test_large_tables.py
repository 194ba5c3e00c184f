"""Tables larger than memory: encoded once into private files, mapped where they are used, in bounded memory."""

import csv
import io
import json
import os
import stat
import subprocess
import sys
import unittest.mock
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.client.data import DataConfig, prepare
from commonroot.client.tables import csv_source
from commonroot.common.errors import DataError, StorageFull

ASKED = DataConfig(path="t.parquet", target="label", task="classification")


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(2)
    columns = {f"c{at}": random.normal(size=3000) for at in range(4)}
    pl.DataFrame(columns | {"label": random.integers(0, 3, 3000)}).write_parquet(tmp_path / "t.parquet")
    return tmp_path


def test_the_files_are_their_owners_alone(folder):
    prepare(ASKED, folder=folder, root=folder, memory=1)
    place = next((folder / "tables").iterdir())
    assert stat.S_IMODE(place.stat().st_mode) == stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in place.iterdir())
    assert sorted(path.name for path in place.iterdir())[:2] == ["features.safetensors", "prepared.json"]


def test_rows_are_mapped_and_writing_to_them_changes_no_file(folder):
    found = prepare(ASKED, folder=folder, root=folder, memory=1)
    assert isinstance(found.train.x, np.memmap)
    before = found.train.x[0].copy()
    found.train.x[0] = 99
    again = prepare(ASKED, folder=folder, root=folder, memory=1)
    np.testing.assert_array_equal(again.train.x[0], before)


def test_a_cache_is_used_again_only_for_the_same_source_and_section(folder, monkeypatch):
    from commonroot.client.tables import prepare as module

    prepare(ASKED, folder=folder, root=folder, memory=1)
    encoded = []
    real = module.encode_sides
    monkeypatch.setattr(module, "encode_sides", lambda *a: encoded.append(1) or real(*a))
    prepare(ASKED, folder=folder, root=folder, memory=1)
    assert not encoded
    prepare(ASKED.model_copy(update={"seed": 3}), folder=folder, root=folder, memory=1)
    assert len(encoded) == 1
    pl.read_parquet(folder / "t.parquet").head(2900).write_parquet(folder / "t.parquet")
    found = prepare(ASKED, folder=folder, root=folder, memory=1)
    assert len(encoded) == 2 and len(found.train) + len(found.validation) + len(found.test) == 2900
    assert len(list((folder / "tables").iterdir())) == 2  # the oldest has gone


def test_half_a_cache_is_made_anew(folder):
    first = prepare(ASKED, folder=folder, root=folder, memory=1)
    next((folder / "tables").iterdir()).joinpath("prepared.json").unlink()
    again = prepare(ASKED, folder=folder, root=folder, memory=1)
    np.testing.assert_array_equal(first.test.x, again.test.x)


def test_small_tables_leave_no_files(folder):
    prepare(ASKED, folder=folder, root=folder)
    assert not (folder / "tables").exists()


def test_a_full_disk_is_one_clear_error_and_no_litter(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageFull):
        prepare(ASKED, folder=folder, root=folder, memory=1)
    assert list((folder / "tables").iterdir()) == []


def test_a_late_fault_leaves_no_files(folder):
    frame = pl.read_parquet(folder / "t.parquet")
    spoilt = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 2900).then(float("inf")).otherwise(pl.col("c1")).alias("c1")
    )
    spoilt.write_parquet(folder / "t.parquet")
    with pytest.raises(DataError, match="row 2901, column 'c1': found infinity"):
        prepare(ASKED, folder=folder, root=folder, memory=1)
    assert not (folder / "tables").exists()


MEASURED = """
import json, sys
from pathlib import Path
from commonroot.client.data import DataConfig, prepare
from commonroot.client.tables import csv_source

def private():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

folder = Path(sys.argv[1])
asked = DataConfig(path=sys.argv[2], target="label", task="classification")
before = private()
peak = before
import threading
stop = threading.Event()
def watch():
    global peak
    while not stop.wait(0.005):
        peak = max(peak, private())
thread = threading.Thread(target=watch)
thread.start()
found = prepare(asked, folder=folder, root=folder, memory=8 << 20)
total = 0.0
for at in range(0, len(found.train), 4096):
    total += float(found.train.x[at : at + 4096].sum())
stop.set()
thread.join()
print(json.dumps({"peak": peak - before, "rows": len(found.train), "bytes": found.train.x.nbytes}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Eight times the rows, 224 MB more encoded, take half of that at most: targets and positions stay, rows do not."""
    peaks = {}
    for rows in (125_000, 1_000_000):
        random = np.random.default_rng(2)
        columns = {f"c{at}": random.normal(size=rows).astype(np.float32) for at in range(64)}
        frame = pl.DataFrame(columns | {"label": random.integers(0, 3, rows)})
        frame.write_parquet(tmp_path / f"{rows}.parquet", row_group_size=65_536)
        del frame, columns
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(tmp_path), f"{rows}.parquet"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"POLARS_MAX_THREADS": "2"},
        )
        peaks[rows] = json.loads(done.stdout)
    more = (peaks[1_000_000]["bytes"] - peaks[125_000]["bytes"]) / 0.64  # training rows are 0.64 of all
    assert peaks[1_000_000]["peak"] - peaks[125_000]["peak"] < 0.5 * more


@given(
    rows=st.lists(st.lists(st.text(alphabet='ab",\n ', max_size=6), min_size=2, max_size=2), max_size=30),
    size=st.integers(1, 40),
)
def test_stretches_of_a_csv_are_whole_rows_and_all_of_them(tmp_path_factory, rows, size):
    """cut anywhere, quotes and line ends inside cells included"""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["he\nad", "b"], *rows])
    path = tmp_path_factory.getbasetemp() / "stretches.csv"
    path.write_bytes(text.getvalue().encode())
    with unittest.mock.patch.object(csv_source, "_STRETCH", size):
        parts = list(csv_source._stretches(path))
    read = [row for part in parts for row in csv.reader(io.StringIO(part.decode(), newline=""), strict=True)]
    assert read == rows
