"""Thirty-four departments, one more than a complete graph and one: they train, say so, and mask with who is left.

Real folders, keys, stores, journal and rounds over links in memory; only the learning is a toy.  t_c = 4, m = 32,
tau = 19, k = 24, and half of 34, 17, must survive.
"""

from __future__ import annotations

import dataclasses

import pytest
from federation import small

from commonroot.common import parcel
from commonroot.common.messages import Masked, Ready, RoundOpen, Train
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.committee import Committee
from commonroot.common.secure_sum.primitives import sha256
from commonroot.simulations.network import Crossing, MemoryNetwork, drop, lie

NAMES = small.MANY


class Learner(small.ToyLearner):
    """The toy, counting how often it trained."""

    trained = 0

    def train(self, charter, received, version, local):
        self.trained += 1
        return super().train(charter, received, version, local)


@pytest.fixture
def running(tmp_path):
    """``running(weather…)``: everyone up and a run queued; each department's learner counts its trainings."""
    made = []

    def start(*weather):
        network = MemoryNetwork(weather=weather)
        network.keep_sent = True
        at_work = small.ToyFederation(small.founded(tmp_path, departments=34, rounds=2), network)
        at_work.learners = {name: Learner(toy.root, name) for name, toy in at_work.learners.items()}
        at_work.start_all()
        at_work.queue()
        made.append(at_work)
        return at_work

    yield start
    for at_work in made:
        at_work.close()


def rounds_of(at_work):
    with small.journal_of(at_work.federation) as journal:
        return [(r.state, RoundOpen.decode(r.opening).cohort) for r in journal.rounds()], journal.runs()[0]


def test_a_run_trains_first_and_opens_each_round_for_who_is_ready(running):
    """Site 5's network swallows its readiness in the first round; it is not in that cohort, and back in the next."""
    swallowed = []

    def swallow(crossing: Crossing, _random):
        if crossing.parcel.kind == parcel.TRAINED and crossing.department == "site-05" and not swallowed:
            swallowed.append(crossing)
            return ()
        return (crossing,)

    broadcasts = []

    def look(crossing: Crossing) -> None:
        if crossing.parcel.kind == parcel.ROUND_OPEN:
            broadcasts.append(crossing.parcel)

    at_work = running(swallow, lie(look))
    at_work.run()
    rounds, run = rounds_of(at_work)
    assert run.state == "finished"
    everyone = tuple(range(34))
    assert rounds == [("closed", tuple(at for at in everyone if at != 5)), ("closed", everyone)]
    assert swallowed
    assert {len(request.body) for request in broadcasts} == {0}  # what was trained on is not sent again
    assert {learner.trained for learner in at_work.learners.values()} == {2}
    sent = [crossing.parcel for crossing in at_work.network.sent_by_departments]
    assert {parcel.TRAINED, parcel.MASKED, parcel.SHARES} <= {one.kind for one in sent}
    members = set(Committee.of(at_work.federation.coordinator.roster()).members)
    opened = {c.department for c in at_work.network.sent_by_departments if c.parcel.kind == parcel.SHARES}
    assert opened <= {NAMES[at] for at in members}
    assert {len(Masked.decode(one.head).boxes) for one in sent if one.kind == parcel.MASKED} <= {31, 32}
    small.check_books(at_work.federation)


def test_a_lost_round_is_retried_without_training_again(running):
    """Every masked upload of the first round is lost: the retry asks again, and nobody trains twice for one version."""
    gone = []

    def lose(crossing: Crossing, _random):
        if crossing.parcel.kind == parcel.MASKED and len(gone) < 34:
            gone.append(crossing)
            return ()
        return (crossing,)

    at_work = running(lose)
    at_work.run()
    rounds, run = rounds_of(at_work)
    assert run.state == "finished"
    assert [state for state, _ in rounds] == ["lost", "closed", "closed"]
    assert {learner.trained for learner in at_work.learners.values()} == {2}


def test_too_few_that_are_ready_lose_the_attempt_and_nothing_is_masked(running):
    at_work = running(drop(1.0, kinds={parcel.TRAINED}, departments=set(NAMES[:18])))
    at_work.run()
    rounds, run = rounds_of(at_work)
    assert rounds == []
    assert run.state == "stopped"
    assert "16 of 34 departments have trained: a cohort of 16: at least 19 are needed" in run.reason
    assert not [c for c in at_work.network.sent_by_departments if c.parcel.kind == parcel.MASKED]


