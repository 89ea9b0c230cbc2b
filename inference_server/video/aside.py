"""One piece of work at a time, done by another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

# FFmpeg's scaler needs little, and a decoder's address space is bounded.
_STACK_BYTES = 1024 * 1024


class Aside:
    """A thread that does what it is given while its owner goes on; it starts with the first piece of work.

    One thread owns it and calls its methods.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._done: SimpleQueue[Exception | None] = SimpleQueue()
        self._started = self._busy = False
        self._error: Exception | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Begin with `work` once what was begun before is done. Raises what that raised, and then does not begin."""
        self.wait()
        self.check()
        if not self._started:
            self._start()
        self._busy = True
        self._work.put(work)

    def wait(self) -> None:
        """Wait until what was begun is done."""
        if self._busy:
            self._error = self._done.get()
            self._busy = False

    def check(self) -> None:
        """Raise what the work raised that was done last."""
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        self._started = True
        before = threading.stack_size(_STACK_BYTES)
        threading.Thread(target=self._run, name="aside", daemon=True).start()
        threading.stack_size(before)

    def _run(self) -> None:
        while True:
            error = None
            work = self._work.get()
            try:
                work()
            except Exception as raised:  # noqa: BLE001 - raised again in the thread that owns this
                error = raised
            del work  # a frame is not to live until the next one comes
            self._done.put(error)
