"""The page for central IT as a reader sees it: a real coordinator, three real departments, a headless Chromium.

The coordinator is a process of its own, as deployed; the departments' daemons are threads here.  One story is told
once, in the fixture ``told``, and each test looks at a part of what was seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chromium import browser, picture
from federation import small
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from commonroot.client.daemon import serve as serve_department
from commonroot.simulations.founding import Federation
from commonroot.simulations.processes import Processes, free_port, processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

#: How long anything may take to show, in seconds; a busy machine is not a defect.
PATIENCE = 90.0
SECOND = """\
federation = "grove"
name = "second"
rounds = 2

[method]
name = "fedper"

[backbone]
inputs = 6
widths = [8, 4]

[timing]
gather = 3
attempts = 1
"""


class Story:
    """A federation with its coordinator up, and a window on its page."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.federation: Federation = small.founded(root / "federation", rounds=4)
        small.move_to_port(self.federation, free_port())
        self.pictures = root / "pictures"
        self.pictures.mkdir()
        settings = self.federation.coordinator.root / "coordinator.toml"
        self.port = free_port()
        told = settings.read_text().replace("enabled = false", "enabled = true")
        settings.write_text(told.replace("port = 9444", f"port = {self.port}"))
        self.running: Processes = stack.enter_context(processes(root / "logs"))
        self.log = root / "logs" / "coordinator.log"
        self.running.start_coordinator(self.federation.coordinator.root)
        self.window: webdriver.Chrome = stack.enter_context(browser())
        self.address = f"http://127.0.0.1:{self.port}"
        self.stop = threading.Event()
        self.threads: list[threading.Thread] = []
        self.wait(lambda: self.log.exists() and '"event": "page"' in self.log.read_text())

    def wait(self, what: Any) -> Any:
        """Until it is true."""
        end = time.monotonic() + PATIENCE
        while not (found := what()):
            assert time.monotonic() < end, f"{what}: {self.log.read_text()[-2000:]}"
            time.sleep(0.1)
        return found

    def command(self, *words: str) -> Any:
        """What ``commonroot coordinator …`` says as JSON."""
        root = str(self.federation.coordinator.root)
        call = [sys.executable, "-m", "commonroot", "coordinator", words[0], root, *words[1:], "--json"]
        return json.loads(subprocess.run(call, capture_output=True, text=True, check=True, timeout=60).stdout)

    def departments_up(self) -> None:
        """Start every department's daemon."""
        for folder in self.federation.departments.values():
            thread = threading.Thread(target=serve_department, args=(folder.root,), kwargs={"stop": self.stop})
            thread.start()
            self.threads.append(thread)

    def departments_down(self) -> None:
        """Stop them."""
        self.stop.set()
        for thread in self.threads:
            thread.join(60)

    def queue(self, charter: Any) -> None:
        """Queue a run, beside the coordinator that is up."""
        with small.journal_of(self.federation) as journal:
            journal.queue(charter)

    # -- the window ------------------------------------------------------------------------------------------------

    def go(self, path: str) -> None:
        """Open a page of the coordinator's."""
        self.window.get(self.address + path)

    def part(self, name: str) -> str:
        """The text of a part of the page; empty while it is not there."""
        found = self.window.find_elements(By.CSS_SELECTOR, f'[data-part="{name}"]')
        return found[0].text if found else ""

    def shows(self, name: str, *words: str) -> str:
        """Wait until a part of the page says all of these words, and return its text."""
        missing = f"{name} never said {words}"
        WebDriverWait(self.window, PATIENCE, poll_frequency=0.1, ignored_exceptions=[Exception]).until(
            lambda _: all(word in self.part(name) for word in words), missing
        )
        return self.part(name)

    def keep(self, name: str) -> None:
        """A picture of the page for whoever wants to look."""
        picture(self.window, self.pictures / f"{name}.png")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Story, dict[str, Any]]]:
    """The whole story: before a run, during it, after it, a run that stops; and what was seen on the way."""
    seen: dict[str, Any] = {}
    with ExitStack() as stack:
        story = Story(tmp_path_factory.mktemp("page"), stack)
        stack.callback(story.departments_down)
        # Outside.
        story.go("/runs")
        seen["outside"] = story.window.current_url
        story.window.find_element(By.ID, "token").send_keys("not the token")
        story.window.find_element(By.TAG_NAME, "button").click()
        seen["refused"] = story.window.find_element(By.CSS_SELECTOR, '[role="alert"]').text
        seen["still outside"] = story.window.current_url
        # Inside, by the address that the command prints.
        seen["page"] = story.command("page")
        story.window.get("about:blank")
        story.window.get(seen["page"]["url"])
        seen["no run"] = story.shows("run", "No run yet")
        seen["nobody"] = story.shows("departments", "never came")
        seen["inside"] = story.window.current_url
        story.keep("empty")
        # A run, watched without ever loading the page again.
        story.window.execute_script("window.untouched = true")
        story.queue(story.federation.charter)
        seen["gathering"] = story.shows("stage", "waiting for departments", "ash")
        story.departments_up()
        story.shows("departments", "3 of 3 online")
        seen["first"] = story.shows("run", "of 4")  # which version is seen first is a matter of speed
        seen["last"] = story.shows("run", "version 4 of 4", "finished")
        seen["tiles"] = story.part("tiles")
        seen["received"] = story.part("received")
        seen["privacy"] = story.part("privacy")
        seen["untouched"] = story.window.execute_script("return window.untouched")
        story.keep("finished")
        # A run that cannot go on: nobody approved its charter.
        draft = story.federation.root / "second.toml"
        draft.write_text(SECOND)
        story.queue(story.federation.coordinator.sign_charter(draft)[0])
        seen["declined"] = story.shows("departments", "declined the charter", "CR12")
        seen["stopped"] = story.shows("run", "second", "stopped", "What to do")
        story.keep("stopped")
        request = urllib.request.Request(story.address + "/metrics")
        token = Path(seen["page"]["token_file"]).read_text().strip()
        request.add_header("Authorization", f"Bearer {token}")
        seen["metrics"] = urllib.request.urlopen(request, timeout=30).read().decode()
        yield story, seen


