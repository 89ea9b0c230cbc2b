"""To which of the sizes that were rehearsed a batch is filled up on a device."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock


class BatchSizes:
    """Keeps to one size for as long as that serves.

    cuDNN plans every convolution anew for a batch that differs in size from the one before it, which takes as long as
    dozens of batches. So batches are filled up to the size that is in use, and what does not fit into it waits for the
    next one, until what has been lost by this is more than a change costs. `sizes` is in ascending order, and may be
    empty: then nothing is filled up. May be asked from several threads.
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

        What was never learnt is taken to cost nothing: the size then stays what it is.
        """
        self._seconds[size] = seconds
        self._change_seconds = max(0.0, change_seconds)  # two timings may differ the other way round

    def limit(self, most: int) -> None:
        """Use no size above `most`."""
        self._sizes = [size for size in self._sizes if size <= most]
        self._use(self._sizes[-1] if self._sizes else 0)

    def room(self, waiting: int) -> int:
        """How many rows to take of so many that wait; 0 where that is not for this to say."""
        with self._lock:
            if self._sizes and waiting:
                self._regret(waiting)
            return self._used

    def rows(self, given: int) -> int:
        """How many rows to run where there are `given` ones, which cannot be parted: as many, or a size that fits."""
        with self._lock:
            if given <= self._used:
                return self._used
            fitting = next((size for size in self._sizes if size >= given), None)
            if fitting is not None:
                self._use(fitting)
            return fitting or given

    def _regret(self, waiting: int) -> None:
        """Add to what was lost by not using each other size, and use the one that would have saved most."""
        done = min(waiting, self._used)
        for size in self._sizes:
            other = self._seconds[size] * done / min(waiting, size)
            self._lost[size] = max(0.0, self._lost[size] + self._seconds[self._used] - other)
        best = max(self._sizes, key=self._lost.__getitem__)
        if self._lost[best] > self._change_seconds:
            self._use(best)

    def _use(self, size: int) -> None:
        if size != self._used:
            self._used = size
            self._lost = dict.fromkeys(self._sizes, 0.0)
