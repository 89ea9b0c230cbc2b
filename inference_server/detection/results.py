"""What is asked of a frame, and what a model found in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import InvalidField

MAX_DETECTIONS = 10_000


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
        if not 1 <= self.max_detections <= MAX_DETECTIONS:
            raise InvalidField("max_detections", f"1..{MAX_DETECTIONS}, got {self.max_detections}")


DEFAULTS = Options()


@dataclass(frozen=True, slots=True)
class Detections:
    """Objects in one picture, best first.

    `boxes` is float32 (N, 4): x_min, y_min, x_max, y_max in source pixels, inside the picture. `scores` is float32 (N,)
    in 0..1, `class_ids` int64 (N,). What only some families give is None for the others:

    `keypoints`: float32 (N, K, 3): x and y in source pixels, and a confidence in 0..1.
    `masks`: for each object the runs of its mask over the source picture, int64 (R,): lengths of runs outside and
    inside in turn, the first outside, column by column from the top left (COCO's uncompressed run lengths).
    `oriented_boxes`: float32 (N, 5): centre x, centre y, width, height in source pixels, and the angle of the width's
    axis in radians, clockwise as seen on the picture: -pi/4..3*pi/4, since a half turn changes nothing. They may
    reach beyond the picture; `boxes` are then what encloses them, clipped.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    keypoints: NDArray[np.float32] | None = None
    masks: tuple[NDArray[np.int64], ...] | None = None
    oriented_boxes: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls) -> Detections:
        """No objects."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Classes:
    """Classes of the picture as a whole, best first: `scores` float32 (N,) in 0..1, `class_ids` int64 (N,)."""

    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


Found = Detections | Classes


def chosen_classes(class_ids: NDArray[Any], options: Options) -> NDArray[np.bool_]:
    """(N,): which of `class_ids` are asked for."""
    if options.class_ids is None:
        return np.ones(len(class_ids), np.bool_)
    return np.isin(class_ids, list(options.class_ids))
