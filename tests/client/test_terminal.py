"""A department's terminal: what the picture says after which events."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pty
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from federation import small
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from commonroot.client.session import _losses
from commonroot.client.terminal import Terminal, sparkline
from commonroot.logs import LogOptions, telling
from commonroot.simulations.processes import free_port


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A federation whose departments have three rounds behind them, and one refusal at ash."""
    with small.running(tmp_path_factory.mktemp("terminal")) as at_work:
        at_work.run()
        at_work._stores["ash"].record("refused", {"what": "charter", "code": "CR12", "digest": "00", "kept": False})
        return at_work.federation


def shown(terminal: Terminal, width: int = 100) -> str:
    """The picture as text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(terminal.picture())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_picture_says_who_this_is_what_left_and_what_is_approved(finished):
    folder = finished.departments["ash"]
    with small.store_of(folder) as store:
        text = shown(Terminal(folder, store))
        sent = sum(int(e.facts["bytes"]) for e in store.ledger() if e.kind == "sent")
    assert "ash · grove" in text
    assert "connecting" in text and "waiting for a run" in text
    assert f"{sent / 1000:.3g} kB" in text
    assert "3 masked" in text and "3 shares" in text and "1 greeting" in text
    assert "small (" in text and "3 rounds" in text
    assert "1 × CR12" in text


def test_the_picture_follows_the_events(finished):
    folder = finished.departments["ash"]
    with small.store_of(folder) as store:
        now = [1000.0]
        terminal = Terminal(folder, store, clock=lambda: now[0])
        with telling(LogOptions(), view=terminal) as tell:
            tell("link", {"state": "joined"})
            tell("training", {"round": 7, "version": 6})
            for version in range(7):
                terminal.losses(version, {"loss": 1.0 / (1 + version), "held_out": 0.5})
            now[0] += 200
            text = shown(terminal)
            assert "● joined" in text and "for 3 min" in text
            assert "training on version 6" in text
            assert "█▄▃▂▁▁▁  0.143, held out 0.500 on version 6" in text
            tell("uploaded", {"round": 7, "bytes": 1501})
            tell("refused", {"request": "open", "code": "CR27", "message": "no", "hint": "h", "error": "E"})
            tell("link", {"state": "unreachable"})
            text = shown(terminal)
            assert "round 7: sent, waiting for the others" in text
            assert "○ unreachable" in text
            assert "uploaded    round=7  bytes=1501" in text
            assert "refused     request=open  code=CR27" in text and "hint=" not in text


def test_a_warning_from_inside_is_shown_in_the_picture_and_not_over_it(finished, capsys):
    import logging

    folder = finished.departments["ash"]
    with small.store_of(folder) as store:
        terminal = Terminal(folder, store)
        with telling(LogOptions(), view=terminal):
            logging.getLogger("commonroot.client.node").warning("the hub lost this node; joining again")
        assert "the hub lost this node" in shown(terminal)
    assert capsys.readouterr() == ("", "")


def test_an_event_with_facts_missing_breaks_nothing(finished):
    folder = finished.departments["ash"]
    with small.store_of(folder) as store:
        terminal = Terminal(folder, store)
        with telling(LogOptions(), view=terminal) as tell:
            tell("uploaded", {})
            tell("something-new", {"a": 1})
        assert "round –: sent" in shown(terminal)


def test_a_session_hands_its_own_losses_to_its_own_eyes_and_tells_no_event_of_them(tmp_path):
    """Weighted in the sum, plain here: what the toy learner gave, for each of three versions."""
    with small.running(tmp_path) as at_work:
        seen: dict[int, dict[str, float]] = {}
        at_work.sessions["ash"]._on_losses = lambda version, losses: seen.update({version: losses})
        at_work.run()
        terms = at_work.learners["ash"].contributed
        assert sorted(seen) == [0, 1, 2]
        for version, losses in seen.items():
            told = {name: float(terms[version][name] / terms[version]["weight"]) for name in ("loss", "held_out")}
            assert losses == pytest.approx(told)
        assert not any("loss" in facts or "held_out" in facts for _, _, facts in at_work.events)


def test_only_what_the_ledger_had_added_is_read_again(finished, monkeypatch):
    folder = finished.departments["ash"]
    with small.store_of(folder) as store:
        terminal = Terminal(folder, store)
        first = shown(terminal)
        asked: list[int] = []
        real = store.ledger
        monkeypatch.setattr(store, "ledger", lambda *, after=-1: asked.append(after) or real(after=after))
        assert shown(terminal) == first
        assert asked == [real()[-1].sequence]


def test_a_curve_worked_by_hand():
    """0, 3.5 and 7 of eight bars: the first, between the fourth and fifth (round half to even: the fifth), the last."""
    assert sparkline([0, 3.5, 7], width=10) == "▁▅█"
    assert sparkline([5, 5, 5], width=10) == "▁▁▁"
    assert sparkline([], width=10) == "" == sparkline([math.nan, math.inf], width=10)
    # five values on two bars: groups of three from the newest, [0, 1] and [2, 3, 4], of means 0.5 and 3
    assert sparkline([0, 1, 2, 3, 4], width=2) == "▁█"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 60))
def test_a_curve_fits_and_touches_top_and_bottom(values, width):
    curve = sparkline(values, width=width)
    assert 1 <= len(curve) <= width
    assert "▁" in curve
    if len(set(values)) == 1 or len(curve) == 1:
        assert set(curve) == {"▁"}


def hear(leader: int, heard: bytearray) -> None:
    """Read a pseudo-terminal until its other end is closed, which Linux calls an input error."""
    with contextlib.suppress(OSError):
        while data := os.read(leader, 4096):
            heard += data


@pytest.mark.slow
def test_on_a_terminal_the_daemon_draws_and_with_plain_it_tells(tmp_path):
    """The real command on a pseudo-terminal; its coordinator is not there."""
    federation = small.founded(tmp_path)
    small.move_to_port(federation, free_port())
    folder = str(federation.departments["ash"].root)
    for option, word in (([], "unreachable, trying again"), (["--plain"], "link       state=unreachable")):
        leader, follower = pty.openpty()
        command = [sys.executable, "-m", "commonroot", "department", "up", folder, *option]
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment) as process:
            os.close(follower)
            heard = bytearray()
            # read to its very end: who draws onto a terminal that nobody reads waits there, and cannot be ended
            reader = threading.Thread(target=hear, args=(leader, heard))
            reader.start()
            end = time.monotonic() + 60
            while word.encode() not in heard and time.monotonic() < end:
                time.sleep(0.05)
            process.terminate()
            process.wait(30)
        reader.join(30)
        os.close(leader)
        said = heard.decode(errors="replace")
        assert word in said
        assert ("╭" in said) is (not option)
        assert process.returncode == 0


def test_a_version_that_was_not_scored_has_no_held_out_loss_of_its_own(tmp_path):
    charter = small.founded(tmp_path).charter.charter
    seldom = charter.model_copy(update={"training": charter.training.model_copy(update={"held_out_every": 2})})
    terms = {"weight": np.array(0.5), "loss": np.array(0.25), "held_out": np.array(0.0)}
    assert _losses(seldom, 1, terms) == {"loss": 0.5}
    assert _losses(seldom, 2, terms) == _losses(charter, 1, terms) == {"loss": 0.5, "held_out": 0.0}
