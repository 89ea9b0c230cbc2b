"""Masks of objects as run lengths over the source picture, from prototypes that many objects share.

An object's mask is where the sum of the prototypes, weighted by its coefficients, is above 0 inside its box. The
prototypes cover the model's input at a quarter of its size. They are brought to the source picture as Ultralytics does
for `retina_masks=True`: enlarged just enough that the padding falls on whole pixels, the padding cut off, the rest
scaled to the picture; each step bilinear. All of it works on rows and columns apart, so one matrix for each axis does
the whole way, and of its result only the pixels in an object's box are ever computed.

The matrices are multiplied in blocks. A pixel hangs on a few cells only, so most of the matrices is never touched; and
products this small are not spread over threads, which on a machine whose cores run a session cost far more than they
bring.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from inference_server.detection.geometry import Placement

# Input pixels for each cell of a prototype.
CELL = 4
# Pixels along an axis whose cells are mixed at once, and pixels across it that they are mixed for.
BLOCK, REACH = 32, 512


@dataclass(frozen=True, slots=True)
class _Axis:
    """How the cells along one axis make up the pixels of the source: `weights` float32 (pixels, cells), and for each
    pixel the first cell and the one after the last that it may hang on."""

    weights: NDArray[np.float32]
    first: NDArray[np.intp]
    after: NDArray[np.intp]

    def span(self, start: int, stop: int) -> slice:
        """The cells that pixels `start` to `stop` hang on; there must be such pixels."""
        return slice(int(self.first[start]), int(self.after[stop - 1]))


def run_lengths(
    coefficients: NDArray[np.float32], prototypes: NDArray[np.float32], boxes: NDArray[np.float32], placement: Placement
) -> list[NDArray[np.int64]]:
    """The mask of each object as run lengths over the source picture, laid out as `Detections.masks` says.

    `coefficients` is (N, P), `prototypes` (P, rows, columns), `boxes` (N, 4) as corners in source pixels, inside the
    picture. An object without a pixel has a single run, outside.
    """
    if not len(boxes):
        return []
    _, rows, columns = prototypes.shape
    enlarge = CELL // gcd(CELL, placement.left, placement.top, placement.width, placement.height)
    down = _axis(rows, enlarge, placement.top, placement.height, placement.source_height)
    across = _axis(columns, enlarge, placement.left, placement.width, placement.source_width)
    # A pixel counts if its top left corner lies in the box.
    pixels = np.ceil(boxes).astype(np.int64).tolist()
    with np.errstate(all="ignore"):  # garbage in a model's numbers is garbage in its masks, and no reason to fail
        return [
            _runs(_inside(weights, prototypes, box, across, down), box, placement)
            for weights, box in zip(coefficients, pixels, strict=True)
        ]


def _axis(cells: int, enlarge: int, start: int, size: int, source: int) -> _Axis:
    """From `cells`, enlarged, to the `source` pixels that lie in `size` input pixels from `start`."""
    start, size = start * enlarge // CELL, size * enlarge // CELL
    enlarged = cells * enlarge
    low, high, share = _neighbours(enlarged, cells)
    weights = np.zeros((enlarged, cells), np.float32)
    weights[np.arange(enlarged), low] = 1 - share
    weights[np.arange(enlarged), high] += share
    low, high, share = _neighbours(source, size)
    # Where a picture reaches beyond the input there are no cells, and no boxes either.
    low, high = (np.clip(start + index, 0, enlarged - 1) for index in (low, high))
    mixed = weights[low] * (1 - share[:, None]) + weights[high] * share[:, None]
    first, last = np.maximum(low // enlarge - 1, 0), np.minimum(high // enlarge + 1, cells - 1)
    return _Axis(mixed, first, last + 1)


def _neighbours(target: int, source: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each of `target` pixels the two of `source` that its middle lies between, and the share of the second."""
    middles = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    low = np.minimum(middles.astype(np.intp), source - 1)
    return low, np.minimum(low + 1, source - 1), (middles - low).astype(np.float32)


def _inside(
    coefficients: NDArray[np.float32], prototypes: NDArray[np.float32], box: list[int], across: _Axis, down: _Axis
) -> NDArray[np.bool_]:
    """(width, height): which pixels of the box are in the mask, column by column."""
    left, top, right, bottom = box
    inside = np.zeros((max(0, right - left), max(0, bottom - top)), np.bool_)
    if not inside.size:
        return inside
    rows, columns = down.span(top, bottom), across.span(left, right)
    # Not as a product of matrices: that one would be spread over threads.
    cells = np.einsum("p,pyx->xy", coefficients, prototypes[:, rows, columns])
    stretched = np.empty((cells.shape[0], bottom - top), np.float32)
    for start, stop, block in _blocks(down, top, bottom):
        part = cells[:, block.start - rows.start : block.stop - rows.start]
        np.matmul(part, down.weights[start:stop, block].T, out=stretched[:, start - top : stop - top])
    for start, stop, block in _blocks(across, left, right):
        part = stretched[block.start - columns.start : block.stop - columns.start]
        weights = across.weights[start:stop, block]
        for reach in range(0, bottom - top, REACH):
            mixed = weights @ part[:, reach : reach + REACH]
            np.greater(mixed, 0, out=inside[start - left : stop - left, reach : reach + REACH])
    return inside


def _blocks(axis: _Axis, start: int, stop: int) -> Iterator[tuple[int, int, slice]]:
    """Yield pixels `start` to `stop` in blocks, each with the cells that it hangs on."""
    for first in range(start, stop, BLOCK):
        after = min(first + BLOCK, stop)
        yield first, after, axis.span(first, after)


def _runs(inside: NDArray[np.bool_], box: list[int], placement: Placement) -> NDArray[np.int64]:
    """Run lengths over the whole picture of a mask that lies in a box of it."""
    left, top = box[:2]
    width, height = inside.shape
    framed = np.zeros((width, height + 2), np.bool_)
    framed[:, 1:-1] = inside
    # Every column begins and ends outside, so edges come in pairs; each is a place in the picture, column by column.
    columns, rows = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), height + 1)
    edges = (left + columns) * placement.source_height + top + rows
    # A run that ends at the foot of a column may go on at the head of the next.
    if height == placement.source_height:
        joined = np.flatnonzero(edges[1:] == edges[:-1])
        edges = np.delete(edges, np.concatenate((joined, joined + 1)))
    total = placement.source_width * placement.source_height
    counts = np.diff(edges, prepend=0, append=total)
    return counts[:-1] if len(counts) > 1 and not counts[-1] else counts
