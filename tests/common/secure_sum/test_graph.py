"""The ring, its window rule, and the committee: what they promise whichever departments collude or drop out."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from large_federation import LargeFederation
from sum_federation import Federation

from commonroot.common.secure_sum.committee import Committee, peers_of
from commonroot.common.secure_sum.edges import RoundEdges, cohort_fault
from commonroot.common.secure_sum.graph import MaskGraph, shuffled, survivors_per_window

SIXTY = LargeFederation(60)


def connected(graph: MaskGraph, departments: set[int]) -> bool:
    """Breadth first, over ``neighbours`` alone."""
    reached, todo = set(), deque(sorted(departments)[:1])
    while todo:
        at = todo.popleft()
        if at not in reached:
            reached.add(at)
            todo.extend(set(graph.neighbours(at)) & departments)
    return reached == departments


@given(data=st.data())
def test_no_colluders_split_honest_survivors_that_satisfy_the_window_rule(data):
    """Survivor sets at the edge of the rule: whoever can be taken out without breaking it is, in any order; then the
    colluders are first whoever stands in two windows, which is what an attacker would choose, then anybody."""
    n = data.draw(st.integers(12, 40))
    reach = data.draw(st.integers(2, (n - 2) // 2))
    colluders = data.draw(st.integers(0, reach - 1))
    graph = MaskGraph(tuple(data.draw(st.permutations(range(n)))), reach)
    survivors = set(range(n))
    for at in data.draw(st.permutations(range(n))):
        if graph.thin(survivors - {at}, colluders) is None:
            survivors.remove(at)
    assert graph.thinnest_window(survivors) >= survivors_per_window(colluders)
    first, second = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    rows = [graph.order[(start + step) % n] for start in (first, second) for step in range(reach)]
    tempting = [at for at in dict.fromkeys(rows) if at in survivors]
    anybody = data.draw(st.permutations(sorted(survivors)))
    honest = survivors - set(list(dict.fromkeys([*tempting, *anybody]))[:colluders])
    assert connected(graph, honest)


@pytest.mark.parametrize(("reach", "colluders"), [(3, 2), (4, 3), (6, 4), (6, 5), (9, 8)])
def test_one_survivor_fewer_in_two_windows_can_be_split_by_the_colluders(reach, colluders):
    """The rule is tight: t_c colluders, ⌊t_c/2⌋ in one window and ⌈t_c/2⌉ in another, are all that stands there."""
    n = 4 * reach
    graph = MaskGraph(tuple(range(n)), reach)
    traitors = {*range(colluders // 2), *range(2 * reach, 2 * reach + (colluders + 1) // 2)}
    between = {*range(reach, 2 * reach), *range(3 * reach, n)}
    assert graph.thinnest_window(between | traitors) == survivors_per_window(colluders) - 1
    assert not connected(graph, between)


def test_the_ring_worked_by_hand():
    """0 1 2 3 4 5 6 7 8 on the ring, reach 2; without 3 and 4 the window (3, 4) is empty and 2, 5 are not joined."""
    graph = MaskGraph(tuple(range(9)), 2)
    assert graph.neighbours(0) == (1, 2, 7, 8)
    assert graph.neighbours(4) == (2, 3, 5, 6)
    assert graph.thinnest_window(range(9)) == 2
    assert graph.thinnest_window({0, 1, 2, 5, 6, 7, 8}) == 0
    assert graph.thinnest_window({1, 3, 5, 7, 0}) == 1
    assert graph.thin({1, 3, 5, 7, 0}, 1) is None
    assert "1 of some 2" in graph.thin({1, 3, 5, 7, 0}, 2)


def test_every_department_has_degree_neighbours_and_is_theirs():
    degree = SIXTY.parameters.degree
    for at in range(60):
        around = SIXTY.graph.neighbours(at)
        assert len(set(around)) == degree
        assert at not in around
        assert list(around) == sorted(around)
        assert all(at in SIXTY.graph.neighbours(other) for other in around)


def test_the_ring_and_the_committee_follow_from_the_roster_and_change_with_it():
    again, other = LargeFederation(60), LargeFederation(60, seed=2)
    assert MaskGraph.of(again.roster) == SIXTY.graph
    assert again.committee == SIXTY.committee
    assert other.graph.order != SIXTY.graph.order
    assert other.committee != SIXTY.committee
    assert sorted(SIXTY.graph.order) == list(range(60))
    assert shuffled("ring", bytes(32), 60) != shuffled("committee", bytes(32), 60)


def test_up_to_32_departments_the_graph_is_complete_and_everyone_opens():
    roster = Federation(5).roster
    assert MaskGraph.of(roster).neighbours(2) == (0, 1, 3, 4)
    assert MaskGraph.of(roster).thin([0, 1], 1) is None
    assert Committee.of(roster).members == (0, 1, 2, 3, 4)
    assert Committee.of(roster).points() == {0: 1, 1: 2, 2: 3, 3: 4, 4: 5}
    assert peers_of(roster, 2) == (0, 1, 3, 4)


def test_chains_are_needed_with_neighbours_and_the_committee_alone():
    members = set(SIXTY.committee)
    assert len(members) == SIXTY.parameters.committee
    for at in range(60):
        peers = peers_of(SIXTY.roster, at)
        if at in members:
            assert set(peers) == set(range(60)) - {at}
        else:
            assert set(peers) == set(SIXTY.graph.neighbours(at)) | members
        assert list(peers) == sorted(peers)
        assert all(at in peers_of(SIXTY.roster, other) for other in peers)


@given(st.sets(st.integers(0, 59), min_size=40), st.data())
def test_a_round_needs_no_chain_that_an_epoch_does_not_make(cohort, data):
    edges = RoundEdges(SIXTY.roster, tuple(sorted(cohort)))
    at = data.draw(st.sampled_from(sorted(cohort)))
    assert set(edges.partners(at)) == set(peers_of(SIXTY.roster, at)) & cohort
    assert edges.dealt(at) == (at, *sorted(set(SIXTY.graph.neighbours(at)) & cohort))
    assert edges.members == tuple(member for member in SIXTY.committee if member in cohort)


@given(data=st.data())
def test_shares_of_an_absent_department_are_asked_only_from_its_neighbours(data):
    edges = RoundEdges(SIXTY.roster, tuple(range(60)))
    survivors = tuple(sorted(data.draw(st.sets(st.integers(0, 59), min_size=30))))
    asked = edges.wanted(survivors)
    expected = [(i, i) for i in survivors]
    expected += [(i, j) for i in survivors for j in SIXTY.graph.neighbours(i) if j not in survivors]
    assert sorted(asked) == sorted(expected)
    assert [dealer for dealer, _ in asked] == sorted(dealer for dealer, _ in asked)


def test_a_cohort_that_could_never_be_opened_is_told_by_its_reason():
    """60 departments: t_c = 6, m = 40, tau = 24, k = 28, u_min = 30: 14 in a row on the ring keep at least 4."""
    p = SIXTY.parameters
    assert (p.colluders, p.committee, p.opening_quorum, p.degree, p.survivors_min) == (6, 40, 24, 28, 30)
    everyone = set(range(60))
    assert cohort_fault(SIXTY.roster, everyone, 3) is None
    assert cohort_fault(SIXTY.roster, set(range(29)), 3) == "a cohort of 29: at least 30 are needed"
    assert cohort_fault(SIXTY.roster, everyone, 61) == "a cohort of 60: at least 61 are needed"
    assert "23 members" in cohort_fault(SIXTY.roster, everyone - set(SIXTY.committee[:17]), 3)
    assert cohort_fault(SIXTY.roster, everyone - set(SIXTY.row(5, 10)), 3) is None
    assert "3 of some 14" in cohort_fault(SIXTY.roster, everyone - set(SIXTY.row(5, 11)), 3)
