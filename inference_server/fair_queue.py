"""What waits for a session, and in which order it is taken: urgent first, then each caller in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class Turn:
    """When a job gets its turn.

    Callers take turns, whoever has queued more; `caller` is one object for all jobs of a stream or a connection. A
    larger `priority` goes before a smaller one. A job that has not begun at `deadline` (time.monotonic() seconds) is
    given up. `bounded` jobs are refused while the queue is full; a video's frames are not, since its decoder's slots
    bound them already.
    """

    caller: Hashable = None
    priority: int = 0
    deadline: float | None = None
    bounded: bool = True


class Queued(Protocol):
    """What can be queued."""

    @property
    def turn(self) -> Turn: ...


Job = TypeVar("Job", bound=Queued)


class FairQueue(Generic[Job]):
    """Jobs by priority, and within a priority by caller. Not for several threads without a lock."""

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[Hashable, deque[Job]]] = {}
        self.size = 0

    def push(self, job: Job) -> None:
        """Queue a job behind what its caller has queued."""
        callers = self._levels.setdefault(job.turn.priority, OrderedDict())
        callers.setdefault(job.turn.caller, deque()).append(job)
        self.size += 1

    def remove(self, job: Job) -> bool:
        """Take a job out, wherever it is; whether it was there."""
        callers = self._levels.get(job.turn.priority, OrderedDict())
        try:
            callers[job.turn.caller].remove(job)
        except (KeyError, ValueError):
            return False
        if not callers[job.turn.caller]:
            del callers[job.turn.caller]
        if not callers:
            del self._levels[job.turn.priority]
        self.size -= 1
        return True

    def take(self, fits: Callable[[Job], bool | None]) -> list[Job]:
        """The jobs whose turn it is, as far as they go together.

        `fits` is asked for the first job of one caller after the other: True takes it, and its caller's next turn comes
        after all others'; False passes it over, and its caller goes first the next time; None ends the round.
        """
        taken: list[Job] = []
        for priority in sorted(self._levels, reverse=True):
            if not self._take_level(priority, fits, taken):
                break
        return taken

    def _take_level(self, priority: int, fits: Callable[[Job], bool | None], taken: list[Job]) -> bool:
        callers = self._levels[priority]
        passed: list[tuple[Hashable, deque[Job]]] = []
        answer: bool | None = True
        while callers:
            caller, jobs = next(iter(callers.items()))
            answer = fits(jobs[0])
            if answer is None:
                break
            if answer:
                taken.append(jobs.popleft())
                if jobs:
                    callers.move_to_end(caller)
                else:
                    del callers[caller]
                self.size -= 1
            else:
                passed.append((caller, callers.pop(caller)))
        for caller, jobs in reversed(passed):
            callers[caller] = jobs
            callers.move_to_end(caller, last=False)
        if not callers:
            del self._levels[priority]
        return answer is not None
