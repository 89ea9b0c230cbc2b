"""The layout of heads that say for each anchor whether there is an object at all, and then of which class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_server.detection.description import Description
from inference_server.detection.family import Outputs
from inference_server.detection.heads import (
    BOX,
    Candidates,
    check_scores,
    corners,
    near,
    numbered_classes,
    three_dimensions,
)
from inference_server.detection.results import Options, chosen_classes
from inference_server.detection.signature import TensorSpec
from inference_server.detection.suppression import suppress
from inference_server.errors import ModelRefused

OBJECT, CLASSES = BOX, BOX + 1


@dataclass(frozen=True, slots=True)
class ObjectRows:
    """A head without suppression: (anchors, 5 + classes) for each frame.

    The columns are four numbers for the box, the objectness, and a score for each class, the latter in 0..1; an object
    scores as much as both multiplied. `anchors` are the numbers of anchors that there may be, none for any; `classes`
    is None where only the output itself tells.
    """

    output_name: str
    anchors: tuple[int, ...]
    classes: int | None

    def check(self, outputs: Outputs) -> None:
        """Raise ModelRefused where the output has other rows or columns, or scores that are none."""
        rows = outputs[self.output_name]
        least = CLASSES + (self.classes or 1)
        fits = rows.ndim == 2 and (rows.shape[1] == least or (self.classes is None and rows.shape[1] > least))
        if not fits or (self.anchors and len(rows) not in self.anchors):
            columns = least if self.classes else f"{CLASSES} + classes"
            expected = f"({_one_of(self.anchors)}, {columns})"
            raise ModelRefused(f"output {self.output_name}: expected {expected} for each frame, got {rows.shape}")
        check_scores(self.output_name, rows[:, OBJECT:])

    def detect(self, outputs: Outputs, options: Options) -> Candidates:
        """The objects that suppression leaves, where the boxes' columns are centres and sizes in input pixels."""
        found, _ = self.columns(outputs, options)
        return suppressed(found, options)

    def columns(self, outputs: Outputs, options: Options) -> tuple[Candidates, NDArray[np.intp]]:
        """The anchors whose best class is wanted and scores above the threshold, with the boxes as their columns say,
        and which anchors they are."""
        rows = outputs[self.output_name].astype(np.float32, copy=False)
        # Most anchors see nothing: no class makes up for an objectness that does not pass.
        anchors = np.flatnonzero(rows[:, OBJECT] > options.confidence_threshold)
        anchors = anchors[np.isfinite(rows[anchors]).all(axis=1)]
        rows = near(rows[anchors])
        class_ids = rows[:, CLASSES:].argmax(axis=1)
        best = rows[np.arange(len(rows)), CLASSES + class_ids] * rows[:, OBJECT]
        wanted = (best > options.confidence_threshold) & chosen_classes(class_ids, options)
        found = Candidates(rows[:, :BOX], best, class_ids, rows[:, :0])
        return found.take(wanted), anchors[wanted]


def suppressed(found: Candidates, options: Options) -> Candidates:
    """What suppression leaves of boxes that are centre and size, as corners, best first."""
    boxes = corners(found.boxes)
    kept = suppress(boxes, found.scores, found.class_ids, options.iou_threshold, options.max_detections)
    return Candidates(boxes, found.scores, found.class_ids, found.extras).take(kept)


def object_rows(
    description: Description, output: TensorSpec, anchors: tuple[int, ...]
) -> tuple[ObjectRows, tuple[str, ...]]:
    """The columns of `output` and the names of its classes; `anchors` as in `ObjectRows`. Raises ModelRefused.

    The graph may leave open how many rows and columns there are, since `check` sees them, if the file says by nothing
    else that it is another's. Without names it must say how many columns there are, unless the family is declared.
    """
    _, rows, columns = three_dimensions(output)
    if None in (rows, columns) and "task" in description.signature.metadata and not description.declared:
        raise ModelRefused("expected no metadata key 'task', since exporters of this family write none")
    names = description.class_names()
    classes = len(names) if names else None if columns is None else columns - CLASSES
    if classes is None and not description.declared:
        raise ModelRefused(f"output {output}: neither it nor the metadata key 'names' says how many classes there are")
    known = rows is None or not anchors or rows in anchors
    if not known or (classes is not None and (classes < 1 or columns not in (CLASSES + classes, None))):
        columns_expected = f"{CLASSES + len(names)} for {len(names)} classes" if names else f"{CLASSES} + classes"
        raise ModelRefused(f"output {output}: expected (batch, {_one_of(anchors)}, {columns_expected})")
    return ObjectRows(output.name, anchors, classes), names or numbered_classes(classes or 0)


def _one_of(anchors: tuple[int, ...]) -> str:
    return " or ".join(map(str, anchors)) or "anchors"
