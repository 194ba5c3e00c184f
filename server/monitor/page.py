"""The page for central IT, in NiceGUI: overview, runs, one run, faults.  It only shows.

One timer a reader asks for the facts every second and replaces the parts that changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from html import escape
from typing import Any, Final, cast

from fastapi import FastAPI
from nicegui import app as house
from nicegui import ui

from commonroot.server.asgi import App
from commonroot.server.monitor import plots, views, words
from commonroot.server.monitor.style import CSS

_log = logging.getLogger(__name__)

Facts = Mapping[str, Any]
#: How often a reader's page asks for the facts, in seconds.
EVERY: Final = 1.0
_PAGES: Final = (("/", "Overview"), ("/runs", "Runs"), ("/faults", "Faults"))


class _Reader:
    """One open page: its parts, and what each was last given."""

    def __init__(self, facts: Callable[[], Facts], here: str) -> None:
        self._facts = facts
        self._parts: list[Callable[[Facts], None]] = []
        self._broken: ui.html | None = None
        self._here = here

    async def begin(self) -> Facts:
        """Header and style; the facts of this moment."""
        ui.add_css(CSS)
        facts = await asyncio.to_thread(self._facts)
        ui.page_title(f"Commonroot · {facts['federation']}")
        self.part(lambda now: _header(now, self._here), "header")
        self._broken = ui.html("", sanitize=False)
        return facts

    def part(self, view: Callable[[Facts], str], mark: str, *, classes: str = "") -> None:
        """HTML that follows the facts."""
        shown = ui.html("", sanitize=False).classes(classes).props(f'data-part="{mark}"')

        def follow(facts: Facts) -> None:
            made = view(facts)
            if shown.content != made:
                shown.set_content(made)

        self._parts.append(follow)

    def plot(self, number: Callable[[Facts], int | None], name: str, *, classes: str = "") -> None:
        """A plot of a run that follows the facts."""
        title, make = plots.ALL[name]
        ui.html(f"<h2>{escape(title)}</h2>", sanitize=False)
        chart = ui.echart({"series": []}).classes(f"plot {classes}").props(f'data-part="plot-{name}"')

        def follow(facts: Facts) -> None:
            made = make(views.find(facts, number(facts)))
            if chart.options != made:
                chart.options.clear()
                chart.options.update(made)
                chart.update()

        self._parts.append(follow)

    def go(self, facts: Facts) -> None:
        """Show these facts, and from now on the newest."""
        self._show(facts)
        ui.timer(EVERY, self._refresh)

    async def _refresh(self) -> None:
        try:
            self._show(await asyncio.to_thread(self._facts))
            if self._broken is not None and self._broken.content:
                self._broken.set_content("")
        except Exception as error:  # the reader is told; the rounds never hear of it
            _log.warning("the page cannot be refreshed: %s", type(error).__name__)
            if self._broken is not None:
                why = f"The newest facts cannot be read now ({type(error).__name__}); what stands below is older."
                self._broken.set_content(f'<div class="broken" role="alert">{escape(why)}</div>')

    def _show(self, facts: Facts) -> None:
        for follow in self._parts:
            follow(facts)


def application(facts: Callable[[], Facts]) -> App:
    """The page as an ASGI application, for one coordinator in this process."""

    @ui.page("/")
    async def overview() -> None:
        with ui.element("div").classes("house"):
            reader = _Reader(facts, "/")
            now = await reader.begin()
            with ui.element("main").classes("cards"):
                with _card():
                    reader.part(lambda f: views.run_title(views.find(f, f["current"])), "run")
                    reader.part(views.stage, "stage")
                    reader.part(lambda f: views.run_tiles(f, views.find(f, f["current"])), "tiles")
                with _card("half"):
                    reader.part(views.departments, "departments")
                with _card("half"):
                    reader.plot(lambda f: f["current"], "loss", classes="tall")
                with ui.element("div").classes("narrow stack"):
                    with _card():
                        reader.part(views.received, "received")
                    with _card("grow"):
                        reader.part(lambda f: views.privacy(f, views.find(f, f["current"])), "privacy")
                with _card("wide"):
                    reader.part(views.events, "events")
            reader.go(now)

    @ui.page("/runs")
    async def runs() -> None:
        with ui.element("div").classes("house"):
            reader = _Reader(facts, "/runs")
            now = await reader.begin()
            with ui.element("main").classes("cards"), _card():
                reader.part(views.runs, "runs")
            reader.go(now)

    @ui.page("/runs/{number}")
    async def run(number: int) -> None:
        with ui.element("div").classes("house"):
            reader = _Reader(facts, "/runs")
            now = await reader.begin()
            with ui.element("main").classes("cards"):
                if views.find(now, number) is None:
                    with _card():
                        ui.html(views.empty(f"There is no run {number}."), sanitize=False)
                    reader.go(now)
                    return

                def one(view: Callable[[Facts, views.Run], str]) -> Callable[[Facts], str]:
                    return lambda f: view(f, cast(views.Run, views.find(f, number)))

                with _card():
                    reader.part(one(lambda _f, r: views.run_title(r)), "run")
                for name in plots.ALL:
                    with _card("half"):
                        reader.plot(lambda _f: number, name)
                with _card():
                    reader.part(one(views.rounds), "rounds")
                with _card("wide"):
                    reader.part(one(views.versions), "versions")
                with _card("narrow"):
                    reader.part(one(views.privacy), "privacy")
            reader.go(now)

    @ui.page("/faults")
    async def faults() -> None:
        with ui.element("div").classes("house"):
            reader = _Reader(facts, "/faults")
            now = await reader.begin()
            with ui.element("main").classes("cards"):
                with _card():
                    reader.part(views.fault_counts, "fault-counts")
                with _card():
                    reader.part(views.faults, "faults")
            reader.go(now)

    for logger in ("nicegui", "socketio", "engineio"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    outer = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    ui.run_with(
        outer, title="Commonroot", favicon=_ICON, dark=None, tailwind=False, show_welcome_message=False,
        reconnect_timeout=10.0, binding_refresh_interval=None,
    )  # fmt: skip
    house.on_exception(lambda error: _log.warning("the page: %s", type(error).__name__))
    return cast(App, outer)


def _card(width: str = "") -> ui.element:
    return ui.element("section").classes(f"card {width}")


def _header(facts: Facts, here: str) -> str:
    links = "".join(
        f'<a href="{path}"{" aria-current=page" if path == here else ""}>{escape(name)}</a>' for path, name in _PAGES
    )
    up = words.lasting(facts["now"] - facts["up_since"])
    return (
        f'<header class="top"><h1>Commonroot <span>{escape(facts["federation"])}</span></h1><nav>{links}</nav>'
        f'<span class="soft">version {escape(facts["program"])} · up {up} · '
        f"{words.clock(facts['now'], facts['now'])} UTC</span>"
        '<form method="post" action="/logout"><button type="submit">log out</button></form></header>'
    )


_ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#2f6f5e"/>'
    '<g stroke="#fff" stroke-width="2.6" stroke-linecap="round" fill="none"><path d="M16 6v10M16 16c0 6-8 4-8 10'
    'M16 16c0 6 8 4 8 10M16 16v10"/></g></svg>'
)
