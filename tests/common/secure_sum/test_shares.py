"""Shamir's sharing against a field spelled out bit by bit, and the naming of liars."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from commonroot.common.errors import ConfigError
from commonroot.common.secure_sum.recovery import recover, suspect_rows
from commonroot.common.secure_sum.shares import PRODUCT, interpolate, inverse, split


def times(a: int, b: int) -> int:
    """Carry-less multiplication modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197, section 4.2)."""
    out = 0
    while b:
        if b & 1:
            out ^= a
        a <<= 1
        if a & 0x100:
            a ^= 0x11B
        b >>= 1
    return out


def secrets_of(rng: random.Random, count: int) -> np.ndarray:
    return np.frombuffer(rng.randbytes(32 * count), dtype=np.uint8).reshape(count, 32)


def test_the_multiplication_table_is_the_field_of_aes():
    assert all(PRODUCT[a, b] == times(a, b) for a in range(256) for b in range(256))
    assert times(0x57, 0x83) == 0xC1  # the worked example of FIPS 197
    assert all(times(a, inverse(a)) == 1 for a in range(1, 256))
    with pytest.raises(ConfigError):
        inverse(0)


def test_a_share_is_the_polynomial_at_its_point():
    """threshold 3, coefficients drawn highest first: s(x) = c2·x² + c1·x + secret, with bytes 5, 7 and 9"""
    secret = np.full((1, 32), 9, dtype=np.uint8)
    shares = split(secret, [1, 2, 200], 3, lambda size: bytes([5] * 32 + [7] * 32)[:size])
    for share, x in zip(shares, (1, 2, 200), strict=True):
        assert set(share.reshape(-1).tolist()) == {times(5, times(x, x)) ^ times(7, x) ^ 9}


@given(data=st.data())
def test_any_threshold_of_the_shares_recovers_every_secret(data):
    holders = data.draw(st.integers(2, 32))
    threshold = data.draw(st.integers(2, holders))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    secrets = secrets_of(rng, data.draw(st.integers(1, 5)))
    points = data.draw(st.permutations(range(1, 256)))[:holders]
    shares = split(secrets, points, threshold, rng.randbytes)
    chosen = data.draw(st.permutations(range(holders)))[: data.draw(st.integers(threshold, holders))]
    assert np.array_equal(interpolate([points[i] for i in chosen], shares[chosen]), secrets)
    row = data.draw(st.integers(0, holders - 1))
    assert np.array_equal(interpolate([points[i] for i in chosen], shares[chosen], points[row]), shares[row])


def test_one_share_fewer_than_the_threshold_fits_every_secret_equally():
    """threshold 2, one share of one byte, all 256 coefficients: each secret explains that share exactly once"""
    share = 77
    explained = []
    for coefficient in range(256):
        zero = np.zeros((1, 32), dtype=np.uint8)
        dealt = split(zero, [3, 4], 2, lambda size, c=coefficient: bytes([c]) * size)
        explained.append(int(dealt[0, 0, 0]) ^ share)
    assert sorted(explained) == list(range(256))


@pytest.mark.parametrize(("points", "threshold"), [([1, 1], 2), ([0, 1], 2), ([1, 256], 2), ([1, 2], 3), ([1, 2], 0)])
def test_impossible_sharings_are_refused(points, threshold):
    with pytest.raises(ConfigError):
        split(np.zeros((1, 32), dtype=np.uint8), points, threshold, lambda size: bytes(size))


def test_secrets_of_another_length_and_repeated_points_are_refused():
    with pytest.raises(ConfigError):
        split(np.zeros((1, 31), dtype=np.uint8), [1, 2], 2, lambda size: bytes(size))
    with pytest.raises(ConfigError):
        interpolate([1, 1], np.zeros((2, 1, 32), dtype=np.uint8))
    with pytest.raises(ConfigError):
        interpolate([1, 2, 3], np.zeros((2, 1, 32), dtype=np.uint8))


class Answers:
    """Shares of two secrets from each of three dealers, as ``answers`` members hold them."""

    def __init__(self, answers: int, threshold: int, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.points = list(range(1, answers + 1))
        self.threshold = threshold
        self.dealers = [7, 7, 8, 8, 9, 9]
        self.secrets = secrets_of(self.rng, 6)
        self.shares = split(self.secrets, self.points, threshold, self.rng.randbytes)

    def recover(self, colluders=1):
        return recover(
            self.points,
            self.shares,
            self.dealers,
            self.threshold,
            lambda s, found: found == self.secrets[s].tobytes(),
            colluders=colluders,
        )

    def lie(self, row: int, columns: slice = slice(None)) -> None:
        part = self.shares[row, columns]
        self.shares[row, columns] ^= np.frombuffer(self.rng.randbytes(part.size), dtype=np.uint8).reshape(part.shape)


@given(data=st.data())
def test_liars_are_named_and_left_out_while_enough_honest_answers_remain(data):
    threshold = data.draw(st.integers(2, 8))
    answers = data.draw(st.integers(threshold, threshold + 5))
    case = Answers(answers, threshold, data.draw(st.integers(0, 999)))
    liars = sorted(data.draw(st.permutations(range(answers)))[: data.draw(st.integers(0, answers - threshold))])
    for row in liars:
        case.lie(row)
    found = case.recover()
    assert found.failed == ()
    assert np.array_equal(found.secrets, case.secrets)
    assert found.liars == tuple(liars)


@given(data=st.data())
def test_algebra_alone_finds_all_liars_but_the_last_spare(data):
    """22 of 32 answers suffice: ten spare, so up to nine independent liars, where a search would try 28 million sets"""
    case = Answers(32, 22, data.draw(st.integers(0, 99)))
    liars = sorted(data.draw(st.permutations(range(32)))[: data.draw(st.integers(1, 9))])
    for row in liars:
        case.lie(row)
    assert suspect_rows(case.points, case.shares[:, :2], 22) == set(liars)
    assert case.recover().liars == tuple(liars)


def test_liars_who_agree_on_one_error_are_searched_for_but_not_named_while_they_could_frame_others():
    """three of nine say the same wrong thing; 6 + 3 - 1 = 8 answers would have to agree before anyone is named"""
    case = Answers(9, 6)
    for row in (0, 4, 5):
        case.shares[row] ^= 1
    found = case.recover(colluders=3)
    assert np.array_equal(found.secrets, case.secrets)
    assert found.liars == ()


def test_two_liars_whose_errors_cancel_at_the_secret_frame_nobody():
    """Weights of points 1, 2, 3, 4 at 0: errors e·w_2 at 1 and e·w_1 at 2 add w_1·w_2·e twice, which is nothing."""
    case = Answers(6, 4)
    weights = [interpolate([1, 2, 3, 4], np.eye(4, dtype=np.uint8)[i].reshape(4, 1, 1)).item() for i in range(2)]
    case.shares[0] ^= np.uint8(weights[1])
    case.shares[1] ^= np.uint8(weights[0])
    found = case.recover(colluders=2)
    assert np.array_equal(found.secrets, case.secrets)
    assert found.liars == ()
    assert case.recover(colluders=1).liars == (4, 5)  # the honest ones: more lied than was allowed for


def test_different_liars_about_different_dealers_are_all_named():
    case = Answers(8, 6)
    case.lie(0, slice(0, 2))
    case.lie(1, slice(2, 4))
    case.lie(2, slice(4, 5))
    case.lie(7, slice(5, 6))
    found = case.recover()
    assert found.failed == ()
    assert found.liars == (0, 1, 2, 7)
    assert np.array_equal(found.secrets, case.secrets)


def test_a_dealer_whose_shares_never_fit_is_named_and_the_members_are_not():
    case = Answers(9, 6)
    for row in range(9):
        case.lie(row, slice(2, 4))
    found = case.recover()
    assert found.failed == (8,)
    assert found.liars == ()
    assert np.array_equal(found.secrets[[0, 1, 4, 5]], case.secrets[[0, 1, 4, 5]])


def test_with_too_many_liars_nothing_is_recovered_and_no_wrong_secret_passes():
    for liars in itertools.combinations(range(6), 3):
        case = Answers(6, 4)
        for row in liars:
            case.lie(row)
        assert case.recover().failed == (7, 8, 9)


@given(seed=st.integers(0, 2**32))
def test_honest_answers_raise_no_suspicion(seed):
    case = Answers(10, 7, seed)
    assume(len(set(case.points)) == 10)
    assert suspect_rows(case.points, case.shares, 7) == frozenset()
