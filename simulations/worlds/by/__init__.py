"""Partitioners: ways in which departments of a world that is cut from one table differ, one file each."""

from __future__ import annotations

from commonroot.simulations.worlds.by.column import Column
from commonroot.simulations.worlds.by.dirichlet import Dirichlet
from commonroot.simulations.worlds.by.even import Even
from commonroot.simulations.worlds.by.labels import Labels
from commonroot.simulations.worlds.by.quantity import Quantity
from commonroot.simulations.worlds.by.shift import Shift

#: By the name that ``kind`` gives them.
PARTITIONERS = {
    "labels": Labels,
    "dirichlet": Dirichlet,
    "quantity": Quantity,
    "shift": Shift,
    "column": Column,
    "even": Even,
}

__all__ = ["PARTITIONERS", "Column", "Dirichlet", "Even", "Labels", "Quantity", "Shift"]
