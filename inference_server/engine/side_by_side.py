"""Runs on the CPU: all cores for one that is alone, a core for each where there are as many as cores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import structlog
from numpy.typing import NDArray

from inference_server.engine.session import Session, explain

log = structlog.get_logger(__name__)

# So long must runs have shared all cores before a second session is worth its memory and the time it takes to make.
WORTH_SECONDS = 1.0


class SideBySide:
    """A session whose runs have threads on all `cores`, and one without, for runs that have a core each.

    Threads of one run wait for each other at every layer, and are woken for it; where every core has a run of its own,
    that brings nothing. The second session is made by `narrow`, in a thread of its own, when runs have shared all cores
    for WORTH_SECONDS; where it makes none, or raises, that is logged, and the one session goes on.
    """

    def __init__(self, session: Session, cores: int, narrow: Callable[[], Session | None], name: str) -> None:
        self._wide = session
        self._cores = cores
        self._make = narrow
        self._name = name
        self._narrow: Session | None = None
        self._lock = threading.Lock()  # of what follows
        self._running = 0
        self._shared_seconds = 0.0

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[NDArray[Any]]:
        """The outputs called `names`, as a session gives them. From any number of threads."""
        with self._lock:
            self._running += 1
            share = self._running >= self._cores
        narrow = self._narrow if share else None
        started = perf_counter()
        try:
            return (narrow or self._wide).run(names, feeds)  # type: ignore[no-any-return]
        finally:
            shared = perf_counter() - started if share and narrow is None else 0.0
            with self._lock:
                self._running -= 1
                worth = self._shared_seconds < WORTH_SECONDS <= self._shared_seconds + shared
                self._shared_seconds += shared
            if worth:
                self._begin()

    def _begin(self) -> None:
        try:
            threading.Thread(target=self._add_narrow, name=f"narrow {self._name}").start()
        except RuntimeError as error:  # no more threads; the answer that was had is worth more
            log.warning("no second session", model_name=self._name, reason=str(error))

    def _add_narrow(self) -> None:
        # Not at a lower priority: a slow thread that holds the interpreter's lock holds up all others.
        try:
            self._narrow = self._make()
        except Exception as error:  # noqa: BLE001 - answers come from the other session, as before
            log.warning("no second session", model_name=self._name, reason=explain(error))
        else:
            log.info("second session", model_name=self._name, made=self._narrow is not None)
