"""The layout of heads whose graph has chosen the objects: end to end, or with suppression in the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from inference_server.detection.description import Description
from inference_server.detection.family import Outputs
from inference_server.detection.geometry import Layout
from inference_server.detection.heads import BOX, Candidates, check_scores, near, three_dimensions
from inference_server.detection.metadata import MAX_CLASSES, of_rtdetr, says_selected
from inference_server.detection.results import Options, chosen_classes
from inference_server.detection.signature import TensorSpec
from inference_server.errors import ModelRefused

SCORE, CLASS, EXTRAS = BOX, BOX + 1, BOX + 2


@dataclass(frozen=True, slots=True)
class SelectedRows:
    """A head that needs no suppression: (objects, 6 + extras) for each frame.

    The columns are four numbers for the box, a score in 0..1, the class, and the extras. Rows of zeros fill up what
    the graph did not find. `classes` bounds what can be a class.
    """

    output_name: str
    classes: int
    extras: int = 0

    @property
    def count(self) -> int:
        return EXTRAS + self.extras

    def check(self, outputs: Outputs) -> None:
        """Raise ModelRefused where the output has other columns, or scores or classes that are none."""
        rows = outputs[self.output_name]
        if rows.ndim != 2 or rows.shape[1] != self.count:
            raise ModelRefused(
                f"output {self.output_name}: expected (objects, {self.count}) for each frame, got {rows.shape}"
            )
        check_scores(self.output_name, rows[:, SCORE])
        classes = rows[:, CLASS]
        wrong = classes[(classes < 0) | (classes >= self.classes) | (classes != np.floor(classes))]
        if len(wrong):
            raise ModelRefused(
                f"output {self.output_name}: expected whole numbers of 0..{self.classes - 1} in column {CLASS},"
                f" got {wrong[0]}"
            )

    def detect(self, outputs: Outputs, options: Options) -> Candidates:
        """The best rows that are wanted, with boxes as corners; the graph has suppressed what it would."""
        found = self.columns(outputs, options)
        lower, upper = found.boxes[:, :2], found.boxes[:, 2:]
        return replace(found, boxes=np.concatenate((lower, np.maximum(lower, upper)), axis=1))

    def columns(self, outputs: Outputs, options: Options) -> Candidates:
        """As `detect`, with the boxes as their columns say."""
        rows = outputs[self.output_name].astype(np.float32, copy=False)
        rows = rows[rows[:, SCORE] > options.confidence_threshold]
        rows = rows[np.isfinite(rows).all(axis=1) & (rows[:, CLASS] >= 0) & (rows[:, CLASS] < self.classes)]
        rows = rows[chosen_classes(rows[:, CLASS].astype(np.int64), options)]
        rows = rows[np.argsort(-rows[:, SCORE], kind="stable")[: options.max_detections]]
        return Candidates(near(rows[:, :BOX]), rows[:, SCORE], rows[:, CLASS].astype(np.int64), near(rows[:, EXTRAS:]))


def selected_rows(
    description: Description, output: TensorSpec, layout: Layout, extras: int = 0
) -> tuple[SelectedRows, tuple[str, ...]]:
    """The columns of `output` and the names of the classes, if the file has any; whatever the `layout`.

    Raises ModelRefused.
    """
    _, objects, columns = three_dimensions(output)
    names = description.class_names()
    expected = EXTRAS + extras
    if columns is None and _must_be_selected(description, objects, BOX + len(names or ()) + extras):
        columns = expected
    if columns != expected:
        raise ModelRefused(f"output {output}: expected (batch, objects, {expected})")
    if not description.declared:
        _require_evidence(description, names, extras)
    return SelectedRows(output.name, len(names or ()) or MAX_CLASSES, extras), names or ()


def _must_be_selected(description: Description, objects: int | None, anchor_rows: int) -> bool:
    """Whether columns of a number that the file leaves open cannot be anchors."""
    if description.declared or says_selected(description.signature.metadata):
        return True
    return description.tasked and objects not in (None, anchor_rows)


def _require_evidence(description: Description, names: tuple[str, ...] | None, extras: int) -> None:
    """Raise ModelRefused where rows of this many columns may as well be those of another family."""
    metadata = description.signature.metadata
    if of_rtdetr(metadata):
        raise ModelRefused("the file's metadata says that it is an RT-DETR, whose boxes are laid out otherwise")
    said = says_selected(metadata)
    if said is None and "task" in metadata:
        # Older files do not say it. An older RT-DETR with two classes has as many columns as an end-to-end detector.
        said = bool(extras) or len(names or ()) != 2 or "yolo" in metadata.get("description", "").lower()
    if not said:
        raise ModelRefused("expected metadata ('end2end', or 'nms' in 'args') that says that the graph selects objects")
