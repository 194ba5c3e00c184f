"""A slice of the acceptance table in every test run: real rows, real rounds, the real guard, and bounds that can fail.

Fewer rounds, and fewer models tried alone, than the table has; ``make bench-transfer`` asks for all of it.
"""

from __future__ import annotations

import dataclasses

from commonroot.client.baselines import GRID
from commonroot.simulations import transfer_cells
from commonroot.simulations.bench_transfer import kept_score, least_gain, mean_gain, number_worse
from commonroot.simulations.datasets import get
from commonroot.simulations.transfer_cells import Cell, run_cell
from commonroot.simulations.transfer_summary import arms

SEED = 1
ROUNDS = 15
#: Of the table's fourteen: a linear model and support vectors, which are the best alone on digits.
ALONE = (GRID[1], GRID[5], GRID[8])


def sliced(protocol, tmp_path, monkeypatch, *, declared=True):
    """The arm of one protocol of digits under its own charter, with fewer rounds."""
    dataset = get("digits")

    def write(source, target, *, seed):
        world = dataset.protocols[protocol](source, target, seed=seed)
        for section in world.departments.values():
            if not declared:
                del section["expected"]
        return dataclasses.replace(world, charter={**world.charter, "rounds": ROUNDS})

    monkeypatch.setattr(transfer_cells, "get", lambda name: dataclasses.replace(dataset, protocols={protocol: write}))
    monkeypatch.setattr("commonroot.client.alone.GRID", ALONE)
    cell = Cell("digits", protocol, "charter", SEED)
    [arm] = arms({cell: run_cell(cell, tmp_path, None)})
    assert len(arm.departments) == 8 and arm.cells[0]["state"] == "finished"
    return arm


def test_tiny_departments_gain_and_nobody_is_harmed(tmp_path, monkeypatch):
    """The table asks for 25 points of 50 rounds."""
    arm = sliced("tiny", tmp_path, monkeypatch)
    assert mean_gain(arm) >= 10.0
    assert number_worse(arm) == 0
    assert least_gain(arm) >= -5.0


def test_departments_that_say_which_labels_will_come_gain_by_it(tmp_path, monkeypatch):
    """The table asks for 9 points; nothing but the declaration and the others' evidence can tell a guard of them."""
    arm = sliced("dir", tmp_path, monkeypatch)
    assert mean_gain(arm) >= 9.0
    assert number_worse(arm) == 0
    assert kept_score(arm) >= arm.score("alone")


def test_without_the_declaration_the_same_guard_refuses_what_its_rows_cannot_show(tmp_path, monkeypatch):
    """The bound above can fail: departments that declare nothing keep what they have."""
    assert mean_gain(sliced("dir", tmp_path, monkeypatch, declared=False)) < 9.0
