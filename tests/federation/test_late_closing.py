"""A department that was away when the run ended gets the final backbone when it is back."""

from __future__ import annotations

from federation import small

from commonroot.server.backbones import BackboneStore
from commonroot.server.coordinator import LateClosings
from commonroot.server.exchange import Exchange
from commonroot.server.journal_rows import Run
from commonroot.server.run import RunDriver


def test_a_department_that_comes_back_after_the_end_takes_over_the_final_backbone(tmp_path):
    with small.running(tmp_path, departments=4) as at_work, small.journal_of(at_work.federation) as journal:

        def kill_before_the_end(kind, facts):
            if kind == "closed" and facts["version"] == 3:
                at_work.kill("birch")

        at_work.run(on_event=kill_before_the_end)
        assert journal.runs()[0].state == "finished"
        assert "birch" not in journal.closed_departments(1)

        coordinator = at_work.federation.coordinator
        asked = []

        def driver_of(run: Run) -> tuple[RunDriver, Exchange]:
            exchange = Exchange(at_work.network, coordinator.roster(), at_work.network.clock, absence=5.0)
            driver = RunDriver(
                run,
                roster=coordinator.roster(),
                identity=coordinator.identity(),
                journal=journal,
                backbones=BackboneStore(coordinator.root / "backbones"),
                exchange=exchange,
                clock=at_work.network.clock,
                on_event=lambda kind, facts: asked.append(kind),
            )
            return driver, exchange

        late = LateClosings(journal, driver_of)
        late.look()
        assert asked == []  # nobody is back yet
        at_work.start("birch")
        late.look()
        assert asked == ["closing", "taken-over"]
        assert "birch" in journal.closed_departments(1)
        late.look()
        assert asked == ["closing", "taken-over"]  # once
