"""RT-DETR and RT-DETRv2 as their authors export them, and what took their interface over: D-FINE, DEIM.

Inputs `images` and `orig_target_sizes`, outputs `labels` (batch, objects), `boxes` (batch, objects, 4) and `scores`
(batch, objects). The graph multiplies its boxes by the second input, width and height for each frame. It is told the
input's own size, so that they are corners in input pixels; nothing is suppressed. Pictures are stretched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from inference_server.detection.description import Description
from inference_server.detection.detector import Detector, best_first
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Resize
from inference_server.detection.heads import BOX, Candidates, check_scores, near
from inference_server.detection.metadata import MAX_CLASSES
from inference_server.detection.pixels import ConstantInput, PictureInput
from inference_server.detection.results import Options, chosen_classes
from inference_server.errors import ModelRefused

NAME = "detr"
IMAGES, SIZES = "images", "orig_target_sizes"
LABELS, BOXES, SCORES = "labels", "boxes", "scores"
INTEGERS = ("int64", "int32")


@dataclass(frozen=True, slots=True)
class NamedOutputs:
    """Objects that the graph has chosen, in three outputs; `classes` bounds what can be a class."""

    classes: int

    def check(self, outputs: Outputs) -> None:
        labels, boxes, scores = outputs[LABELS], outputs[BOXES], outputs[SCORES]
        if labels.ndim != 1 or scores.shape != labels.shape or boxes.shape != (len(labels), BOX):
            raise ModelRefused(
                f"outputs {LABELS}, {BOXES} and {SCORES}: expected (objects,), (objects, {BOX}) and (objects,) for each"
                f" frame, got {labels.shape}, {boxes.shape} and {scores.shape}"
            )
        check_scores(SCORES, scores)
        wrong = labels[(labels < 0) | (labels >= self.classes)]
        if len(wrong):
            raise ModelRefused(f"output {LABELS}: expected classes of 0..{self.classes - 1}, got {wrong[0]}")

    def detect(self, outputs: Outputs, options: Options) -> Candidates:
        class_ids = outputs[LABELS].astype(np.int64, copy=False)
        boxes, scores = (outputs[name].astype(np.float32, copy=False) for name in (BOXES, SCORES))
        wanted = (scores > options.confidence_threshold) & np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
        wanted &= (class_ids >= 0) & (class_ids < self.classes) & chosen_classes(class_ids, options)
        boxes = near(boxes)
        boxes = np.concatenate((boxes[:, :2], np.maximum(boxes[:, :2], boxes[:, 2:])), axis=1)
        found = Candidates(boxes, scores, class_ids, boxes[:, :0])
        return best_first(found.take(wanted), options.max_detections)


def build(description: Description) -> Detector:
    """A model with the inputs and outputs that these names stand for."""
    picture = _picture(description)
    names = {output.name for output in description.signature.outputs}
    if names != {LABELS, BOXES, SCORES}:
        raise ModelRefused(f"expected outputs {LABELS}, {BOXES} and {SCORES}")
    labels, boxes, scores = (description.output(name) for name in (LABELS, BOXES, SCORES))
    if labels.dtype not in INTEGERS or not boxes.fits(None, None, BOX) or not scores.fits(None, None):
        raise ModelRefused(
            f"expected {LABELS} as whole numbers, and {BOXES} (batch, objects, {BOX}) and {SCORES} (batch, objects) as"
            f" floats, found {labels}, {boxes} and {scores}"
        )
    classes = description.class_names() or ()
    return Detector(NAME, picture, NamedOutputs(len(classes) or MAX_CLASSES), classes)


def _picture(description: Description) -> PictureInput:
    sizes = next((spec for spec in description.signature.inputs if spec.name == SIZES), None)
    if sizes is None:
        raise ModelRefused(f"expected inputs {IMAGES} and {SIZES}")
    if sizes.dtype not in INTEGERS or sizes.shape is None or len(sizes.shape) != 2 or sizes.shape[1] not in (2, None):
        raise ModelRefused(f"input {sizes}: expected whole numbers (batch, 2)")
    size = ConstantInput(SIZES, sizes.dtype, (1, 1))
    picture = description.picture_input(
        None if description.declared else IMAGES, resize=Resize.STRETCH, constants=[size]
    )
    return replace(picture, constants=(replace(size, values=(picture.layout.width, picture.layout.height)),))


KIND = FamilyKind(NAME, "detect", build)
