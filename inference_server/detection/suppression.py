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
    kept = np.empty(0, np.intp)
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        alive = ~_clashes(boxes, class_ids, kept, block, iou_threshold).any(axis=0)
        block = block[alive]
        kept = np.concatenate((kept, block[_greedy(_clashes(boxes, class_ids, block, block, iou_threshold))]))
        if len(kept) >= limit:
            break
    return kept[:limit]


def _clashes(
    boxes: NDArray[np.float32],
    class_ids: NDArray[Any],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    iou_threshold: float,
) -> NDArray[np.bool_]:
    """(rows, columns): whether two boxes are of one class and overlap by more than the threshold."""
    one, other = boxes[rows].T[:, :, None], boxes[columns].T[:, None, :]
    width = np.minimum(one[2], other[2]) - np.maximum(one[0], other[0])
    height = np.minimum(one[3], other[3]) - np.maximum(one[1], other[1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    union = _areas(one) + _areas(other) - shared
    # Compared without a division, so that boxes without area overlap nothing.
    clashes: NDArray[np.bool_] = (shared > iou_threshold * union) & (class_ids[rows][:, None] == class_ids[columns])
    return clashes


def _areas(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    areas: NDArray[np.float32] = (corners[2] - corners[0]) * (corners[3] - corners[1])
    return areas


def _greedy(clashes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of N boxes, best first, stay when each that stays drops those after it that it clashes with."""
    alive = np.ones(len(clashes), np.bool_)
    for index, row in enumerate(clashes):
        if alive[index]:
            alive[index + 1 :] &= ~row[index + 1 :]
    return alive
