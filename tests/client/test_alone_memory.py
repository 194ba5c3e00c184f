"""What was found alone is found once: the same outputs from a folder, and never those of other rows or another task."""

from __future__ import annotations

import numpy as np
import pytest

from commonroot.client.alone import rounded
from commonroot.client.alone_memory import AloneMemory
from commonroot.client.data import DataConfig
from commonroot.client.learner import alone_seed

DATA = DataConfig(path="rows.npz", target="y", task="binary", seed=1)
X = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_an_answer_is_computed_once_and_equal(tmp_path):
    asked: list[int] = []

    def compute():
        asked.append(1)
        return [X * 2, X[:, 0].astype(np.float64)]

    first = AloneMemory(tmp_path, DATA).recall({"recipe": "a"}, [X], compute)
    again = AloneMemory(tmp_path, DATA.model_copy(update={"path": "elsewhere.npz"})).recall(
        {"recipe": "a"}, [X], compute
    )
    assert asked == [1]
    for one, other in zip(first, again, strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)


@pytest.mark.parametrize(
    ("data", "asked", "rows"),
    [
        (DATA, {"recipe": "b"}, [X]),
        (DATA, {"recipe": "a"}, [X + 1]),
        (DATA, {"recipe": "a"}, [X.reshape(2, 3)]),
        (DATA, {"recipe": "a"}, [X.astype(np.float64)]),
        (DATA.model_copy(update={"task": "regression"}), {"recipe": "a"}, [X]),
    ],
)
def test_another_question_has_an_answer_of_its_own(tmp_path, data, asked, rows):
    AloneMemory(tmp_path, DATA).recall({"recipe": "a"}, [X], lambda: [X])
    assert AloneMemory(tmp_path, data).recall(asked, rows, lambda: [X + 9])[0][0, 0] == 9


def test_a_spoilt_file_is_computed_again(tmp_path):
    memory = AloneMemory(tmp_path, DATA)
    memory.recall({}, [X], lambda: [X])
    [file] = tmp_path.iterdir()
    file.write_bytes(b"half a fi")
    assert np.array_equal(memory.recall({}, [X], lambda: [X])[0], X)


def test_numbers_of_passes_are_a_root_of_two_apart():
    assert [rounded(epochs) for epochs in (1, 2, 3, 5, 7, 60, 64, 65, 75)] == [1, 2, 3, 6, 8, 64, 64, 64, 64]
    for epochs in range(1, 2000):
        assert 2 ** (-1 / 4) * 0.9 < rounded(epochs) / epochs < 2 ** (1 / 4) * 1.1


def test_what_is_fitted_alone_follows_from_no_charter():
    assert alone_seed(bytes(32)) == alone_seed(bytes(32)) != alone_seed(bytes(31) + b"1")
