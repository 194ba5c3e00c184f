"""Key chains: both ends agree, nobody else does, and nothing earlier can be had back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sum_federation import Federation

from commonroot.common.errors import ForeignState, StaleRound, UsageError
from commonroot.common.secure_sum.chains import BLOCK, STRANGER, Chains

N = 4
FEDERATION = Federation(N)
CHAINS = [machine.memory.chains for machine in FEDERATION.machines]


@given(st.integers(0, 3 * BLOCK))
def test_both_ends_of_every_pair_hold_the_same_chain_and_all_others_differ(round_number):
    held = [chains.forward(round_number).rounds for chains in CHAINS]
    assert all(held[i][j] == held[j][i] for i in range(N) for j in range(N))
    pairs = {held[i][j] for i in range(N) for j in range(i, N)}
    assert len(pairs) == N * (N + 1) // 2


@given(st.lists(st.integers(0, 3 * BLOCK), min_size=1, max_size=5))
def test_a_department_that_sat_rounds_out_agrees_with_one_that_did_not(stops):
    last = max(stops)
    walked = CHAINS[0]
    for stop in sorted(stops):
        walked = walked.forward(stop)
    assert walked == CHAINS[0].forward(last)


def test_every_round_has_its_own_chain_also_across_blocks():
    chains, seen = CHAINS[0], set()
    for round_number in range(2 * BLOCK + 3):
        chains = chains.forward(round_number)
        seen.add(chains.rounds[1])
        assert chains.at == round_number
    assert len(seen) == 2 * BLOCK + 3


def test_what_is_kept_holds_no_key_of_an_earlier_round_or_block():
    """Every key held at rounds 0..k is compared with what is held later: none survives its round."""
    chains, before = CHAINS[0], set()
    for round_number in range(BLOCK + 2):
        chains = chains.forward(round_number)
        assert not before & set(chains.rounds)
        before |= set(chains.rounds)
    assert not before & set(chains.blocks)


def test_a_chain_is_never_turned_back():
    with pytest.raises(StaleRound):
        CHAINS[0].forward(5).forward(4)


def test_the_farthest_round_a_roster_may_name_is_reached_in_few_steps(monkeypatch):
    from commonroot.common.secure_sum import chains as module

    calls = []
    real = module.derive
    monkeypatch.setattr(module, "derive", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    one = Chains(0, CHAINS[0].blocks[:1], CHAINS[0].rounds[:1])
    one.forward(1_000_000)
    assert len(calls) <= 1_000_000 // BLOCK + BLOCK + 2


@given(st.integers(0, 3 * BLOCK), st.integers(0, 3 * BLOCK))
def test_a_pair_that_meets_late_is_in_step_whenever_each_end_met(early, late):
    """One end holds the chain from round 0, the other gets it at its own round: at any later round both are alike."""
    root, last = bytes(range(32)), 3 * BLOCK + 7
    from_the_start = Chains.begin(3, 0, bytes(32)).meet({2: root}).forward(early)
    comes_late = Chains.begin(3, 2, bytes(32)).forward(late).meet({0: root})
    assert from_the_start.forward(last).rounds[2] == comes_late.forward(last).rounds[0]
    assert comes_late.at == late


def test_a_stranger_has_no_key_at_any_round_and_a_chain_is_never_replaced():
    chains = Chains.begin(3, 0, bytes(32)).meet({2: bytes(32)}).forward(BLOCK + 1)
    assert (chains.holds(0), chains.holds(1), chains.holds(2)) == (True, False, True)
    assert chains.rounds[1] == chains.blocks[1] == STRANGER
    with pytest.raises(UsageError):
        chains.meet({2: bytes(32)})


def test_chains_that_do_not_fit_are_refused_and_never_shown():
    with pytest.raises(ForeignState):
        Chains(0, (bytes(32),), ())
    with pytest.raises(ForeignState):
        Chains(0, (bytes(31),), (bytes(32),))
    with pytest.raises(ForeignState):
        Chains(0, (bytes(32),), (STRANGER,))
    assert CHAINS[0].rounds[1].hex() not in repr(FEDERATION.machines[0].memory)
    assert repr(CHAINS[0]) == "Chains(at=0)"
