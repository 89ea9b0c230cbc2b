"""How detection heads lay out their outputs, whatever a family makes of the columns that follow box and score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference_server.detection.description import Description
from inference_server.detection.family import Family, Outputs
from inference_server.detection.geometry import Layout
from inference_server.detection.metadata import of_rtdetr, says_selected
from inference_server.detection.results import Options, chosen_classes
from inference_server.detection.signature import FLOATS, TensorSpec
from inference_server.detection.suppression import suppress
from inference_server.errors import ModelRefused

STRIDES = (8, 16, 32)
BOX = 4
# No picture reaches so far; what a head says beyond it is cut off, so that no product of two of them overflows.
FAR = np.float32(1e6)
# How far a score may lie outside 0..1 for rounding to half precision.
ROUNDING = 1e-2


@dataclass(frozen=True, slots=True)
class Candidates:
    """What passed the threshold, in no order: `boxes` float32 (N, 4) as corners in input pixels, `scores` float32 (N,),
    `class_ids` int64 (N,), and `extras` float32 (N, E), what the head gives besides."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    extras: NDArray[np.float32]

    def take(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> Candidates:
        """Those that are chosen, by index in that order or by a mask."""
        return Candidates(self.boxes[chosen], self.scores[chosen], self.class_ids[chosen], self.extras[chosen])


class BoxHead(Protocol):
    """The outputs of a model that hold boxes, whatever their layout."""

    def check(self, outputs: Outputs) -> None:
        """Raise ModelRefused where the outputs are not laid out as expected."""

    def detect(self, outputs: Outputs, options: Options) -> Candidates:
        """The objects that are wanted, best first, at most as many as are asked for."""


class Head(BoxHead, Protocol):
    """One output that also tells its boxes as it gives them, for families that make something else of them."""

    def columns(self, outputs: Outputs, options: Options) -> Candidates:
        """What is wanted and passes the threshold, its boxes as the four numbers that the head gives."""


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

    @property
    def first(self) -> int:
        """The first row of scores."""
        return BOX

    @property
    def last(self) -> int:
        """The row behind the scores."""
        return BOX + self.classes

    def check(self, outputs: Outputs) -> None:
        """Raise ModelRefused where the output has other rows, or scores that are none."""
        rows = outputs[self.output_name]
        if rows.ndim != 2 or len(rows) != self.count:
            raise ModelRefused(
                f"output {self.output_name}: expected ({self.count}, anchors) for each frame, got {rows.shape}"
            )
        check_scores(self.output_name, rows[BOX : BOX + self.classes])

    def detect(self, outputs: Outputs, options: Options) -> Candidates:
        """What is left of `read` after suppression, best first."""
        found = self.read(outputs, options)
        kept = suppress(found.boxes, found.scores, found.class_ids, options.iou_threshold, limit=options.max_detections)
        return found.take(kept)

    def read(self, outputs: Outputs, options: Options) -> Candidates:
        """The anchors whose best class is wanted and scores above the threshold."""
        found = self.columns(outputs, options)
        return replace(found, boxes=corners(found.boxes))

    def columns(self, outputs: Outputs, options: Options) -> Candidates:
        """As `read`, with the boxes as centre x, centre y, width and height."""
        rows = outputs[self.output_name].astype(np.float32, copy=False)
        scores = slice(BOX, BOX + self.classes)
        # Most anchors see nothing: find them by their best class first, along contiguous memory.
        best = rows[scores].max(axis=0)
        rows = rows.take(np.flatnonzero(best > options.confidence_threshold), axis=1)
        class_ids = rows[scores].argmax(axis=0)
        wanted = chosen_classes(class_ids, options) & np.isfinite(rows).all(axis=0)
        rows, class_ids = rows[:, wanted], class_ids[wanted]
        best = rows[BOX + class_ids, np.arange(len(class_ids))]
        return Candidates(near(rows[:BOX].T), best, class_ids, near(rows[BOX + self.classes :].T))


def anchor_rows_of(family: Family) -> AnchorRows | None:
    """The head of a family that reads its boxes from anchors without suppression; None for all others."""
    head = getattr(family, "head", None)
    return head if isinstance(head, AnchorRows) else None


# Reads an output as one kind of head: it and the names of its classes, or ModelRefused.
ReadHead = Callable[[Description, TensorSpec, Layout, int], tuple[Head, tuple[str, ...]]]


def anchor_rows(
    description: Description, output: TensorSpec, layout: Layout, extras: int = 0
) -> tuple[AnchorRows, tuple[str, ...]]:
    """The rows of `output` and the names of its classes. Raises ModelRefused.

    Without names the number of classes is taken from the rows, if the anchors are those of this head's strides or the
    family is declared, so that the rows can be nothing else.
    """
    _, rows, anchors = three_dimensions(output)
    metadata = description.signature.metadata
    if not description.declared and (says_selected(metadata) or of_rtdetr(metadata)):
        raise ModelRefused("the file's metadata says that its graph selects the objects, expected one that does not")
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
    if rows != found.count and (rows is not None or not description.tasked):
        raise ModelRefused(f"output {output}: expected (batch, {found.count}, anchors) for {len(names)} classes")
    return found, names


def three_dimensions(output: TensorSpec) -> tuple[int | None, ...]:
    """The shape of an output that holds rows and columns for each frame. Raises ModelRefused."""
    if output.dtype not in FLOATS or output.shape is None or len(output.shape) != 3:
        raise ModelRefused(f"output {output}: expected float32 or float16 of three dimensions")
    return output.shape


def check_scores(name: str, scores: NDArray[np.floating[Any]]) -> None:
    """Raise ModelRefused where scores are not in 0..1, as those of another layout or before the sigmoid."""
    if scores.size and not (scores.min() >= -ROUNDING and scores.max() <= 1 + ROUNDING):
        raise ModelRefused(f"output {name}: expected scores in 0..1, got {scores.min():.4g}..{scores.max():.4g}")


def anchors_of(layout: Layout) -> int:
    """How many anchors a head without anchor boxes has: one for each cell of its three grids."""
    return sum((layout.height // stride) * (layout.width // stride) for stride in STRIDES)


def numbered_classes(count: int) -> tuple[str, ...]:
    """Names for classes that nobody named."""
    return tuple(f"class{index}" for index in range(count))


def near(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values that no picture reaches, cut off."""
    return np.clip(values, -FAR, FAR)


def corners(centres_and_sizes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4) centre x, centre y, width, height as (N, 4) x_min, y_min, x_max, y_max; a size below 0 counts as 0."""
    centres, halves = centres_and_sizes[:, :2], np.maximum(centres_and_sizes[:, 2:], 0) * np.float32(0.5)
    result: NDArray[np.float32] = np.concatenate((centres - halves, centres + halves), axis=1)
    return result
