"""``docs/crashes.md`` lists every numbered point and every wait, as the code has them."""

from __future__ import annotations

import crashes_page as page
from made_pages import made, names

from commonroot.common.charter import Timing
from commonroot.simulations.crash_points import POINTS

TEXT = page.PAGE.read_text("utf-8")


def test_the_page_is_what_the_code_says():
    assert made(TEXT, page.MAKERS) == TEXT, "run `make docs`"


def test_every_part_that_can_be_made_stands_on_the_page_once():
    assert sorted(names(TEXT)) == sorted(page.MAKERS)


def test_every_point_has_a_line_of_its_own():
    for point in POINTS:
        assert sum(line.startswith(f"| {point.number} |") for line in TEXT.splitlines()) == 1


def test_every_wait_that_can_be_set_stands_on_the_page():
    set_somewhere = {(where, name) for _, _, where, name in page.WAITS}
    settings = {"timing": Timing, "coordinator": page.CoordinatorWaits, "department": page.DepartmentWaits}
    for section, model in settings.items():
        assert {(section, name) for name in model.model_fields} <= set_somewhere
