"""The benchmark measures what it says: its parts are correct at toy sizes, whatever time they take."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from commonroot.common.secure_sum.lanes import THREE21, UINT16
from commonroot.simulations.bench import BENCHMARKS, Row
from commonroot.simulations.bench_secure_sum import measure
from commonroot.simulations.bench_secure_sum_deployed import deployed_rows
from commonroot.simulations.bench_secure_sum_flower import (
    SecAggPlus,
    add_loop,
    fedavg,
    plain_reply,
    plain_results,
    secure_reply,
)
from commonroot.simulations.bench_secure_sum_limits import QUICK
from commonroot.simulations.bench_secure_sum_parts import Kernels, Parts, updates
from commonroot.simulations.bench_timing import Work, in_turns


def test_every_part_of_the_benchmark_runs_and_nothing_is_named_twice():
    rows = measure(Console(quiet=True), QUICK)
    named = [row.what for row in rows]
    assert "secure-sum" in BENCHMARKS
    assert len(rows) > 60
    assert [row.value for row in rows if "differ from the sum" in row.what] == [0] * 4
    assert all(np.isfinite(row.value) for row in rows)
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_flowers_secagg_plus_is_driven_to_the_mean_it_should_give(lost):
    """Clipped at 8 in 2^22 steps of 3.8e-6: the mean of equal updates is the update, to a few steps."""
    values = updates(1000)
    federation = SecAggPlus(10, values)
    mean = federation.server([federation.client_upload(who) for who in range(lost, 10)], lost)
    for found, given in zip(mean, values.values(), strict=True):
        assert np.abs(found - given).max() < 1e-3


def test_the_machines_open_to_the_sum_of_what_was_given():
    values = updates(1000)
    parts = Parts(4, values)
    uploads = {at: parts.upload(*parts.reviewed_and_prepared(at)) for at in range(1, 4)}
    opened = parts.coordinate(uploads, parts.answers(uploads))
    allowed = parts.codec.error_bound(3, parts.opening.bounds)
    for name, given in values.items():
        assert np.abs(opened.values[name] - 3 * given.astype(float)).max() <= allowed[name]


def test_fedavg_and_the_loop_average_what_they_are_given():
    values = updates(100)
    record = fedavg(plain_results([values] * 3))
    flat = np.concatenate(list(values.values()))
    assert np.allclose(np.concatenate([record[name].numpy() for name in values]), flat)
    assert np.allclose(add_loop([flat] * 3), flat)


def test_both_client_paths_push_everything_once():
    """Plain: 4 bytes a parameter and a header for each of ten arrays; masked: 2 bytes a parameter and the shares."""
    values = updates(4_000_000)
    parts = Parts(3, values)
    sent = parts.upload(parts.reviewed(0))
    assert 16_000_000 < plain_reply(values) < 16_010_000
    assert 8_000_000 < secure_reply(sent.head, sent.body, sent.pieces) < 8_005_000


@pytest.mark.parametrize("lanes", [UINT16, THREE21])
def test_kernels_take_off_what_they_put_on(lanes):
    kernels = Kernels(100, 36, updates(100), lanes, committee=40)
    sent = kernels.upload()
    assert sent.body.nbytes == kernels.layout.nbytes
    assert len(sent.head) == 40 * (37 * 32 + 16) + 37 * 32
    kernels.coordinate([sent.body], 30)


def test_losing_departments_leaves_their_edges_to_survivors_on_the_sum():
    """Complete: 7 survivors' own and 3 · 7 edges.  Of 100 with 36 neighbours: 70 and about 30 · 36 · 70/99."""
    values = updates(100)
    assert [Kernels(10, 9, values, UINT16).streams_after(lost) for lost in (0, 1, 3)] == [10, 18, 28]
    assert Kernels(100, 36, values, UINT16).streams_after(30) == 70 + 764


def test_a_row_tells_its_limit_and_why_it_misses():
    held = Row("a", 0.5, "<=", 1.0, 0.4, "not told")
    missed = Row("a", 1.5, "<=", 1.0, 0.4, "the limit of the machine")
    assert held.as_json() == {"what": "a", "target": "<= 1", "value": 0.5, "holds": True, "limit": 0.4}
    assert missed.as_json()["why"] == "the limit of the machine"
    assert Row("a", 1.5).as_json() == {"what": "a", "target": "none", "value": 1.5, "holds": True}


def test_only_the_call_is_timed_and_it_gets_what_was_made_before():
    seen = []
    cost = in_turns({"a": Work(seen.append, lambda: "made"), "b": lambda: seen.append("plain")}, 3)
    assert seen == ["made", "plain"] * 4
    assert set(cost) == {"a", "b"}
    assert cost["a"].thread >= 0


@pytest.mark.slow
def test_a_deployed_federation_and_the_same_in_the_clear_both_end():
    ratio, masked, clear = deployed_rows(2, 16, (32, 14))
    assert ratio.value == pytest.approx(masked.value / clear.value)
    assert masked.value > 0
