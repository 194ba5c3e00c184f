"""What ``department up`` shows on a terminal: link, round, this department's own loss, what left, what was refused.

It is a handler of the daemon's log, so it hears the same events as a file would.  The department's own loss is no
event: the session hands it over here, it is shown, and it is written nowhere.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from rich.box import ROUNDED
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from commonroot.client.folder import DepartmentFolder
from commonroot.client.store import DepartmentStore
from commonroot.common.charter import SignedCharter
from commonroot.common.errors import CommonrootError
from commonroot.logs import event_of

#: Points of the loss curve that are kept, and the lines of events shown.
POINTS: Final = 400
LINES: Final = 8
_BARS: Final = "▁▂▃▄▅▆▇█"
_LINK: Final = {
    "joined": ("●", "green", "joined"),
    "unreachable": ("○", "yellow", "unreachable, trying again"),
    "refused": ("●", "red", "refused by the coordinator"),
    "left": ("○", "dim", "signed off"),
    "": ("○", "dim", "connecting"),
}
#: What the department is doing after an event, in words; ``{}`` is filled with its round or version.
_DOING: Final = {
    "ready": "ready, waiting for a round",
    "greeted": "meeting the other departments",
    "introduced": "met the other departments, waiting for a round",
    "training": "training on version {version}",
    "trained": "trained, waiting for round {round} to open",
    "uploaded": "round {round}: sent, waiting for the others",
    "repeated": "round {round}: sent again",
    "confirmed": "round {round}: {survivors} departments are in the sum",
    "opened": "round {round}: gave its shares; the sum over {survivors} departments opens",
    "finishing": "choosing the best model for this department",
    "finished": "the run is over; `commonroot department report` compares",
}
#: Events that need no line of their own, because the picture shows them.
_SHOWN: Final = frozenset({"link", "up", "down"})


class Terminal(logging.Handler):
    """A picture that is redrawn four times a second, from ``__enter__`` to ``__exit__``."""

    def __init__(
        self,
        folder: DepartmentFolder,
        store: DepartmentStore,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._name, self._coordinator = folder.config.name, folder.config.coordinator
        self._federation = folder.config.federation
        self._charters = folder.root / "charters"
        self._store = store
        self._clock = clock
        self._mutex = threading.Lock()
        self._link, self._linked_at = "", clock()
        self._doing, self._doing_since = "", clock()
        self._losses: deque[tuple[int, float, float | None]] = deque(maxlen=POINTS)
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=LINES)
        self._read_upto = -1
        self._sent: Counter[str] = Counter()
        self._parcels: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._approved: list[str] = []
        self._live = Live(get_renderable=self.picture, console=console, refresh_per_second=4)  # draws at once

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    # -- what it hears -----------------------------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of an event or a warning; never raises."""
        try:
            kind, facts = event_of(record)
            with self._mutex:
                self._note(kind, facts, record.levelno)
        except Exception:
            self.handleError(record)

    def losses(self, version: int, found: Mapping[str, float]) -> None:
        """This department's own losses on a version, in multiples of the chance loss."""
        with self._mutex:
            self._losses.append((version, found["loss"], found.get("held_out")))

    def _note(self, kind: str, facts: Mapping[str, Any], level: int) -> None:
        now = self._clock()
        if kind == "link":
            self._link, self._linked_at = str(facts["state"]), now
        if kind in _DOING:
            self._doing, self._doing_since = _DOING[kind].format_map(_Facts(facts)), now
        if kind not in _SHOWN:
            style = "red" if level >= logging.ERROR else "yellow" if level >= logging.WARNING else ""
            self._lines.append((now, _line(kind, facts), style))

    def _look(self) -> None:
        """What the ledger has had added, and which charters are approved.

        Only the thread that draws does this, and it holds no lock: whoever writes to the store may be logging.
        """
        for entry in self._store.ledger(after=self._read_upto):
            self._read_upto = entry.sequence
            what, size = str(entry.facts.get("what", "")), entry.facts.get("bytes")
            if entry.kind == "sent" and isinstance(size, int):
                self._sent[what] += size
                self._parcels[what] += 1
            elif entry.kind == "refused":
                self._refused[str(entry.facts.get("code", ""))] += 1
        paths = sorted(self._charters.glob("*.json")) if self._charters.is_dir() else []
        if len(paths) != len(self._approved):
            self._approved = [_named(path.read_bytes(), path.stem) for path in paths]

    # -- what it shows -----------------------------------------------------------------------------------------------

    def picture(self) -> Panel:
        """Everything, as it is now."""
        self._look()
        with self._mutex:
            now = self._clock()
            rows = Table.grid(padding=(0, 2))
            rows.add_column(style="bold", no_wrap=True)
            rows.add_column()
            rows.add_row("link", self._link_line(now))
            rows.add_row("now", self._doing_line(now))
            rows.add_row("own loss", self._loss_line())
            rows.add_row("sent", self._sent_line())
            rows.add_row("approved", Text(", ".join(self._approved) or "no charter: `commonroot department approve`"))
            rows.add_row("refused", self._refused_line())
            told = Table.grid(padding=(0, 2))
            for at, line, style in self._lines:
                told.add_row(
                    Text(time.strftime("%H:%M:%S", time.localtime(at)), "dim"), Text(line, style, no_wrap=True)
                )
            return Panel(
                Group(rows, Text(), told),
                title=Text(f" {self._name} · {self._federation} ", "bold"),
                subtitle=Text(" Ctrl-C stops in an orderly way ", "dim"),
                box=ROUNDED,
                padding=(1, 2),
                border_style="dim",
            )

    def _link_line(self, now: float) -> Text:
        mark, style, word = _LINK.get(self._link, _LINK[""])
        about = f"  {self._coordinator}, for {_span(now - self._linked_at)}"
        return Text.assemble((f"{mark} {word}", style), (about, "dim"))

    def _doing_line(self, now: float) -> Text:
        if not self._doing:
            return Text("waiting for a run", "dim")
        return Text.assemble(self._doing, (f"  for {_span(now - self._doing_since)}", "dim"))

    def _loss_line(self) -> Text:
        if not self._losses:
            return Text("shown here once a round was trained; it is written nowhere", "dim")
        version, loss, held_out = self._losses[-1]
        held = "" if held_out is None else f", held out {held_out:.3f}"
        curve = sparkline([one[1] for one in self._losses], width=40)
        about = f"{held} on version {version}; 1 is chance"
        return Text.assemble((curve, "green"), "  ", (f"{loss:.3f}", "bold"), (about, "dim"))

    def _sent_line(self) -> Text:
        total = sum(self._sent.values())
        kinds = " · ".join(f"{self._parcels[kind]} {kind} {_size(size)}" for kind, size in self._sent.most_common())
        return Text.assemble(_size(total), (f"  {kinds}" if kinds else "  nothing yet", "dim"))

    def _refused_line(self) -> Text:
        if not self._refused:
            return Text("nothing", "dim")
        return Text(", ".join(f"{count} × {code}" for code, count in self._refused.most_common()), "yellow")


