"""A learner that is still being loaded while the department's node already answers.

A numerical library takes seconds to load and a table takes as long as it has rows; joining the hub, greetings, repeated
uploads and openings need neither.  So a restarted daemon takes its place at once, and only a request that trains waits
for its learner.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from commonroot.client.session import Learner, Local, Tensors, Trained
from commonroot.common.charter import Charter


class LearnerInWaiting:
    """Stands for the learner that ``load`` returns, which runs once, on a thread of its own.

    ``on_failure`` is called on that thread where ``load`` raises; whoever asks for the learner gets the same error.
    """

    def __init__(self, load: Callable[[], Learner], on_failure: Callable[[], None]) -> None:
        self._load = load
        self._on_failure = on_failure
        self._learner: Learner | None = None
        #: What ``load`` raised, if it did.
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="commonroot-learner", daemon=True)
        self._begun = threading.Lock()

    def begin(self) -> None:
        """Load, unless that was begun already."""
        if self._begun.acquire(blocking=False):
            self._thread.start()

    def settle(self, seconds: float) -> None:
        """Wait that long at the most for loading to end, if it was begun: libraries do not like to be left half-way."""
        if self._begun.locked():
            self._thread.join(seconds)

    def check(self, charter: Charter) -> None:
        """See :meth:`Learner.check`."""
        self._here().check(charter)

    def train(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> Trained:
        """See :meth:`Learner.train`."""
        return self._here().train(charter, received, version, local)

    def finish(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> str:
        """See :meth:`Learner.finish`."""
        return self._here().finish(charter, received, version, local)

    def _here(self) -> Learner:
        self.begin()
        self._thread.join()
        if self.failure is not None:
            raise self.failure
        if self._learner is None:
            raise RuntimeError("the learner was loaded and is not there")
        return self._learner

    def _run(self) -> None:
        try:
            self._learner = self._load()
        except Exception as error:
            self.failure = error
            self._on_failure()
