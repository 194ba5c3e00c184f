"""What a daemon does about its membership: it looks for a new roster, and sends fresh keys where they are wanted.

It looks every so often, and at once when the coordinator asks something of another epoch.  A roster it finds is put
beside the present one; whoever runs the daemon joins it between two messages, with all the checks of a roster that came
by hand.  With ``follow = false`` it only says that there is one.
"""

from __future__ import annotations

import logging
import os
import random as dice
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from commonroot.client.enrol import ask_standing, send
from commonroot.client.folder import DepartmentFolder
from commonroot.client.setup import join, renew
from commonroot.common.errors import CommonrootError, TokenRevoked
from commonroot.common.roster import SignedRoster
from commonroot.common.secure_sum.primitives import Random
from commonroot.files import atomic_write
from commonroot.logs import Tell

_log = logging.getLogger(__name__)

#: In a department's folder: a roster that is there to be joined.
OFFERED: Final = "roster-offered.json"
#: Until the first roster is there it looks this often, in seconds; and it never looks more often than this.
WAITING: Final = 3.0
_LEAST: Final = 1.0
#: How soon it notices that it should, in seconds.
_GLANCE: Final = 0.5


class Membership:
    """Follows the rosters of one folder, from ``with`` to the block's end.

    ``over`` is set when there is a roster to join, or ``stop`` is: whatever serves the present one ends then.
    """

    def __init__(self, root: Path, tell: Tell, stop: threading.Event, *, random: Random = os.urandom) -> None:
        self._root = root
        self._tell = tell
        self._stop = stop
        self._random = random
        self.over = threading.Event()
        self._nudged = threading.Event()
        self._told: set[str] = set()
        self._refused: set[str] = set()
        self._sent = b""
        self._asking = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="commonroot-membership", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        threading.Thread(target=self._pass_on, name="commonroot-stop", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def nudge(self) -> None:
        """Look soon: the coordinator spoke of another epoch."""
        self._nudged.set()

    def join_offered(self) -> bool:
        """Join what is offered, if something is and this department follows; whether it did.

        No session may hold the folder.  A roster that is refused stays refused and is not offered again.
        """
        path = self._root / OFFERED
        self.over.clear()
        if self._stop.is_set():
            self.over.set()
        folder = DepartmentFolder(self._root)
        if not path.is_file() or not folder.config.roster.follow:
            return False
        try:
            before = folder.roster().epoch if (self._root / "roster.json").is_file() else 0
            roster = join(folder, path, self._random)
        except CommonrootError as error:
            self._refused.add(_name(path.read_bytes()))
            self._tell("refused", {"request": "roster"} | error.describe())
            return False
        finally:
            path.unlink(missing_ok=True)
        if roster.epoch > before:
            self._tell("joined", {"epoch": roster.epoch, "departments": [m.name for m in roster.departments]})
        return True

    def look(self) -> None:
        """One look.  Raises whatever asking raises."""
        with self._asking:
            folder = DepartmentFolder(self._root)
            found = ask_standing(folder)
            if found.state == "out":
                raise TokenRevoked(
                    "the coordinator says that this department is no longer, or not yet, in the federation"
                )
            if found.state == "waiting":
                self.say_once("waiting", {"for": "a roster that lists this department"})
            if found.renew and folder.config.roster.follow:
                self._renew(folder)
            elif found.renew:
                self.say_once("renewal-wanted", {"by": "`commonroot department renew`"})
            if found.roster is None or (name := _name(found.roster)) in self._refused:
                return
            if folder.config.roster.follow:
                atomic_write(self._root / OFFERED, found.roster)
                self.over.set()
            else:
                epoch = SignedRoster.from_json(found.roster).roster.epoch
                self.say_once(f"roster-{name}", {"epoch": epoch, "by": "`commonroot department join`"}, word="roster")

    def _renew(self, folder: DepartmentFolder) -> None:
        request = renew(folder, self._random).read_bytes()
        if request != self._sent:
            send(folder)
            self._sent = request
            self._tell("renewed", {"epoch": folder.roster().epoch + 1})

    def say_once(self, key: str, facts: dict[str, Any], *, word: str | None = None) -> None:
        """Tell something the first time: under ``word``, or the key itself."""
        if key not in self._told:
            self._told.add(key)
            self._tell(word or key, facts)

    def _follow(self) -> None:
        due = earliest = 0.0
        while not self._stop.wait(_GLANCE) and not self._done.is_set():
            now = time.monotonic()
            if now < (earliest if self._nudged.is_set() else due):
                continue
            self._nudged.clear()
            try:
                self.look()
            except CommonrootError as error:
                _log.info("no news of the roster: %s (%s)", error, error.code)
                if error.code == TokenRevoked.code:
                    self.say_once("out", {"why": str(error)})
            except Exception:  # whatever it is, it must not end the daemon: it looks again
                _log.exception("the look for a new roster failed")
            earliest = time.monotonic() + _LEAST
            due = time.monotonic() + self._pause() * dice.uniform(0.9, 1.1)

    def _pause(self) -> float:
        joined = (self._root / "roster.json").is_file()
        return DepartmentFolder(self._root).config.roster.every if joined else WAITING

    def _pass_on(self) -> None:
        while not self._done.is_set():
            if self._stop.wait(_GLANCE):
                self.over.set()
                return


def _name(data: bytes) -> str:
    return SignedRoster.from_json(data).roster.digest.hex()