class _Facts(dict[str, Any]):
    """Facts for a sentence: one that is missing leaves a dash instead of an error."""

    def __missing__(self, key: str) -> str:
        return "–"


def sparkline(values: Sequence[float], *, width: int) -> str:
    """A curve of at most ``width`` bars, from the smallest value to the largest; the newest is last.

    More values than bars are averaged in groups of one size, counted from the newest.
    """
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return ""
    group = -(-len(finite) // width)
    cut = [finite[max(0, end - group) : end] for end in range(len(finite), 0, -group)][::-1]
    means = [sum(part) / len(part) for part in cut]
    least, most = min(means), max(means)
    span = most - least
    return "".join(_BARS[0 if span == 0 else round((mean - least) / span * (len(_BARS) - 1))] for mean in means)


def _line(kind: str, facts: Mapping[str, Any]) -> str:
    if kind == "log":
        return str(facts["message"])
    told = "  ".join(f"{key}={_short(value)}" for key, value in facts.items() if key not in ("error", "hint"))
    return f"{kind:<11} {told}".rstrip()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 or " " in text else f"{text[:12]}…"


def _named(text: bytes, stem: str) -> str:
    try:
        charter = SignedCharter.from_json(text).charter
    except CommonrootError:
        return f"{stem[:12]}… (unreadable)"
    return f"{charter.name} ({stem[:8]}…, {charter.rounds} rounds)"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _span(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"
