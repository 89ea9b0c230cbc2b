"""Masks of objects as arrays. Needs the extra "video"."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

try:
    import numpy as np
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("videoai.masks needs NumPy: pip install 'videoai[video]'") from error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from videoai.inference.v1 import inference_pb2


def decode(mask: inference_pb2.Mask, width: int, height: int) -> NDArray[np.bool_]:
    """Return which pixels are the object's: bool (height, width), for a mask in a picture of that many pixels.

    `width` and `height` are those of the `FrameResult`. A mask that is not set has no pixels. Raises ValueError for run
    lengths that do not fit the picture, and for outlines of less than three points or with coordinates that are no
    numbers.
    """
    match mask.WhichOneof("encoding"):
        case "run_lengths":
            return _from_runs(np.array(mask.run_lengths.counts, np.int64), width, height)
        case "polygons":
            return _from_outlines(mask.polygons, width, height)
        case _:
            return np.zeros((height, width), np.bool_)


def _from_runs(counts: NDArray[np.int64], width: int, height: int) -> NDArray[np.bool_]:
    total = int(counts.sum())
    if total != width * height:
        raise ValueError(f"run_lengths: expected {width} x {height} = {width * height} pixels in all, got {total}")
    inside = np.arange(len(counts)) % 2 == 1
    # The runs go down the columns.
    return np.repeat(inside, counts).reshape(width, height).T


def _from_outlines(outlines: inference_pb2.Polygons, width: int, height: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), np.bool_)
    for part in outlines.parts:
        numbers = np.array(part.points, np.float64)
        if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
            raise ValueError(f"polygons: expected x and y of three points or more, got {numbers.tolist()}")
        mask |= _filled(numbers.reshape(-1, 2), width, height)
    return mask


def _filled(points: NDArray[np.float64], width: int, height: int) -> NDArray[np.bool_]:
    """Which pixels have their middle inside the outline of `points` (N, 2): right of an odd number of edges."""
    crossed = np.zeros((height, width + 1), np.int32)
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        (x, y), (end_x, end_y) = sorted((start.tolist(), end.tolist()), key=lambda point: point[1])
        rows = np.arange(min(max(0, ceil(y - 0.5)), height), min(max(0, ceil(end_y - 0.5)), height))
        crossing = x + (rows + 0.5 - y) * ((end_x - x) / (end_y - y or 1))
        crossed[rows, np.ceil(crossing - 0.5).clip(0, width).astype(np.intp)] += 1
    inside: NDArray[np.bool_] = crossed[:, :width].cumsum(axis=1) % 2 == 1
    return inside