def test_a_readiness_that_is_forged_or_of_another_counts_for_nothing(running):
    """Site 1 answers with site 2's words, and site 3 with a readiness for something else."""
    heard: dict[str, Parcel] = {}

    def forge(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.TRAINED:
            return None
        heard.setdefault(crossing.department, crossing.parcel)
        if crossing.department == "site-03":
            said = Ready.decode(crossing.parcel.head)
            return Parcel(parcel.TRAINED, Ready(bytes(32), said.sender, said.signature).encode())
        if crossing.department == "site-02":
            return heard["site-01"]
        return None

    at_work = running(lie(forge))
    at_work.run()
    rounds, run = rounds_of(at_work)
    assert run.state == "finished"
    assert rounds[0] == ("closed", tuple(at for at in range(34) if at not in (2, 3)))
    with small.journal_of(at_work.federation) as journal:
        assert {(fault["department"], fault["code"]) for fault in journal.faults.all()} >= {
            ("site-02", "CR21"),
            ("site-03", "CR21"),
        }


def test_a_department_that_forgets_what_it_trained_unseen_is_left_out_of_that_round_alone(running):
    """As if restarted too fast to be noticed: the opening without a broadcast is refused, and the next round has it."""
    at_work = running()
    front = at_work.front

    def restarted(name, handle):
        if name != "site-07":
            return front(name, handle)
        state = {"done": False}

        def handler(request):
            if request.kind == parcel.ROUND_OPEN and not state["done"]:
                state["done"] = True
                at_work.sessions[name]._ahead = None
            return handle(request)

        return handler

    at_work.front = restarted
    at_work.kill("site-07")
    at_work.start("site-07")
    at_work.run()
    rounds, run = rounds_of(at_work)
    assert run.state == "finished"
    assert [state for state, _ in rounds] == ["closed", "closed"]
    assert at_work.learners["site-07"].trained == 2
    assert len(at_work.learners["site-07"].contributed) == 2
    with small.journal_of(at_work.federation) as journal:
        assert {f["code"] for f in journal.faults.all() if f["department"] == "site-07"} == {"CR37"}


def test_a_department_that_restarts_after_training_gets_the_broadcast_again_and_is_in_the_round(running):
    """While site 9 is still to train, site 7 says that it has, and is started anew."""
    at_work = running()
    front = at_work.front
    restarted = []

    def watch(name, handle):
        def handler(request):
            if request.kind == parcel.TRAIN and not restarted:
                restarted.append("site-07")
                at_work.kill("site-07")
                at_work.start("site-07")
            return handle(request)

        return handler if name == "site-09" else front(name, handle)

    at_work.front = watch
    at_work.kill("site-09")
    at_work.start("site-09")
    at_work.run()
    rounds, run = rounds_of(at_work)
    assert (run.state, restarted) == ("finished", ["site-07"])
    assert rounds == [("closed", tuple(range(34)))] * 2
    assert at_work.learners["site-07"].trained == 3  # ahead, again after the restart, and for the second round
    with small.journal_of(at_work.federation) as journal:
        assert journal.faults.all() == []
    small.check_books(at_work.federation)


# -- what is kept of it ------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    """Three departments under a charter that asks for a ready stage."""
    network = MemoryNetwork()
    network.keep_sent = True
    with small.running(tmp_path, network=network, departments=3, rounds=2, ready="on") as at_work:
        yield at_work


def test_the_ledger_has_every_readiness_before_it_leaves(three):
    three.run()
    sent = [c.parcel for c in three.network.sent_by_departments if c.parcel.kind == parcel.TRAINED]
    noted = []
    for folder in three.federation.departments.values():
        with small.store_of(folder) as store:
            noted += [entry.facts for entry in store.ledger() if entry.facts.get("what") == parcel.TRAINED]
    assert len(sent) == 6
    assert sorted((f["bytes"], f["digest"]) for f in noted) == sorted((len(p), sha256(p.head).hex()) for p in sent)
    assert {f["round"] for f in noted} == {1, 2}


def test_a_signed_request_to_train_on_something_else_is_kept_as_evidence_and_a_mere_repeat_is_not(three):
    """After the run its requests come again, late: refused as stale, but no lie.  One with another model is one."""
    asked = []
    front = three.sessions["ash"].handle

    def watch(request):
        asked.extend([request] if request.kind == parcel.TRAIN else [])
        return front(request)

    three.network.attach(three._keys["ash"], "ash", watch)
    three.run()
    assert len(asked) == 2
    for request in asked:
        assert three.sessions["ash"].handle(request).kind == parcel.REFUSAL
    with small.store_of(three.federation.departments["ash"]) as store:
        assert store.evidence() == []
    honest = Train.decode(asked[1].head)
    fields = {f.name: getattr(honest, f.name) for f in dataclasses.fields(Train) if f.name != "signature"}
    lie_ = Train.signed(three.federation.coordinator.identity(), **(fields | {"broadcast": bytes(32)}))
    assert three.sessions["ash"].handle(Parcel(parcel.TRAIN, lie_.encode(), b"")).kind == parcel.REFUSAL
    with small.store_of(three.federation.departments["ash"]) as store:
        (exhibit,) = store.evidence()
    told = exhibit.describe()
    assert (told["kind"], told["code"], told["round"], told["signed"]) == (parcel.TRAIN, "CR24", 2, True)
    assert (told["against"], told["contradicts_signed"]) == (parcel.TRAIN, True)
    assert exhibit.accepted == asked[1].head
