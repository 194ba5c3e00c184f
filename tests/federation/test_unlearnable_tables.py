"""A table that cannot be learned from is named by file, row and column, and nothing is contributed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from federation import small
from federation.refusing import refused
from federation.wrong_files import field

from commonroot.client import node
from commonroot.common import parcel
from commonroot.common.messages import Offer, Refusal
from commonroot.common.parcel import Parcel

X, Y = small.table(0, 60, "binary")


def _npz(**arrays: Any) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        with (root / "rows.npz").open("wb") as file:
            np.savez(file, **arrays)

    return write


def _csv(text: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / "rows.csv").write_text(text)
        config = root / "department.toml"
        config.write_text(config.read_text().replace("rows.npz", "rows.csv"))

    return write


def _with(value: float) -> np.ndarray:
    x = X.copy()
    x[17, 3] = value
    return x


HEADER = "a,b,c,d,e,f,y\n"
ROW = "1,2,3,4,5,6,yes\n2,1,3,4,5,6,no\n"
TABLES = [
    ("no such file", lambda root: (root / "rows.npz").unlink(), "no such file"),
    ("not a table", lambda root: (root / "rows.npz").write_bytes(b"PK\x03\x04 cut short"), "unreadable"),
    ("an empty file", lambda root: (root / "rows.npz").write_bytes(b""), "unreadable"),
    ("no target", _npz(X=X), "'y'"),
    ("no features", _npz(y=Y), "X with two dimensions"),
    ("one dimension", _npz(X=X[:, 0], y=Y), "1 dimension"),
    ("another number of rows", _npz(X=X, y=Y[:-1]), "one value per row"),
    ("a column of NaN", _npz(X=X * [1, 1, np.nan, 1, 1, 1], y=Y), "no value at all"),
    ("a gap that makes a column more", _npz(X=np.where(X > 5, np.nan, X), y=Y), "feature columns, expected 6"),
    ("infinity", _npz(X=_with(np.inf), y=Y), "infinity"),
    ("text where numbers belong", _npz(X=X.astype(str), y=Y), "dtype"),
    ("Python objects", _npz(X=X, y=Y.astype(object)), "Python objects"),
    ("complex numbers", _npz(X=X.astype(complex), y=Y), "dtype"),
    ("fractions as labels", _npz(X=X, y=np.linspace(0, 1, 60)), "fraction"),
    ("one class alone", _npz(X=X, y=np.full(60, "yes")), "1 label"),
    ("three classes of two", _npz(X=X, y=np.array(["a", "b", "c"] * 20)), "3 labels"),
    ("no rows", _npz(X=X[:0], y=Y[:0]), "no rows"),
    ("three rows", _npz(X=X[:3], y=Y[:3]), "3 rows"),
    ("another width than the charter's", _npz(X=X[:, :5], y=Y), "5"),
    ("csv without the target", _csv("a,b,c,d,e,f\n" + "1,2,3,4,5,6\n" * 20), "'y'"),
    ("csv with a word for a number", _csv(HEADER + ROW * 10 + "1,2,three,4,5,6,no\n"), "row 22"),
    ("csv with a hole", _csv(HEADER + ROW * 10 + "1,2,3,4,5,6,\n"), "empty cell"),
    ("a column that is the target", _csv(HEADER + ROW * 15), "copy of the target"),
    ("csv with a short row", _csv(HEADER + ROW * 10 + "1,2,3\n"), "3 cells"),
    ("csv with a name twice", _csv("a,a,c,d,e,f,y\n" + ROW * 10), "twice"),
    ("csv of a header", _csv(HEADER), "no rows"),
    ("csv of nothing", _csv(""), "empty file"),
    (
        "a label that nobody listed",
        field('target = "y"', 'target = "y"\nlabels = ["accepted-0", "other"]'),
        "a label of 10 character(s)",
    ),
]


@pytest.mark.parametrize(("what", "spoil", "named"), TABLES, ids=[what for what, _, _ in TABLES])
def test_a_table_that_cannot_be_learned_from_is_refused_by_check(what, spoil, named, tmp_path, monkeypatch):
    folder = small.founded(tmp_path).departments["ash"].root
    spoil(folder)
    assert named in refused(tmp_path, ["department", "check", str(folder)], "CR11", monkeypatch)


class _Asked:
    """A node that joins at once and is offered the charter, as by a coordinator; ends when told to."""

    offer: Parcel
    replies: ClassVar[list[Parcel]] = []

    def __init__(self, *_: object, on_state: Callable[[str], None], **__: object) -> None:
        self._on_state = on_state

    def serve(self, handle: Callable[[Parcel], Parcel], stop: threading.Event) -> None:
        self._on_state("joined")
        self.replies.append(handle(self.offer))
        assert stop.wait(20), "it goes on although its table cannot be read"


def test_a_daemon_with_a_bad_table_says_so_soon_and_ends_and_contributes_nothing(tmp_path, monkeypatch, keep_signals):
    """It joins before its table is read; whoever asks it meanwhile is refused with the same code."""
    federation = small.founded(tmp_path)
    folder, coordinator, roster = federation.departments["ash"], federation.coordinator, federation.coordinator.roster()
    _npz(X=_with(np.inf), y=Y)(folder.root)
    offer = Offer.signed(
        coordinator.identity(),
        run=1,
        charter=federation.charter.charter.digest,
        roster=roster.digest,
        epoch=roster.epoch,
    )
    monkeypatch.setattr(
        _Asked, "offer", Parcel(parcel.CHARTER, offer.encode(), federation.charter.to_json()), raising=False
    )
    monkeypatch.setattr(_Asked, "replies", [])
    monkeypatch.setattr(node, "FlowerNode", _Asked)
    refused(tmp_path, ["department", "up", str(folder.root)], "CR11", monkeypatch, at_once=False)
    assert [Refusal.decode(bytes(reply.head)).code for reply in _Asked.replies] == ["CR11", "CR11"]
    with small.store_of(folder) as store:
        assert not [entry for entry in store.ledger() if entry.kind == "sent"]
