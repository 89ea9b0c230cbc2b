"""To which of the sizes that were rehearsed a batch is filled up on a device."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock


class BatchSizes:
    """Keeps to one size for as long as that serves.

    cuDNN plans every convolution anew for a batch that differs in size from the one before it, which takes as long as
    dozens of batches. So batches are filled up to the size that is in use: a larger one is taken when a batch does not
    fit, a smaller one when none of the last `patience` batches needed as much. `sizes` is in ascending order, and may
    be empty: then nothing is filled up. May be asked from several threads.
    """

    def __init__(self, sizes: Sequence[int], patience: int = 64) -> None:
        self._sizes = list(sizes)
        self._patience = patience
        self._used = self._sizes[-1] if self._sizes else 0  # the one that was rehearsed last
        self._needed = self._run = 0
        self._lock = Lock()

    @property
    def larger(self) -> Sequence[int]:
        """All sizes but the first."""
        return self._sizes[1:]

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
            self._needed, self._run = max(self._needed, fitting), self._run + 1
            if fitting > self._used or self._run == self._patience:
                self._used, self._needed, self._run = max(fitting, self._needed), 0, 0
            return self._used
