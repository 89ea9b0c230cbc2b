"""Boxes that lie at an angle: float32 (N, 5): centre x, centre y, width, height, and the angle of the width's axis in
radians, clockwise as seen on a picture (y points down)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.detection.geometry import Placement

# So many boxes are compared with so many better ones at once; memory stays small for any number of boxes.
BLOCK = 128
EPSILON = 1e-7


def to_source(boxes: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """Turn boxes in input pixels into boxes in source pixels, not clipped, their angles in -pi/4..3*pi/4.

    A box looks the same after half a turn, so that every angle has one equal in this range, which leaves width and
    height what they are. A size below 0 counts as 0. Where the axes are scaled unlike, each side gets the length that
    its own direction is scaled to.
    """
    across, down = placement.scale.astype(np.float64)
    width, height, angle = boxes[:, 2:].T.astype(np.float64)
    cosine, sine = np.cos(angle), np.sin(angle)
    width = np.maximum(width, 0) * np.hypot(across * cosine, down * sine)
    height = np.maximum(height, 0) * np.hypot(across * sine, down * cosine)
    turned = np.arctan2(down * sine, across * cosine)
    turned = np.mod(turned + np.pi / 4, np.pi) - np.pi / 4
    sizes = np.stack((width, height, turned), axis=1).astype(np.float32)
    result: NDArray[np.float32] = np.concatenate((placement.beyond_source(boxes[:, :2]), sizes), axis=1)
    return result


def enclosing(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4): the upright box around each box, as corners."""
    width, height, angle = boxes[:, 2:].T
    cosine, sine = np.abs(np.cos(angle)), np.abs(np.sin(angle))
    halves = np.stack((width * cosine + height * sine, width * sine + height * cosine), axis=1) / 2
    result: NDArray[np.float32] = np.concatenate((boxes[:, :2] - halves, boxes[:, :2] + halves), axis=1)
    return result


def suppress_oriented(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[Any],
    iou_threshold: float,
    limit: int,
) -> NDArray[np.intp]:
    """Indices of the boxes to keep, best score first (equal scores: lower index first), at most `limit`.

    A box is dropped if any better one of its class overlaps it by more than `iou_threshold`, also one that is dropped
    itself: this is how Ultralytics suppresses boxes at an angle. The overlap is that of two normal distributions of the
    boxes' extents ("probabilistic IoU", arXiv:2106.06072).
    """
    order = np.argsort(-scores, kind="stable")
    shapes, classes = _distributions(boxes[order]), class_ids[order]
    kept = np.empty(0, np.intp)
    for start in range(0, len(order), BLOCK):
        alive = np.arange(start, min(start + BLOCK, len(order)))
        for better in range(0, start + 1, BLOCK):
            others = np.arange(better, min(better + BLOCK, len(order)))
            clashes = _overlaps(shapes[:, others, None], shapes[:, None, alive]) > iou_threshold
            clashes &= (classes[others][:, None] == classes[alive]) & (others[:, None] < alive)
            alive = alive[~clashes.any(axis=0)]
            if not len(alive):
                break
        kept = np.concatenate((kept, order[alive]))
        if len(kept) >= limit:
            break
    return kept[:limit]


def _distributions(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """(6, N): mean x and y, the covariance's entries xx, yy and xy, and its determinant."""
    x, y, width, height, angle = boxes.T.astype(np.float64)
    along, beside = width**2 / 12, height**2 / 12
    cosine, sine = np.cos(angle), np.sin(angle)
    xx, yy = along * cosine**2 + beside * sine**2, along * sine**2 + beside * cosine**2
    return np.stack((x, y, xx, yy, (along - beside) * cosine * sine, along * beside))


def _overlaps(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - the Hellinger distance, from the Bhattacharyya distance."""
    x, y = one[0] - other[0], one[1] - other[1]
    xx, yy, xy = one[2] + other[2], one[3] + other[3], one[4] + other[4]
    determinant = np.maximum(xx * yy - xy**2, 0)
    apart = (0.25 * (xx * y**2 + yy * x**2) - 0.5 * xy * x * y) / (determinant + EPSILON)
    unlike = 0.5 * np.log(determinant / (4 * np.sqrt(one[5] * other[5]) + EPSILON) + EPSILON)
    distance = np.clip(apart + unlike, EPSILON, 100)
    overlaps: NDArray[np.float64] = 1 - np.sqrt(1 - np.exp(-distance) + EPSILON)
    return overlaps
