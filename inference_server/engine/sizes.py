"""To which of the sizes that were rehearsed a batch is filled up on a device."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock


class BatchSizes:
    """Keeps to one size for as long as that serves.

    cuDNN plans every convolution anew for a batch that differs in size from the one before it, which takes as long as
    dozens of batches. So batches are filled up to the size that is in use. A larger one is taken when a batch does not
    fit, a smaller one when what the batches that would have fitted it, in a row, lost by being filled up is as much as
    a change costs. `sizes` is in ascending order, and may be empty: then nothing is filled up. May be asked from
    several threads.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)
        self._used = self._sizes[-1] if self._sizes else 0  # the one that was rehearsed last
        self._seconds = dict.fromkeys(self._sizes, 0.0)
        self._change_seconds = 0.0
        self._lost = dict.fromkeys(self._sizes, 0.0)
        self._lock = Lock()

    @property
    def larger(self) -> Sequence[int]:
        """All sizes but the first."""
        return self._sizes[1:]

    def learn(self, size: int, seconds: float, change_seconds: float) -> None:
        """A batch of `size` takes so long, and so much longer if the one before it had another size.

        What was never learnt is taken to cost nothing: batches then stay as large as they are.
        """
        self._seconds[size] = seconds
        self._change_seconds = max(self._change_seconds, change_seconds)

    def limit(self, most: int) -> None:
        """Use no size above `most`."""
        self._sizes = [size for size in self._sizes if size <= most]
        self._used = self._sizes[-1] if self._sizes else 0

    def rows(self, given: int) -> int:
        """How many rows to run where there are `given` ones: as many, where they exceed every size."""
        fitting = next((size for size in self._sizes if size >= given), given)
        if not self._sizes or fitting > self._sizes[-1]:
            return given
        with self._lock:
            self._use(max(fitting, self._used))
            self._regret(fitting)
            return self._used

    def _regret(self, fitting: int) -> None:
        """Add to what was lost by not having used each smaller size, and use the one that would have saved most."""
        for size in self._sizes:
            saved = self._seconds[self._used] - self._seconds[size]
            self._lost[size] = self._lost[size] + saved if fitting <= size < self._used else 0.0
        best = max(self._sizes, key=self._lost.__getitem__)
        if self._lost[best] > self._change_seconds:
            self._use(best)

    def _use(self, size: int) -> None:
        if size != self._used:
            self._used = size
            self._lost = dict.fromkeys(self._sizes, 0.0)
