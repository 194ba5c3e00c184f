"""A process that holds some departments' sessions, as their daemons would; see ``hosts`` for the other end.

    in   {"do": "start", "name": …, "root": …, "acts": […]} · {"do": "stop", "name": …}
         {"do": "handle", "name": …, "kind": …, "same": …} with head and body; the last body again where it is the same
    out  for each request one of {"name": …, "done": true} · {"name": …, "reply": kind} with head and body ·
         {"name": …, "failed": …, "why": …}, each with "told": [[name, kind, facts], …] that happened meanwhile

It ends when its input does, and soon after whoever started it was killed: a department has one session at a time.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from commonroot.client.accelerator import computing_on
from commonroot.client.daemon import open_session
from commonroot.client.folder import DepartmentFolder
from commonroot.client.session import Session
from commonroot.client.store import DepartmentStore
from commonroot.common.errors import CommonrootError, UsageError
from commonroot.common.parcel import Parcel
from commonroot.files import unforced
from commonroot.simulations.behaviour.learners import acts_from_json, learner_in
from commonroot.simulations.behaviour.misbehaving import Act
from commonroot.simulations.engine import frames

#: How often a process looks whether its parent lives, in seconds.
_LOOK = 0.1


class _Host:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._held: dict[str, tuple[DepartmentStore, Session]] = {}
        self._body = b""
        self._told: list[tuple[str, str, dict[str, Any]]] = []

    def answer(self, asked: dict[str, Any], blobs: list[bytes]) -> None:
        name = asked["name"]
        if asked["do"] != "start" and name not in self._held:  # it could not be started, and that was said
            self._write({"name": name, "failed": UsageError.code, "why": f"department {name!r} was not started"})
            return
        try:
            if asked["do"] == "start":
                self._held[name] = self._start(name, Path(asked["root"]), acts_from_json(asked["acts"]))
            elif asked["do"] == "stop":
                self._held.pop(name)[0].close()
            else:
                self._handle(name, asked, blobs)
                return
        except CommonrootError as error:
            self._write({"name": name, "failed": error.code, "why": str(error)})
        else:
            self._write({"name": name, "done": True})

    def close(self) -> None:
        for store, _ in self._held.values():
            store.close()

    def _start(self, name: str, root: Path, acts: Sequence[Act]) -> tuple[DepartmentStore, Session]:
        folder = DepartmentFolder(root)
        store = DepartmentStore(root, federation=folder.config.federation, department=folder.config.name, owner=True)
        learner = learner_in(folder, acts)
        return store, open_session(folder, folder.roster(), store, partial(self._tell, name), learner=learner)

    def _handle(self, name: str, asked: dict[str, Any], blobs: list[bytes]) -> None:
        if not asked["same"]:
            self._body = blobs[1]
        reply = self._held[name][1].handle(Parcel(asked["kind"], blobs[0], self._body))
        self._write({"name": name, "reply": reply.kind}, (reply.head, reply.body))

    def _tell(self, name: str, kind: str, facts: dict[str, Any]) -> None:
        self._told.append((name, kind, facts))

    def _write(self, facts: dict[str, Any], blobs: Sequence[frames.Buffer] = ()) -> None:
        told, self._told = self._told, []
        frames.write(self._out, facts | {"told": told}, blobs)


def _with_parent(parent: int) -> None:
    """End this process once its parent is gone, so that a simulation that is run again finds nobody at work."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)


def main() -> None:
    """``python -m commonroot.simulations.engine.host PARENT DEVICE``."""
    import torch

    torch.set_num_threads(1)  # there is a process for every core
    threading.Thread(target=_with_parent, args=(int(sys.argv[1]),), daemon=True).start()
    out = sys.stdout.buffer
    with contextlib.redirect_stdout(sys.stderr), unforced(), computing_on(sys.argv[2]):  # what is printed is no answer
        host = _Host(out)
        try:
            while (found := frames.read(sys.stdin.buffer)) is not None:
                host.answer(*found)
        finally:
            host.close()


if __name__ == "__main__":
    main()
