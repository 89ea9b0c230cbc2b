"""Which runs are over sooner than a thread could be handed them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

# A thread is handed a run and gives its answer back in 0.1 ms on an idle machine, and in several times that on a busy
# one, where it and the event loop wait for each other's turn in the interpreter.
QUICK_SECONDS = 0.0005
SLOW_SECONDS = 0.005
PROOF = 16
MAX_SHAPES = 64


@dataclass(slots=True)
class _Seen:
    runs: int = 0
    seconds: float = float("inf")


class Pace:
    """How long runs take by the shapes of what goes in. Not for several threads.

    A run that others interrupt takes longer, and none takes less than it must: so the shortest that was seen counts,
    and is forgotten little by little. But none may be slow: of a model that takes as long as its input wants, and not
    as its shape says, or of a device that others use as well, the shortest tells nothing.
    """

    def __init__(self) -> None:
        self._seen: dict[Hashable, _Seen] = {}

    def is_quick(self, shapes: Hashable) -> bool:
        """Whether a run of these is proven to take no longer than QUICK_SECONDS."""
        seen = self._seen.get(shapes)
        return seen is not None and seen.runs >= PROOF and seen.seconds <= QUICK_SECONDS

    def learn(self, shapes: Hashable, seconds: float) -> None:
        """A run of these took so long. After a slow one they have to be proven anew."""
        if seconds > SLOW_SECONDS:
            self._seen.pop(shapes, None)
            return
        if shapes not in self._seen and len(self._seen) == MAX_SHAPES:
            self._seen.clear()
        seen = self._seen.setdefault(shapes, _Seen())
        seen.runs += 1
        seen.seconds = min(seconds, 1.02 * seen.seconds)
