"""The law that everything rests on: what a real round opens is the sum of what its survivors' learners contributed.

Departments are sessions on their folders, the coordinator is the round driver on its journal; between them a network
that loses uploads.  Every example is one round more of the same federation, from a backbone of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from federation import small
from hypothesis import given, settings
from hypothesis import strategies as st

from commonroot.client.contribution import Trained
from commonroot.common import parcel
from commonroot.common.errors import NotEnoughUploads
from commonroot.common.manifest import flatten
from commonroot.common.messages import Previous, RoundOpen
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.primitives import sha256
from commonroot.server.exchange import Exchange
from commonroot.server.round import RoundDriver, RoundResult
from commonroot.simulations.network import Crossing, MemoryNetwork


class Rounds:
    """Opens one round after another on a federation of five that stays up."""

    def __init__(self, root: Any) -> None:
        self.silent: set[str] = set()
        network = MemoryNetwork(weather=[self._weather])
        self.at_work = small.running(root, network=network, departments=5, rounds=10_000)
        self.charter = self.at_work.federation.charter.charter
        self.roster = self.at_work.federation.coordinator.roster()
        self.names = [member.name for member in self.roster.departments]
        self.number = 0
        small.introduce(self.at_work)

    def _weather(self, crossing: Crossing, _random: Any) -> tuple[Crossing, ...]:
        lost = crossing.parcel.kind == parcel.MASKED and crossing.department in self.silent
        return () if lost else (crossing,)

    def open(self, cohort: tuple[int, ...], silent: set[str], scale: float) -> tuple[RoundResult, RoundOpen]:
        """One round from a backbone that no round began from before."""
        self.number += 1
        self.silent = silent
        random = np.random.default_rng(self.number)
        first = self.charter.backbone.initial(self.charter.training.seed)
        state = {
            name: first[name] + random.normal(0, 0.05, size=shape).astype(np.float32)
            for name, shape in self.charter.broadcast
        }
        broadcast = flatten(state, self.charter.broadcast)
        largest = SumCodec(self.charter.manifest, len(self.names)).initial_bounds()
        key = self.at_work.federation.coordinator.identity()
        opening = RoundOpen.signed(
            key,
            charter=self.charter.digest,
            roster=self.roster.digest,
            epoch=self.roster.epoch,
            round=self.number,
            version=self.number,
            cohort=cohort,
            broadcast=sha256(broadcast),
            manifest=self.charter.manifest.digest,
            bounds=tuple((largest * np.float32(scale)).tolist()),
            upload_seconds=5,
            previous=Previous(),
        )
        with small.journal_of(self.at_work.federation) as journal:
            journal.open_round(self.number, 1, self.number, opening.encode())
            exchange = Exchange(self.at_work.network, self.roster, self.at_work.network.clock, absence=10)
            driver = RoundDriver(
                roster=self.roster,
                identity=key,
                charter=self.charter,
                journal=journal,
                exchange=exchange,
                on_fault=lambda who, code, what: pytest.fail(f"{who}: {what} ({code})"),
                on_progress=lambda kind, facts: None,
            )
            return driver.drive(opening, broadcast, None), opening


@pytest.fixture(scope="module")
def rounds(module_path):
    made = Rounds(module_path)
    yield made
    made.at_work.close()


@settings(max_examples=40)
@given(
    cohort=st.sets(st.integers(0, 4), min_size=4).map(lambda s: tuple(sorted(s))),
    missing=st.lists(st.integers(0, 4), max_size=2),
    reach=st.floats(1e-6, 30.0),
    scale=st.floats(1e-4, 1.0),
)
def test_the_opened_sum_is_the_sum_of_what_the_survivors_contributed(rounds, cohort, missing, reach, scale):
    """Within ``error_bound`` for every element of every term, clipping included, whoever of the cohort is lost.

    The least cohort of five is the opening quorum, 4 = ⌊(5 + 1)/2⌋ + 1, and so is the least survivor set that is fixed.
    """
    silent = {rounds.names[who] for who in missing}
    for learner in rounds.at_work.learners.values():
        learner.reach = reach
    expected = [who for who in cohort if rounds.names[who] not in silent]
    if len(expected) < 4:
        with pytest.raises(NotEnoughUploads):
            rounds.open(cohort, silent, scale)
        return
    result, opening = rounds.open(cohort, silent, scale)
    assert list(result.survivors) == expected
    given_terms = [rounds.at_work.learners[rounds.names[who]].contributed[rounds.number] for who in expected]
    codec = SumCodec(rounds.charter.manifest, len(cohort))
    allowed = codec.error_bound(len(expected), opening.bounds)
    bounds = dict(zip([t.name for t in rounds.charter.manifest.lane("fixed16")], opening.bounds, strict=True))
    for term in rounds.charter.manifest.terms:
        limit = bounds.get(term.name, np.inf)
        plain = sum(np.clip(np.asarray(terms[term.name], dtype=float), -limit, limit) for terms in given_terms)
        assert float(np.abs(result.opened.values[term.name] - plain).max()) <= allowed[term.name], term.name


def test_the_law_can_fail(rounds, monkeypatch):
    """A session that contributes a little more than its learner gave is seen: 1 % of the weight is beyond the bound."""
    session = rounds.at_work.sessions["ash"]
    honest = session._mask

    def generous(charter: Any, opening: Any, trained: Any, prepared: Any) -> Any:
        more = dict(trained.terms) | {"weight": trained.terms["weight"] * 1.01}
        return honest(charter, opening, dataclasses.replace(trained, terms=more), prepared)

    monkeypatch.setattr(session, "_mask", generous)
    result, opening = rounds.open((0, 1, 2, 3), set(), 1.0)
    given_terms = [rounds.at_work.learners[rounds.names[who]].contributed[rounds.number] for who in range(4)]
    allowed = SumCodec(rounds.charter.manifest, 4).error_bound(4, opening.bounds)["weight"]
    assert abs(float(result.opened.values["weight"]) - sum(float(t["weight"]) for t in given_terms)) > allowed


def test_a_round_retried_for_the_same_backbone_contributes_the_very_same_numbers(rounds):
    """Rounding is a function of the version: two rounds over one contribution must not average the rounding away."""
    session = rounds.at_work.sessions["ash"]
    seen = []
    honest = session._machine.mask

    def watched(opened: RoundOpen, lanes16: Any, lanes64: Any, random: Any) -> Any:
        seen.append((lanes16.copy(), lanes64.copy()))
        return honest(opened, lanes16, lanes64, random)

    session._machine.mask = watched
    _, opening = rounds.open((0, 1, 2, 3), set(), 1.0)
    terms = rounds.at_work.learners["ash"].contributed[rounds.number]
    again = dataclasses.replace(opening, round=opening.round + 1)
    session._machine._reviewed = (again.transcript, 3)
    rounds.number += 1
    session._mask(rounds.charter, again, Trained(terms, {}), session._machine.prepare(again, session._random))
    session._machine = session._stored_machine()
    assert np.array_equal(seen[0][0], seen[1][0])
    assert np.array_equal(seen[0][1], seen[1][1])
