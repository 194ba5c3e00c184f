"""The benchmark of loading: what it measures, what its rows say, and a picture that stands alone."""

from xml.etree import ElementTree

import pytest
from rich.console import Console

from commonroot.simulations import bench_data, bench_data_loading
from commonroot.simulations.bench_data_loading import COLUMNS, drawn, memory, memory_rows, speed

CURVE = [
    {
        "rows": rows,
        "start": 1.0,
        "prepared": 2.0,
        "anonymous": rows * 32.0,
        "resident": rows * 64.0,
        "encoded": rows * 40.0,
    }
    for rows in (100_000, 1_000_000, 10_000_000)
]


def test_every_kind_of_table_has_a_ratio_in_work_and_one_by_the_clock(tmp_path):
    rows = speed(Console(quiet=True), tmp_path, rows=2_000, times=1)
    assert [row.relation for row in rows] == [">=", ""] * 4
    assert all(row.value > 0 for row in rows)
    assert list(tmp_path.iterdir()) == []


def test_rows_of_memory_are_in_mib_and_only_the_largest_has_a_bound():
    """10 million times 32 bytes are 305.2 MiB, one million 30.5"""
    rows = memory_rows(CURVE)
    assert [round(row.value, 1) for row in rows] == [3.1, 6.1, 30.5, 61.0, 305.2, 610.4, 305.2, 274.7]
    assert [row.relation for row in rows] == ["", "", "", "", "<=", "", "<=", "<="]


def test_the_curve_is_a_picture_with_a_point_for_every_size():
    root = ElementTree.fromstring(drawn(CURVE))
    assert len(root.findall(".//{http://www.w3.org/2000/svg}circle")) == 3 * len(CURVE)


@pytest.mark.slow
def test_a_process_of_its_own_prepares_and_trains_and_tells_its_memory():
    """2,000 rows, of which 0.64 are for training, of ten float32"""
    found = memory(2_000)
    assert found["rows"] == 2_000 and found["encoded"] == 1_280 * COLUMNS * 4
    assert 0 < found["start"] <= found["prepared"] <= found["anonymous"] <= found["resident"]


def test_loading_runs_beside_the_datasets_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_data_loading, "run", lambda console, *, out: [("rows", out)])
    assert bench_data.run(Console(quiet=True), ["loading"], out=tmp_path) == [("rows", tmp_path)]
