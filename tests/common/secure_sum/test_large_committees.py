"""Shares for up to 255 holders, and blame among 96: what the algebra finds, and what it leaves to tries."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonroot.common.secure_sum import recovery
from commonroot.common.secure_sum.errors_in_rows import located_rows, suspect_rows
from commonroot.common.secure_sum.recovery import recover
from commonroot.common.secure_sum.shares import PRODUCT, interpolate, inverse, split


def drawn(rng: random.Random, *shape: int) -> np.ndarray:
    return np.frombuffer(rng.randbytes(int(np.prod(shape))), dtype=np.uint8).reshape(shape)


@settings(max_examples=25)
@given(data=st.data())
def test_any_threshold_of_many_shares_recovers_and_all_lie_on_one_polynomial(data):
    holders = data.draw(st.integers(33, 255))
    threshold = data.draw(st.integers(2, holders))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    secrets = drawn(rng, 3, 32)
    points = sorted(rng.sample(range(1, 256), holders))
    shares = split(secrets, points, threshold, rng.randbytes)
    chosen = rng.sample(range(holders), threshold)
    at = [points[i] for i in chosen]
    assert np.array_equal(interpolate(at, shares[chosen]), secrets)
    for row in rng.sample(range(holders), 3):
        assert np.array_equal(interpolate(at, shares[chosen], points[row]), shares[row])


def rank(matrix: np.ndarray) -> int:
    """By elimination, element by element."""
    rows, done = [row.copy() for row in matrix], 0
    for column in range(matrix.shape[1]):
        pivot = next((r for r in range(done, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[done], rows[pivot] = rows[pivot], rows[done]
        rows[done] = PRODUCT[inverse(int(rows[done][column])), rows[done]]
        for r in range(len(rows)):
            if r != done and rows[r][column]:
                rows[r] = rows[r] ^ PRODUCT[rows[r][column], rows[done]]
        done += 1
    return done


def test_one_share_fewer_than_the_threshold_says_nothing_about_a_secret_dealt_to_many():
    """Shares are linear in the 60 coefficients; those of any 60 holders are an invertible map of them, so whatever the
    secret is, they are uniform.  Column c of the map: the shares of secret 0 where only coefficient c is 1."""
    points = list(range(1, 97))
    columns = []
    for c in range(60):
        coefficients = bytes(32 * c) + bytes([1] * 32) + bytes(32 * (59 - c))
        one = split(np.zeros((1, 32), np.uint8), points, 61, lambda size, given=coefficients: given[:size])
        columns.append(one[:, 0, 0])
    dealt = np.array(columns).T
    rng = random.Random(5)
    for _ in range(5):
        assert rank(dealt[rng.sample(range(96), 60)]) == 60
    assert rank(dealt) == 60


class Answers:
    """m = 96, tau = 61: the shares of 6 secrets from each of ``dealers`` dealers, as ``answers`` members hold them."""

    def __init__(self, answers: int = 96, dealers: int = 8, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.points = sorted(self.rng.sample(range(1, 97), answers))
        self.dealers = [100 + d for d in range(dealers) for _ in range(6)]
        self.secrets = drawn(self.rng, 6 * dealers, 32)
        self.shares = split(self.secrets, list(range(1, 97)), 61, self.rng.randbytes)[[p - 1 for p in self.points]]
        self.tried = 0

    def lie(self, rows, columns=slice(None), error=None) -> None:
        for row in rows:
            part = self.shares[row, columns]
            self.shares[row, columns] = part ^ (drawn(self.rng, *part.shape) if error is None else error)

    def recover(self, colluders: int = 25):
        def holds(s, found):
            self.tried += 1
            return found == self.secrets[s].tobytes()

        return recover(self.points, self.shares, self.dealers, 61, holds, colluders=colluders)


def test_nobody_is_suspected_among_ninety_six_who_are_honest():
    case = Answers()
    found = case.recover()
    assert np.array_equal(found.secrets, case.secrets)
    assert (found.liars, found.failed, case.tried) == ((), (), 48)


@pytest.mark.parametrize("liars", [1, 11, 17, 25, 34])
def test_liars_who_do_not_act_in_concert_are_left_out_up_to_one_less_than_there_is_to_spare(liars):
    """96 - 61 = 35 to spare.  They are named while 61 + 25 - 1 = 85 answers agree, so up to 11 of them; with no more
    than 25 in concert among 34, others who lie on their own account are not told from their victims."""
    case = Answers(seed=liars)
    rows = sorted(case.rng.sample(range(96), liars))
    case.lie(rows)
    found = case.recover()
    assert np.array_equal(found.secrets, case.secrets)
    assert found.failed == ()
    assert found.liars == (tuple(rows) if liars <= 11 else ())
    assert case.recover(colluders=2).liars == tuple(rows)  # 62 answers agree, and 61 + 2 - 1 are asked for


@pytest.mark.parametrize("liars", [2, 11, 17])
def test_liars_who_agree_on_every_error_are_left_out_up_to_half_of_what_is_to_spare(liars):
    """Their errors are one and the same, so rows of rank one: no subspace shows them, but 2·17 ≤ 35 does."""
    case = Answers(seed=liars)
    rows = sorted(case.rng.sample(range(96), liars))
    case.lie(rows, error=np.uint8(1))
    own = case.shares[:, :6]
    assert suspect_rows(case.points, own, 61) != set(rows)
    assert located_rows(case.points, own, 61) == set(rows)
    found = case.recover()
    assert np.array_equal(found.secrets, case.secrets)
    assert found.liars == (tuple(rows) if liars <= 11 else ())


def test_liars_about_different_secrets_in_different_bytes_are_found_one_after_the_other():
    case = Answers(dealers=3)
    for at, row in enumerate(range(5, 85, 5)):  # 16 of them, each in one byte of one secret of one dealer
        case.shares[row, at % 18, at % 32] ^= 1 + at
    found = case.recover(colluders=1)
    assert np.array_equal(found.secrets, case.secrets)
    assert found.liars == tuple(range(5, 85, 5))


def test_with_one_answer_more_than_the_threshold_one_liar_is_found_by_trying():
    case = Answers(answers=62, dealers=40)
    case.lie([17])
    found = case.recover(colluders=1)
    assert np.array_equal(found.secrets, case.secrets)
    assert found.failed == ()


def test_a_hopeless_case_is_given_up_after_a_bounded_number_of_tries(monkeypatch):
    """36 liars and 35 to spare: nothing comes back, no dealer is looked into beyond the 25 that could be at fault."""
    looked = []
    monkeypatch.setattr(recovery, "suspect_rows", lambda *case: looked.append(1) or suspect_rows(*case))
    case = Answers(dealers=60)
    case.lie(range(0, 72, 2))
    found = case.recover()
    assert len(found.failed) == 60
    assert found.liars == ()
    assert case.tried < 60 + recovery.TRIES_TOGETHER + 26
    assert len(looked) == 26


def test_a_bad_dealer_is_named_among_honest_ones_whoever_lies_besides():
    case = Answers(dealers=6)
    case.lie(range(96), columns=slice(12, 18))
    case.lie([3, 40, 90])
    found = case.recover()
    assert found.failed == (102,)
    assert found.liars == (3, 40, 90)
    good = [s for s, dealer in enumerate(case.dealers) if dealer != 102]
    assert np.array_equal(found.secrets[good], case.secrets[good])
