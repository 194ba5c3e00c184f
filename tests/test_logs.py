"""What a daemon tells: lines for people, JSON for machines, on the screen and in a file; what is kept out of both."""

from __future__ import annotations

import json
import logging
import re
import stat
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from commonroot import logs
from commonroot.common.errors import ConfigError
from commonroot.logs import LogOptions, telling


def test_an_event_is_one_line_for_people_and_one_object_for_machines(capsys):
    with telling(LogOptions()) as tell:
        tell("closed", {"round": 3, "loss": 0.5})
    assert capsys.readouterr().out == "closed     round=3  loss=0.5\n"
    with telling(LogOptions("json")) as tell:
        tell("closed", {"round": 3, "loss": 0.5})
    said = json.loads(capsys.readouterr().out)
    assert said.pop("at") > 1e9
    assert said == {"event": "closed", "level": "info", "round": 3, "loss": 0.5}


def test_the_file_gets_events_and_warnings_and_is_its_owners_alone(tmp_path, capsys):
    path = tmp_path / "new" / "log"
    with telling(LogOptions("json", path)) as tell:
        tell("lost", {"code": "CR40"})
        logging.getLogger("commonroot.somewhere").warning("the disk is %s", "slow")
    lost, warned = (json.loads(line) for line in path.read_text().splitlines())
    assert (lost["event"], lost["level"]) == ("lost", "warning")
    assert (warned["event"], warned["logger"], warned["message"]) == ("log", "commonroot.somewhere", "the disk is slow")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shown = capsys.readouterr()
    assert json.loads(shown.out)["event"] == "lost"
    assert json.loads(shown.err)["message"] == "the disk is slow"


def test_libraries_are_heard_too_of_what_is_a_warning(tmp_path, capsys):
    with telling(LogOptions("json", tmp_path / "log", "info")):
        logging.getLogger("flwr").error("no")
        logging.getLogger("httpx").info("a request")
        logging.getLogger("commonroot.client").info("withdrawn")
    told = [json.loads(line)["message"] for line in (tmp_path / "log").read_text().splitlines()]
    assert told == ["no", "withdrawn"]
    assert json.loads(capsys.readouterr().err)["message"] == "no"


def test_lines_for_people_in_a_file_have_a_time_and_a_level(tmp_path, capsys):
    path = tmp_path / "log"
    with telling(LogOptions("text", path)) as tell:
        tell("stopped", {"why": "the disk is full"})
    (line,) = path.read_text().splitlines()
    assert line[:4].isdigit() and line[19:24].endswith("Z") and "ERROR   stopped    why=the disk is full" in line
    assert capsys.readouterr().out == "stopped    why=the disk is full\n"


@pytest.mark.parametrize(
    ("level", "heard"), [("info", ["ready", "fault", "stopped"]), ("warning", ["fault", "stopped"])]
)
def test_what_is_less_than_the_level_is_not_told(level, heard, capsys):
    with telling(LogOptions("json", None, level)) as tell:
        for kind in ("ready", "fault", "stopped"):
            tell(kind, {})
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == heard


def test_a_view_takes_the_place_of_the_screen_and_not_of_the_file(tmp_path, capsys):
    seen: list[str] = []

    class View(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(logs.event_of(record)[0])

    with telling(LogOptions("json", tmp_path / "log"), view=View()) as tell:
        tell("closed", {"round": 1})
    assert seen == [json.loads((tmp_path / "log").read_text())["event"]] == ["closed"]
    assert capsys.readouterr() == ("", "")


def test_a_full_file_is_put_aside_and_so_many_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "FILE_BYTES", 200)
    path = tmp_path / "log"
    with telling(LogOptions("json", path, "info")) as tell:
        for number in range(60):
            tell("closed", {"round": number})
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + logs.FILES_KEPT
    assert all(file.stat().st_size <= 200 and stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert '"round": 59' in path.read_text()


def test_a_log_that_cannot_be_written_is_said_before_anything_begins(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "log"):
        with pytest.raises(ConfigError, match="cannot be written"), telling(LogOptions("text", path)):
            raise AssertionError("it began")


def test_daemons_of_one_process_do_not_hear_one_another(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    with telling(LogOptions("json", one)) as first, telling(LogOptions("json", two)) as second:
        first("up", {"department": "ash"})
        second("up", {"department": "elm"})
    assert "elm" not in one.read_text() and "ash" not in two.read_text()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_nothing_is_left_behind(tmp_path):
    everything, modules = logging.getLogger(), logging.getLogger("commonroot")
    before = (list(everything.handlers), everything.level, modules.level)
    with telling(LogOptions("json", tmp_path / "log", "debug")):
        assert everything.handlers != before[0] and modules.level == logging.DEBUG
    assert (list(everything.handlers), everything.level, modules.level) == before


def test_a_traceback_is_part_of_its_record(tmp_path):
    path = Path(tmp_path / "log")
    with telling(LogOptions("json", path)):
        try:
            raise ZeroDivisionError("no")
        except ZeroDivisionError:
            logging.getLogger("commonroot.x").exception("it failed")
    (line,) = path.read_text().splitlines()
    assert "ZeroDivisionError" in json.loads(line)["traceback"]


def test_a_thread_that_comes_too_late_opens_no_closed_file(tmp_path):
    """It took the list of handlers before the block ended."""
    path = tmp_path / "log"
    with telling(LogOptions(file=path)):
        late = next(each for each in logging.getLogger().handlers if isinstance(each, RotatingFileHandler))
    late.handle(logging.LogRecord("late", logging.WARNING, "", 0, "too late", (), None))
    assert late.stream is None and path.read_text() == ""


def test_facts_that_are_no_json_are_told_as_they_print(capsys):
    with telling(LogOptions("json")) as tell:
        tell("page", {"where": Path("keys/monitor.token")})
    assert json.loads(capsys.readouterr().out)["where"] == "keys/monitor.token"


def test_json_is_short_for_a_format():
    assert LogOptions.of(True, "text", None, "info").format == "json"
    assert LogOptions.of(False, "json", None, "error") == LogOptions("json", None, "error")


def test_every_event_is_in_the_documentation():
    """Words that are told in the source, and words in the tables of docs/watching.md."""
    root = Path(__file__).resolve().parent.parent
    told = re.compile(r'(?:\btell|_tell|_on_event|on_event|_on_progress|_tell_failure)\(\s*"([a-z-]+)"')
    found = {
        kind
        for room in ("client", "server")
        for path in (root / room).rglob("*.py")
        for kind in told.findall(path.read_text("utf-8"))
    }
    rows = [line for line in (root / "docs/watching.md").read_text("utf-8").splitlines() if line.startswith("| `")]
    listed = {kind for line in rows for kind in re.findall(r"`([a-z-]+)`", line.split("|")[1])}
    assert len(found) > 30
    assert found - listed == set()
