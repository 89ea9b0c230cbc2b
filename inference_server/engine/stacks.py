"""Arrays that enter a session as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Stack:
    """`parts` one below the other, and zeros in the rows that `shape` has beyond theirs."""

    parts: Sequence[NDArray[Any]]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, parts: Sequence[NDArray[Any]], missing: int = 0) -> Self:
        """`missing`: how many rows of zeros there are to be, none below 1. Raises ValueError for unlike parts."""
        first = parts[0]
        if len(parts) == 1 and missing < 1:
            return cls(parts, first.shape)
        if any((part.dtype, part.shape[1:]) != (first.dtype, first.shape[1:]) for part in parts):
            raise ValueError("parts: expected rows of one shape and type")
        return cls(parts, (sum(map(len, parts)) + max(0, missing), *first.shape[1:]))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.parts[0].dtype

    def joined(self) -> NDArray[Any]:
        """One array on the host: a part that is all there is where it lies, others copied once."""
        first, *others = self.parts
        if not others and first.shape == self.shape:
            return first
        missing = self.shape[0] - sum(map(len, self.parts))
        filling = [np.zeros((missing, *self.shape[1:]), self.dtype)] if missing else []
        return np.concatenate([*self.parts, *filling])
