"""Nothing that opens a round's masks is left on disk once it was used."""

from __future__ import annotations

from typing import Any

from federation import small
from federation.epochs import occurs

from commonroot.common.roster import Roster
from commonroot.common.secure_sum.agreement import AgreementKey
from commonroot.common.secure_sum.epoch import EpochSetup
from commonroot.simulations.founding import next_epoch
from commonroot.simulations.network import MemoryNetwork


def test_no_private_key_and_no_root_is_left_on_disk_once_all_have_met(tmp_path, monkeypatch):
    """Every byte of every department's folder is searched, write-ahead logs included, raw and in hexadecimal."""
    keys: dict[str, AgreementKey] = {}
    secrets: list[bytes] = []
    made = EpochSetup.begin.__func__
    real = EpochSetup._meet

    def begin(cls: type, roster: Roster, identity: Any, key: AgreementKey, peers: Any = None) -> EpochSetup:
        keys[roster.departments[roster.index_of(identity.public)].name] = key
        setup = made(cls, roster, identity, key, peers)
        secrets.extend((*setup.curve.values(), *setup.roots.values()))
        return setup

    def meet(self: EpochSetup, *about: Any) -> EpochSetup:
        after = real(self, *about)
        secrets.extend(after.roots.values())
        return after

    monkeypatch.setattr(EpochSetup, "begin", classmethod(begin))
    monkeypatch.setattr(EpochSetup, "_meet", meet)
    federation = next_epoch(small.founded(tmp_path, departments=4))
    assert set(keys) == set(small.NAMES[:4])
    for name, folder in federation.departments.items():
        assert not occurs(keys[name].curve, folder.root)
        assert occurs(keys[name].seed, folder.root) == (name != "ash")  # ash awaits nobody's ciphertext
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        at_work.start_all()
        small.introduce(at_work)
        for name, folder in federation.departments.items():
            assert not occurs(keys[name].seed, folder.root)
            assert not any(occurs(secret, folder.root) for secret in set(secrets))
    assert len(set(secrets)) == 6 + 6  # for each pair what its higher end agreed on the curve, and the root


def test_the_chains_of_a_round_are_gone_from_disk_once_it_was_answered(tmp_path):
    with small.running(tmp_path, departments=3) as at_work:
        held: dict[str, list[bytes]] = {name: [] for name in at_work.sessions}

        def note(kind: str, facts: dict[str, Any]) -> None:
            if kind == "opening":
                for name, session in at_work.sessions.items():
                    held[name] += session._machine.memory.chains.rounds

        at_work.run(note)
        for name, folder in at_work.federation.departments.items():
            assert len(set(held[name])) == 9
            assert not any(occurs(key, folder.root) for key in held[name])


def test_joining_the_next_epoch_erases_the_chains_of_the_last(tmp_path):
    with small.running(tmp_path, departments=3) as at_work:
        at_work.run()
        chains = {name: session._machine.memory.chains for name, session in at_work.sessions.items()}
    for name, folder in at_work.federation.departments.items():
        assert all(occurs(key, folder.root) for key in chains[name].rounds)
    later = next_epoch(at_work.federation)
    for name, folder in later.departments.items():
        assert not any(occurs(key, folder.root) for key in (*chains[name].rounds, *chains[name].blocks))
        with small.store_of(folder) as store:
            assert (store.memory(1), store.setup(1)) == (None, None)