def test_a_stranger_sees_the_login_and_nothing_else(told):
    story, seen = told
    assert seen["outside"] == f"{story.address}/login"
    assert seen["still outside"] == f"{story.address}/login"
    assert seen["refused"] == "That is not the token."


def test_the_address_that_the_command_prints_logs_in_and_leaves_no_token_in_the_address(told):
    story, seen = told
    assert seen["page"]["url"].startswith(f"{story.address}/login#")
    assert seen["inside"] == f"{story.address}/"
    token = Path(seen["page"]["token_file"]).read_text().strip()
    assert token not in story.log.read_text(), "the log holds the token"
    assert Path(seen["page"]["token_file"]).stat().st_mode & 0o077 == 0


def test_before_the_first_run_the_page_says_what_comes_next(told):
    _, seen = told
    assert "commonroot coordinator run DIR CHARTER.json" in seen["no run"]
    assert "0 of 3 online" in seen["nobody"]


def test_the_page_follows_a_run_without_being_loaded_again(told):
    _, seen = told
    assert seen["untouched"] is True
    assert "of 3 have answered" in seen["gathering"]
    assert "until" in seen["gathering"]
    assert "no sum over fewer than 3 departments" in seen["first"]
    assert "3 of 3" in seen["tiles"]
    assert {"masked", "shares", "greeting"} <= set(seen["received"].split())
    assert "4 of at most 4 sums" in seen["privacy"]
    assert "no noise is added" in seen["privacy"]


def test_a_runs_history_has_plots_rounds_and_versions(told):
    story, _ = told
    story.go("/runs")
    story.shows("runs", "small", "second", "fedper")
    story.window.find_element(By.LINK_TEXT, "Run 1").click()
    story.shows("rounds", "3 → 4", "3 of 3")
    story.shows("versions", "run-1-version-4.safetensors", "taken over by ash, birch and cedar")
    for name in ("loss", "members", "seconds", "clipped"):
        WebDriverWait(story.window, PATIENCE).until(lambda _, name=name: drawn(story.window, name) > 200)
    story.keep("history")


