"""What each running version has answered on the tensor path, and how long that took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

from inference_server.serving import Running


@dataclass(slots=True)
class Total:
    """How often something was done, and how many seconds that took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Parts:
    """The parts of answering: reading the inputs, the session, writing the outputs."""

    read: Total = field(default_factory=Total)
    run: Total = field(default_factory=Total)
    write: Total = field(default_factory=Total)

    def add(self, timing: Timing) -> None:
        self.read.add(timing.read_seconds)
        self.run.add(timing.run_seconds)
        self.write.add(timing.write_seconds)


class Timing(NamedTuple):
    """Where one answered request spent its time; `rows` is its batch."""

    rows: int
    read_seconds: float
    queue_seconds: float
    run_seconds: float
    write_seconds: float
    total_seconds: float


@dataclass(slots=True)
class Statistics:
    """All requests for one version since it runs."""

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    parts: Parts = field(default_factory=Parts)
    by_rows: dict[int, Parts] = field(default_factory=dict)
    rows: int = 0
    last_milliseconds: int = 0

    def answered(self, timing: Timing) -> None:
        self.success.add(timing.total_seconds)
        self.queue.add(timing.queue_seconds)
        self.parts.add(timing)
        self.by_rows.setdefault(timing.rows, Parts()).add(timing)
        self.rows += timing.rows
        self.last_milliseconds = time.time_ns() // 1_000_000

    def failed(self, seconds: float) -> None:
        self.fail.add(seconds)


class AllStatistics:
    """The statistics of every running version; those of a version that is gone go with it."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Running, Statistics] = WeakKeyDictionary()

    def of(self, running: Running) -> Statistics:
        found = self._of.get(running)
        if found is None:
            found = self._of[running] = Statistics()
        return found
