"""What a masked vector looks like to whoever lacks one last mask: noise, whatever is in it.

Department 1 of four uploads all zeros in one half of the rounds, and all ones (the largest lanes there are) in the
other.  The adversary is given everything of those uploads but one secret: it takes off every mask except the
department's own (as when that is claimed dropped), or every mask except the one with one honest neighbour (as when it
survives and the others collude).  What is left then hides the vector by that one mask alone.

The battery, and what it can see.  N bytes are counted: χ² over 256 values has 255 degrees of freedom, mean 255 and
standard deviation 22.6; the threshold of 420 is passed by chance once in 10^9.  If byte values have relative unevenness
w (root mean square of 256·p - 1), χ² grows by N·w² on average: with N = 96,000 a w of 0.08 adds 614 with a deviation
below 60, and is missed less than once in 10^9.  Correlations of N pairs have standard deviation N^-1/2, so that 6.5 of
these, once in 10^10 by chance, are a correlation of 0.021.  A missing mask leaves constant bytes: w = 16, χ² = 255·N.
Keys come from a seed, so that nothing here is chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import sum_federation
from proofs import reference
from sum_federation import BROADCAST, Federation

from commonroot.common.charter import TermSpec
from commonroot.common.messages import Masked, Shares
from commonroot.common.secure_sum import department

ROUNDS, ME, OTHERS = 40, 1, (0, 2, 3)
#: 1,000 16-bit lanes and 50 of 64 bits, with the codec's own some more: 2,400 bytes and a little in each upload.
TERMS = (
    TermSpec(name="update/weight", shape=(1000,), lane="fixed16", bound=1.0),
    TermSpec(name="table", shape=(50,), lane="fixed64", bound=1000.0),
)
CHI_SQUARE, DEVIATIONS = 420.0, 6.5
Vectors = np.ndarray
Secrets = list[dict[int, bytes]]


def chi_square(data: np.ndarray) -> float:
    seen = np.bincount(data.ravel(), minlength=256)
    expected = data.size / 256
    return float(((seen - expected) ** 2 / expected).sum())


def two_sample(left: np.ndarray, right: np.ndarray) -> float:
    """χ² of two histograms of equally many bytes being of one distribution, 255 degrees of freedom."""
    a, b = (np.bincount(each.ravel(), minlength=256) for each in (left, right))
    both = a + b
    return float(((a - b)[both > 0] ** 2 / both[both > 0]).sum())


def deviations(left: np.ndarray, right: np.ndarray) -> float:
    """How many standard deviations the correlation of two equally long runs of bytes is from zero."""
    a, b = (each.ravel().astype(float) - each.mean() for each in (left, right))
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float("inf") if spread == 0.0 else abs(float(a @ b)) / spread * np.sqrt(a.size)


def battery(zeros: Vectors, ones: Vectors) -> list[str]:
    """Everything that tells these two samples (vectors, bytes) from noise or from one another, by name."""
    found = []
    for what, sample in (("zeros", zeros), ("ones", ones)):
        if chi_square(sample) > CHI_SQUARE:
            found.append(f"byte values of {what}")
        for place in range(8):
            # every byte of a 64-bit word by itself, so that a faulty high byte does not drown in seven good ones
            if chi_square(sample[:, place::8]) > CHI_SQUARE:
                found.append(f"byte values of {what} at place {place} of 8")
        for lag in (1, 2, 8):
            if deviations(sample[:, :-lag], sample[:, lag:]) > DEVIATIONS:
                found.append(f"bytes of {what} follow one another at a distance of {lag}")
        if deviations(sample[:-1], sample[1:]) > DEVIATIONS:
            found.append(f"vectors of {what} resemble the next")
        if chi_square(sample[1:] - sample[:-1]) > CHI_SQUARE:
            found.append(f"differences between vectors of {what}")
    if two_sample(zeros, ones) > CHI_SQUARE:
        found.append("zeros and ones have different byte values")
    if deviations(zeros, ones) > DEVIATIONS:
        found.append("zeros and ones resemble one another")
    return found


class Wide(Federation):
    """Departments that contribute ``TERMS``."""

    def values(self, department: int, seed: int = 0) -> dict[str, np.ndarray]:
        return {term.name: np.zeros(term.shape) for term in TERMS}


class Uploads:
    """Many uploads of department 1, half of zeros and half of ones, and all that went into them."""

    def __init__(self, rounds: int = ROUNDS) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sum_federation, "TERMS", TERMS)
            self.federation = Wide(4, colluders=1, seed=11)
        self.widths: list[tuple[int, int]] = []
        self.zeros, self.ones = [], []
        self.zero_secrets: Secrets = []
        self.one_secrets: Secrets = []
        begun = self.federation.machines[ME].memory.chains
        for number in range(1, 2 * rounds + 1):
            opening = self.federation.opening(number)
            lanes = self.federation.lanes(ME, opening)
            ones = number % 2
            for part in lanes:
                part.fill(np.iinfo(part.dtype).max if ones else 0)
            self.widths = [(part.size, part.dtype.itemsize) for part in lanes]
            body, own = self._masked(opening, lanes)
            transcript = reference.tagged_hash("transcript", opening.unsigned())
            secrets = {ME: own}
            for peer in OTHERS:
                chain = reference.chain_at(begun.blocks[peer], begun.rounds[peer], number)
                secrets[peer] = reference.pair_secret(chain, transcript)
            (self.ones if ones else self.zeros).append(np.frombuffer(body, np.uint8))
            (self.one_secrets if ones else self.zero_secrets).append(secrets)

    def _masked(self, opening, lanes) -> tuple[bytes, bytes]:
        """The body that the real machine sends, and the b that it drew."""
        drawn: list[bytes] = []

        def random(size: int) -> bytes:
            drawn.append(self.federation.random(size))
            return drawn[-1]

        machine = self.federation.machines[ME]
        reviewed = machine.review(opening.encode(), BROADCAST, charter=self.federation.charter)
        _, body, _ = machine.mask(reviewed, *lanes, random)
        (own,) = (each for each in drawn if len(each) == 32)
        return bytes(body), own

    def without(self, *gone: int) -> tuple[Vectors, Vectors]:
        """Both samples with some masks taken off: ``ME`` for its own, otherwise that of a pair."""
        return (
            np.array([self._bare(b, s, gone) for b, s in zip(self.zeros, self.zero_secrets, strict=True)]),
            np.array([self._bare(b, s, gone) for b, s in zip(self.ones, self.one_secrets, strict=True)]),
        )

    def _bare(self, body: np.ndarray, secrets: dict[int, bytes], gone: tuple[int, ...]) -> np.ndarray:
        parts, at = [], 0
        bulk, word = self.widths[0]
        for (size, width), begin in zip(self.widths, reference.begins(bulk * word), strict=True):
            lanes = body[at : at + size * width].view(f"<u{width}").copy()
            for who in gone:
                noise = reference.keystream(secrets[who], begin + size * width)[begin:]
                stream = np.frombuffer(noise, f"<u{width}")
                if who == ME or reference.pair_sign(ME, who) == 1:
                    lanes -= stream
                else:
                    lanes += stream
            parts.append(lanes.view(np.uint8))
            at += size * width
        return np.concatenate(parts)


@pytest.fixture(scope="module")
def uploads() -> Uploads:
    return Uploads()


ALL = (ME, *OTHERS)
NAMES = {ME: "its own", **{peer: f"that with {peer}" for peer in OTHERS}}


def test_uploads_of_zeros_and_of_ones_are_noise_and_cannot_be_told_apart(uploads):
    zeros, ones = uploads.without()
    assert zeros.size == ones.size >= 96_000
    assert battery(zeros, ones) == []


@pytest.mark.parametrize("last", ALL, ids=lambda who: f"only {NAMES[who]}")
def test_any_one_mask_alone_still_hides_everything(last, uploads):
    assert battery(*uploads.without(*(who for who in ALL if who != last))) == []


@pytest.mark.parametrize("forgotten", ALL, ids=lambda who: f"not {NAMES[who]}")
def test_a_machine_that_leaves_out_one_mask_is_found_out(forgotten, monkeypatch):
    """The real machine, made to skip one stream: whoever lacks no mask but that one sees the vector as it is.

    8 rounds of each sort are enough: N = 19,000, χ² = 255·N = 5·10^6.
    """

    def forgetful(honest: Callable[..., None], bulk: np.ndarray, exact: np.ndarray, streams: Sequence, **more: int):
        kept = list(streams)
        del kept[ALL.index(forgotten)]  # the own one first, then the pairs' in order
        honest(bulk, exact, kept, **more)

    for name in ("add_streams", "fill_streams"):  # masks made at once, and masks made ahead
        monkeypatch.setattr(department, name, partial(forgetful, getattr(department, name)))
    made = Uploads(rounds=8)
    assert battery(*made.without()) == [], "from outside nothing shows: that is why the other masks are taken off"
    zeros, ones = made.without(*(who for who in ALL if who != forgotten))
    assert not zeros.any()
    assert (ones == 255).all()
    found = battery(zeros, ones)
    assert {"byte values of zeros", "byte values of ones", "zeros and ones have different byte values"} <= set(found)


# -- the battery can see less than that --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noise() -> tuple[Vectors, Vectors]:
    random = np.random.default_rng(3)
    return tuple(random.integers(0, 256, (ROUNDS, 2424), dtype=np.uint8) for _ in range(2))


def test_the_battery_lets_noise_pass(noise):
    assert battery(*noise) == []


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("one byte in 64 unmasked", "byte values of zeros"),
        ("the top byte of every word unmasked", "byte values of zeros at place 7 of 8"),
        ("one mask for all rounds", "vectors of zeros resemble the next"),
        ("one mask for zeros and ones", "zeros and ones resemble one another"),
        ("a keystream that repeats after 8 bytes", "bytes of zeros follow one another at a distance of 8"),
        ("a counter that stands still in every other round", "differences between vectors of zeros"),
    ],
)
def test_smaller_faults_are_seen_too(fault, seen, noise):
    zeros, ones = (each.copy() for each in noise)
    if fault.startswith("one byte"):
        zeros[:, ::64] = 0
    elif fault.startswith("the top byte"):
        zeros[:, 7::8] = 0
    elif fault == "one mask for all rounds":
        zeros[:] = zeros[0]
    elif fault == "one mask for zeros and ones":
        ones = ~zeros
    elif fault.startswith("a keystream"):
        zeros = np.tile(zeros[:, :8], 303)
    else:
        zeros[1::2] = zeros[::2]
    assert seen in battery(zeros, ones)


# -- a department that is claimed dropped ------------------------------------------------------------------------------


def test_what_the_coordinator_holds_of_a_department_it_claimed_dropped_does_not_decode():
    """Department 3 of five uploaded; U = {0, 1, 2, 4} is opened by all five, so the coordinator holds every pairwise
    mask on department 3's vector.  It takes them off, and what is left is not the vector: b is still on it.

    With b, which no member gives any more, it would be.  The chance that noise equals more than 3 of 38 lanes of 16
    bits is below (38 over 4)·2^-64.
    """
    federation = Federation(5, seed=9)
    opening = federation.opening()
    plain = federation.lanes(3, opening)
    drawn: list[bytes] = []
    source = federation.random
    federation.random = lambda size: drawn.append(source(size)) or drawn[-1]
    head, body = federation.upload(3, opening)
    federation.random = source
    at_work = federation.gathered(opening, [0, 1, 2, 4])
    survivors = at_work.fix()
    answers: dict[int, Shares] = {}
    for member in range(5):
        answers[member] = Shares.decode(
            federation.machines[member].answer(federation.confirm(at_work).open_for(member))[0]
        )
    transcript = reference.tagged_hash("transcript", opening.unsigned())
    commitments = dict(zip((3, 0, 1, 2, 4), Masked.decode(head).commitments, strict=True))
    lanes: list[list[int]] = []
    at = 0
    pairs = {}
    for place, peer in enumerate(survivors):
        # for each survivor a share of its own mask, then of the one it shares with department 3
        pairs[peer] = reference.join({m + 1: answer.shares[2 * place + 1] for m, answer in answers.items()})
        assert reference.commit_pair(transcript, pairs[peer]) == commitments[peer]
    begins = reference.begins(plain[0].nbytes)
    for part, begin in zip(plain, begins, strict=True):
        width = part.dtype.itemsize
        lanes.append(reference.words(body[at : at + part.nbytes], width))
        for peer, secret in pairs.items():
            lanes[-1] = reference.add_mask(lanes[-1], width, begin, -reference.pair_sign(3, peer), secret)
        at += part.nbytes
    assert sum(a == int(b) for a, b in zip(lanes[0], plain[0], strict=True)) <= 3
    assert all(a != int(b) for a, b in zip(lanes[1], plain[1], strict=True))
    (own,) = (each for each in drawn if len(each) == 32)
    assert reference.commit_self(transcript, 3, own) == commitments[3]
    for kind, (part, begin) in enumerate(zip(plain, begins, strict=True)):
        assert reference.add_mask(lanes[kind], part.dtype.itemsize, begin, -1, own) == part.tolist()
