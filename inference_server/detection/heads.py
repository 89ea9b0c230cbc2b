"""How detection heads lay out their outputs, whatever a family makes of the columns that follow box and score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_server.detection.description import Description
from inference_server.detection.family import Outputs
from inference_server.detection.geometry import Layout
from inference_server.detection.results import Options, chosen_classes
from inference_server.detection.signature import FLOATS, TensorSpec
from inference_server.errors import ModelRefused

STRIDES = (8, 16, 32)
BOX = 4


@dataclass(frozen=True, slots=True)
class Candidates:
    """What passed the threshold, in no order: `boxes` float32 (N, 4) as corners in input pixels, `scores` float32 (N,),
    `class_ids` int64 (N,), and `extras` float32 (N, E), what the head gives besides."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    extras: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AnchorRows:
    """A head without suppression: (4 + classes + extras, anchors) for each frame.

    The rows are centre x, centre y, width, height in input pixels, a score in 0..1 for each class, and the extras.
    """

    output_name: str
    classes: int
    extras: int = 0

    @property
    def count(self) -> int:
        return BOX + self.classes + self.extras

    def check(self, outputs: Outputs) -> None:
        """Raise ModelRefused where the output has other rows."""
        shape = outputs[self.output_name].shape
        if len(shape) != 2 or shape[0] != self.count:
            raise ModelRefused(
                f"output {self.output_name}: expected ({self.count}, anchors) for each frame, got {shape}"
            )

    def read(self, outputs: Outputs, options: Options) -> Candidates:
        """The anchors whose best class is wanted and scores above the threshold."""
        rows = outputs[self.output_name].astype(np.float32, copy=False)
        scores = slice(BOX, BOX + self.classes)
        # Most anchors see nothing: find them by their best class first, along contiguous memory.
        best = rows[scores].max(axis=0)
        passing = np.flatnonzero(best > options.confidence_threshold)
        rows = rows.take(passing, axis=1)
        class_ids = rows[scores].argmax(axis=0)
        wanted = chosen_classes(class_ids, options)
        rows, class_ids, best = rows[:, wanted], class_ids[wanted], best[passing[wanted]]
        return Candidates(corners(rows[:BOX].T), best, class_ids, rows[BOX + self.classes :].T)


def anchor_rows(
    description: Description, output: TensorSpec, layout: Layout, extras: int = 0
) -> tuple[AnchorRows, tuple[str, ...]]:
    """The rows of `output` and the names of its classes. Raises ModelRefused.

    Without names the number of classes is taken from the rows, if the anchors are those of this head's strides or the
    family is declared, so that the rows can be nothing else.
    """
    if output.dtype not in FLOATS or output.shape is None or len(output.shape) != 3:
        raise ModelRefused(f"output {output}: expected float32 or float16 of three dimensions")
    _, rows, anchors = output.shape
    names = description.class_names()
    if names is None:
        expected = anchors_of(layout)
        if rows is None or rows <= BOX + extras or not (description.declared or anchors == expected):
            raise ModelRefused(
                f"output {output}: the file has no metadata key 'names', and without it expected"
                f" (batch, {BOX + extras} + classes, {expected}) for {layout.width}x{layout.height} pixels"
            )
        names = numbered_classes(rows - BOX - extras)
    found = AnchorRows(output.name, len(names), extras)
    if rows not in (found.count, None):
        raise ModelRefused(f"output {output}: expected (batch, {found.count}, anchors) for {len(names)} classes")
    return found, names


def anchors_of(layout: Layout) -> int:
    """How many anchors a head without anchor boxes has: one for each cell of its three grids."""
    return sum((layout.height // stride) * (layout.width // stride) for stride in STRIDES)


def numbered_classes(count: int) -> tuple[str, ...]:
    """Names for classes that nobody named."""
    return tuple(f"class{index}" for index in range(count))


def corners(centres_and_sizes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4) centre x, centre y, width, height as (N, 4) x_min, y_min, x_max, y_max."""
    centres, halves = centres_and_sizes[:, :2], centres_and_sizes[:, 2:] * np.float32(0.5)
    result: NDArray[np.float32] = np.concatenate((centres - halves, centres + halves), axis=1)
    return result
