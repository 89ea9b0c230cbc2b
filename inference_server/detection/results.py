"""What is asked of a frame's detections, and the detections themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import InvalidField


@dataclass(frozen=True, slots=True)
class Options:
    """Which detections are wanted; the fields are named and bounded as in the request. Raises InvalidField.

    A detection counts if its score is above `confidence_threshold`; of boxes of one class that overlap by more than
    `iou_threshold` the best is kept; at most `max_detections` are; `class_ids` keeps only those classes (None = all).
    """

    confidence_threshold: float = 0.25
    iou_threshold: float = 0.7
    max_detections: int = 300
    class_ids: frozenset[int] | None = None

    def __post_init__(self) -> None:
        for field in ("confidence_threshold", "iou_threshold"):
            value = getattr(self, field)
            if not 0 <= value <= 1:
                raise InvalidField(field, f"0..1, got {value}")
        if not 1 <= self.max_detections <= 10_000:
            raise InvalidField("max_detections", f"1..10000, got {self.max_detections}")


@dataclass(frozen=True, slots=True)
class Detections:
    """Objects in one picture, best first: `boxes` float32 (N, 4) as x_min, y_min, x_max, y_max in source pixels,
    `scores` float32 (N,) in 0..1 and `class_ids` int64 (N,)."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls) -> Detections:
        """No objects."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
