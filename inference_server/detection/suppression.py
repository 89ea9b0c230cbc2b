"""Greedy non-maximum suppression within classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# So many boxes are compared with each other at once; memory stays small for any number of boxes.
BLOCK = 128


def suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[Any],
    iou_threshold: float,
    limit: int,
) -> NDArray[np.intp]:
    """Indices of the boxes to keep, best score first (equal scores: lower index first), at most `limit`.

    `boxes` is (N, 4) as corners. A box is dropped if a better one of its class that is kept overlaps it by more than
    `iou_threshold` (intersection over union).
    """
    order = np.argsort(-scores, kind="stable")
    ranked = _Ranked(np.ascontiguousarray(boxes[order].T), class_ids[order])
    kept = np.empty(0, np.intp)
    for start in range(0, len(order), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(order)))
        if len(kept):
            block = block[~ranked.clashes(kept, block, iou_threshold).any(axis=0)]
        kept = np.concatenate((kept, block[_greedy(ranked.clashes(block, block, iou_threshold))]))
        if len(kept) >= limit:
            break
    return order[kept[:limit]]


class _Ranked:
    """Boxes in the order of their scores: `sides` float32 (4, N), and their classes."""

    def __init__(self, sides: NDArray[np.float32], class_ids: NDArray[Any]) -> None:
        self._sides = sides
        self._areas = (sides[2] - sides[0]) * (sides[3] - sides[1])
        self._class_ids = class_ids

    def clashes(self, rows: NDArray[np.intp], columns: NDArray[np.intp], iou_threshold: float) -> NDArray[np.bool_]:
        """(rows, columns): whether two boxes are of one class and overlap by more than the threshold."""
        one, other = self._sides.take(rows, axis=1)[:, :, None], self._sides.take(columns, axis=1)[:, None]
        low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
        width, height = np.maximum(high - low, 0)
        shared = width * height
        union = self._areas[rows, None] + self._areas[columns] - shared
        # Compared without a division, so that boxes without area overlap nothing.
        clashes: NDArray[np.bool_] = shared > iou_threshold * union
        clashes &= self._class_ids[rows, None] == self._class_ids[columns]
        return clashes


def _greedy(clashes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of N boxes, best first, stay when each that stays drops those after it that it clashes with."""
    alive = np.ones(len(clashes), np.bool_)
    # Most boxes clash with none but, having an area, with themselves.
    for index in np.flatnonzero(clashes.sum(axis=1) > clashes.diagonal()):
        if alive[index]:
            alive[index + 1 :] &= ~clashes[index, index + 1 :]
    return alive