def drawn(window: webdriver.Chrome, name: str) -> int:
    """How many pixels of a plot are in the colour of a line."""
    script = """
        const canvas = document.querySelector('[data-part="plot-' + arguments[0] + '"] canvas');
        if (!canvas) return 0;
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let count = 0;
        for (let at = 0; at < data.length; at += 4)
            if (data[at + 3] > 200 && Math.max(data[at], data[at + 1], data[at + 2]) -
                Math.min(data[at], data[at + 1], data[at + 2]) > 60) count++;
        return count;
    """
    return int(window.execute_script(script, name))


def test_a_stopped_run_says_why_and_what_to_do(told):
    _, seen = told
    assert "refused with CR12" in seen["stopped"]
    assert "NotApproved" in seen["stopped"]
    assert "commonroot department approve" in seen["stopped"]
    assert "commonroot coordinator resume DIR 2" in seen["stopped"]
    assert "NotApproved" in seen["declined"]


def test_faults_are_counted_by_code_and_listed(told):
    story, _ = told
    story.go("/faults")
    story.shows("faults", "ash", "birch", "cedar", "the charter: refused with CR12")
    assert "Refused" in story.part("fault-counts")
    story.keep("faults")


def test_a_run_that_does_not_exist_is_said_so(told):
    story, _ = told
    story.go("/runs/77")
    WebDriverWait(story.window, PATIENCE).until(lambda w: "There is no run 77." in w.page_source)


def test_a_narrow_window_scrolls_tables_and_not_the_page(told):
    story, _ = told
    size = {"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    story.window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for path, part in (("/", "departments"), ("/runs/1", "rounds"), ("/faults", "faults")):
            story.go(path)
            story.shows(part, "State" if part == "rounds" else "ash")
            assert story.window.execute_script("return document.documentElement.scrollWidth") <= 380, path
            story.keep(f"narrow-{part}")
    finally:
        size |= {"width": 1280, "height": 1000}
        story.window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_the_page_is_dark_where_the_reader_asks_for_it(told):
    story, _ = told
    story.go("/")
    story.shows("departments", "ash")
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert story.window.execute_script(ground) == "rgb(245, 247, 249)"
    for word, colour in (("dark", "rgb(18, 24, 30)"), ("light", "rgb(245, 247, 249)")):
        feature = {"name": "prefers-color-scheme", "value": word}
        story.window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        assert story.window.execute_script(ground) == colour
        story.keep(word)


def test_nothing_comes_from_anywhere_else_and_the_browser_has_no_complaint(told):
    story, _ = told
    story.go("/runs/1")
    story.shows("rounds", "3 → 4")
    names = story.window.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert len(names) > 5
    assert [name for name in names if not name.startswith((story.address, "data:"))] == []
    severe = [line["message"] for line in story.window.get_log("browser") if line["level"] == "SEVERE"]
    assert [line for line in severe if "/login" not in line] == []  # the refused token's 403


def test_metrics_of_a_running_coordinator_say_what_the_page_says(told):
    _, seen = told
    lines = dict(line.rsplit(" ", 1) for line in seen["metrics"].splitlines() if not line.startswith("#"))
    assert lines['commonroot_rounds_total{state="closed"}'] == "4.0"
    assert lines['commonroot_runs{state="finished"}'] == lines['commonroot_runs{state="stopped"}'] == "1.0"
    assert lines["commonroot_departments_online"] == "3.0"
    assert lines['commonroot_departments{state="declined"}'] == "3.0"
    assert lines["commonroot_round_seconds_count"] == "4.0"
    assert float(lines["process_resident_memory_bytes"]) > 1e7
    assert not any("ash" in name for name in lines), "no metric is of one department"


def test_logging_out_leads_back_to_the_login(told):
    story, _ = told
    story.go("/")
    story.shows("departments", "ash")
    story.window.find_element(By.CSS_SELECTOR, 'form[action="/logout"] button').click()
    WebDriverWait(story.window, PATIENCE).until(lambda w: w.current_url == f"{story.address}/login")
    story.go("/runs")
    WebDriverWait(story.window, PATIENCE).until(lambda w: w.current_url == f"{story.address}/login")
