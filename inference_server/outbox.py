"""What a stream has to tell its caller, in order, and what of it is told together."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

# An answer waits no longer for the next one, and only while answers come in quicker succession than that: whatever the
# stream, or where the next one is on its way already, because the session is what the stream waits for.
HOLD_SECONDS, BUSY_HOLD_SECONDS = 0.02, 0.1


class Awaited(Protocol):
    """Something whose answer is still to come when it is put into an outbox."""

    @property
    def answer(self) -> asyncio.Future[Any]: ...


Event = TypeVar("Event")
Question = TypeVar("Question", bound=Awaited)


class Outbox(Generic[Event, Question]):
    """A queue of events and of questions; a question is ready when its answer is there, an event always.

    `most`: how many answered questions are taken at once. With more than one, an answer waits up to HOLD_SECONDS for
    its successors, and up to BUSY_HOLD_SECONDS for those that are asked already, but only in a stream whose last
    answers were that close together. Whoever puts in a question calls `answered` once its answer is there. Put in and
    taken out by one event loop; one task takes.
    """

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._items: deque[tuple[Event, None] | tuple[None, Question]] = deque()
        self._events = 0
        self._answered = 0
        self._last = 0.0
        self._apart = inf
        self._wake: asyncio.Future[None] | None = None
        self._enough = 1

    def __len__(self) -> int:
        return len(self._items)

    def put(self, event: Event) -> None:
        self._items.append((event, None))
        self._events += 1
        self._notify()

    def expect(self, question: Question) -> None:
        self._items.append((None, question))

    def answered(self) -> None:
        """One more of the questions has its answer."""
        now = monotonic()
        self._apart, self._last = now - self._last, now
        self._answered += 1
        if self._answered >= self._enough:
            self._notify()

    async def take(self) -> Event | list[Question]:
        """The next event, or the next questions that are answered: at least one, and none after one that failed."""
        while not (self._items and _ready(self._items[0])):
            await self._sleep(1)
        event, question = self._items[0]
        if question is None:
            self._items.popleft()
            self._events -= 1
            assert event is not None  # noqa: S101 - what is no question is an event
            return event
        if self._most > self._answered and not self._events and (seconds := self._hold()):
            await self._sleep(self._most, seconds)
        return self._run()

    def unanswered(self) -> list[Question]:
        """What is still to be answered."""
        return [question for _, question in self._items if question is not None and not question.answer.done()]

    def clear(self) -> list[Question]:
        """Forget everything, since nobody will take it; the questions among it, answered or not."""
        questions = [question for _, question in self._items if question is not None]
        self._items.clear()
        self._events = self._answered = 0
        return questions

    def _run(self) -> list[Question]:
        """Take the answered questions at the head."""
        taken: list[Question] = []
        while self._items and len(taken) < self._most and _ready(self._items[0]):
            question = self._items[0][1]
            if question is None or (taken and question.answer.exception() is not None):
                break
            taken.append(question)
            self._items.popleft()
        self._answered -= len(taken)
        return taken

    def _hold(self) -> float:
        """For how many seconds the answers that are there may wait for more."""
        if self._apart < HOLD_SECONDS:
            return HOLD_SECONDS
        more = len(self._items) > self._answered + self._events
        return BUSY_HOLD_SECONDS if more and self._apart < BUSY_HOLD_SECONDS else 0

    async def _sleep(self, enough: int, seconds: float | None = None) -> None:
        """Wait for an event or for `enough` answers, at most so long."""
        loop = asyncio.get_running_loop()
        self._wake, self._enough = loop.create_future(), enough
        timer = None if seconds is None else loop.call_later(seconds, self._notify)
        try:
            await self._wake
        finally:
            self._wake, self._enough = None, 1
            if timer is not None:
                timer.cancel()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def _ready(item: tuple[object, Awaited | None]) -> bool:
    return item[1] is None or item[1].answer.done()
