"""What a daemon tells: one stream of events, to the screen and to a file, as lines for people or JSON for machines.

An event is a word and flat facts (``closed``, ``fault``, ``uploaded``).  Every event is a record of Python's logging,
as are the warnings of the program's modules and of libraries, so all end in the same places.

On standard output stand events, on standard error warnings from inside, in the file both.  None of them holds a row, a
tensor, a score, a key or a token: what only a department's own eyes may see is no event, and never comes here.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final, Literal, cast

from commonroot.common.errors import ConfigError

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
#: Called with an event's word and its facts.
Tell = Callable[[str, dict[str, Any]], None]

#: A log file of this many bytes is put aside, and so many of them are kept.
FILE_BYTES: Final = 10 * 1024 * 1024
FILES_KEPT: Final = 5

#: Events that are more than information; every other one is.
LEVELS: Final = {
    "fault": logging.WARNING,
    "refused": logging.WARNING,
    "lost": logging.WARNING,
    "abstained": logging.WARNING,
    "not-chosen": logging.WARNING,
    "shut-out": logging.WARNING,
    "no-page": logging.WARNING,
    "stopped": logging.ERROR,
}


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How a daemon tells; see the options of ``coordinator up`` and ``department up``.

    format  of every line
    file    events and warnings go there too, in the same format, rotated
    level   the least that is told
    """

    format: Format = "text"
    file: Path | None = None
    level: Level = "info"

    @classmethod
    def of(cls, as_json: bool, format: str, file: Path | None, level: str) -> LogOptions:
        """From the command line, where ``--json`` is short for ``--log-format json``."""
        return cls("json" if as_json or format == "json" else "text", file, cast(Level, level))


class Lines(logging.Formatter):
    """One record, one line; ``stamped`` puts time and level before lines for people."""

    def __init__(self, format: Format, *, stamped: bool = False) -> None:
        super().__init__()
        self._as_json = format == "json"
        self._stamped = stamped

    def format(self, record: logging.LogRecord) -> str:
        """JSON: ``event``, ``at`` in seconds since 1970, ``level``, the facts; of a warning its logger and message."""
        kind, facts = event_of(record)
        if self._as_json:
            about = {"event": kind, "at": record.created, "level": record.levelname.lower()}
            return json.dumps(about | facts, default=str)
        line = f"{kind:<10} " + "  ".join(f"{key}={value}" for key, value in facts.items())
        if kind == "log":
            line = facts["message"] + (f"\n{facts['traceback']}" if "traceback" in facts else "")
        if not self._stamped:
            return line
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        return f"{at} {record.levelname:<7} {line}"


def event_of(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """The word and facts of a record; a module's own message is the event ``log``."""
    kind = getattr(record, "event", None)
    if isinstance(kind, str):
        return kind, dict(getattr(record, "facts", {}))
    facts = {"logger": record.name, "message": record.getMessage()}
    if record.exc_info:
        facts["traceback"] = logging.Formatter().formatException(record.exc_info)
    return "log", facts


@contextmanager
def telling(options: LogOptions, *, view: logging.Handler | None = None) -> Iterator[Tell]:
    """The function that a daemon tells its events to, until the block ends.

    Parameters  view: takes the place of standard output and standard error
    Raises  ConfigError: the log file cannot be written
    """
    level = getattr(logging, options.level.upper())
    # Not one of logging's own tree: daemons of one process, as in simulations, do not hear one another's events.
    events = logging.Logger("commonroot.events", level)
    # Libraries speak here too, of what is at least a warning; the program's own modules as much as is asked for.
    everything, modules = logging.getLogger(), logging.getLogger("commonroot")
    file = None if options.file is None else _file(options.file, options.format)
    screen = [view] if view is not None else [_Stream("stdout", options.format)]
    inside = [view] if view is not None else [_Stream("stderr", options.format)]
    for handler in [*screen, *([file] if file else [])]:
        events.addHandler(handler)
    for handler in inside:
        handler.setLevel(max(level, logging.WARNING) if view is None else level)
    heard = [*inside, *([file] if file else [])]
    for handler in heard:
        everything.addHandler(handler)
    before = modules.level
    if modules.getEffectiveLevel() > level:
        modules.setLevel(level)

    def tell(kind: str, facts: dict[str, Any]) -> None:
        number = LEVELS.get(kind, logging.INFO)
        if events.isEnabledFor(number):
            events.log(number, kind, extra={"event": kind, "facts": facts})

    try:
        yield tell
    finally:
        modules.setLevel(before)
        for handler in heard:
            everything.removeHandler(handler)
        for handler in events.handlers:
            handler.close()


class _Stream(logging.Handler):
    """Standard output or standard error, whichever it is at that moment."""

    def __init__(self, name: Literal["stdout", "stderr"], format: Format) -> None:
        super().__init__()
        self._name = name
        self.setFormatter(Lines(format))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=getattr(sys, self._name), flush=True)
        except Exception:  # a closed pipe: the rounds go on
            self.handleError(record)


class _OwnersFile(RotatingFileHandler):
    """A rotated file that only its owner may read."""

    _over = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, unless the file is closed: logging would open it anew for a thread that comes too late."""
        if not self._over:
            super().emit(record)

    def close(self) -> None:
        """Let go of the file for good."""
        with self.lock or nullcontext():
            self._over = True
            super().close()

    def _open(self) -> Any:
        # The file may be there already, and with another mode: that is its owner's choice.
        return open(
            self.baseFilename,
            self.mode,
            encoding=self.encoding,
            opener=lambda path, flags: os.open(path, flags, 0o600),
        )


def _file(path: Path, format: Format) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _OwnersFile(path, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the log file {path} cannot be written: {error.strerror}") from error
    handler.setFormatter(Lines(format, stamped=True))
    return handler
