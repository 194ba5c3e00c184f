"""Who cannot take part in a run is left out of it and named."""

from __future__ import annotations

from federation import small

from commonroot.simulations.founding import write_table
from commonroot.simulations.network import MemoryNetwork


def test_a_charter_that_a_department_did_not_approve_is_refused_there_and_named_in_the_runs_reason(tmp_path):
    federation = small.founded(tmp_path)
    for path in (federation.departments["birch"].root / "charters").iterdir():
        path.unlink()
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        at_work.start_all()
        at_work.queue()
        at_work.run()
        # People may decide meanwhile, so birch is asked again and again; that it says the same is told once.
        assert {facts["code"] for facts in at_work.told("refused")} == {"CR12"}
        with small.journal_of(federation) as journal:
            assert journal.runs()[0].state == "stopped"
            assert "'birch' refused with CR12" in journal.runs()[0].reason
            assert journal.rounds() == []
            (fault,) = journal.faults.all()
            assert fault["department"] == "birch" and "refused with CR12" in fault["what"]


def test_a_department_whose_data_does_not_fit_is_left_out_and_named(tmp_path):
    """The real learner: birch's table lost a column after the charter was approved."""
    federation = small.founded(tmp_path)
    x, y = small.table(1, 83, "binary")
    write_table(federation.departments["birch"].root / "rows.npz", x[:, :5], y)
    small.trained(federation)
    with small.journal_of(federation) as journal:
        assert "'birch' refused with CR11" in journal.runs()[0].reason
