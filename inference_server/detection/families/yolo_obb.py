"""Models of boxes that lie at an angle ("oriented bounding boxes"), by Ultralytics. Angles are in radians, clockwise as
seen; sizes and centres in input pixels.

`yolo-obb`: one output (batch, 4 + classes + 1, anchors): centre x, centre y, width, height, a score in 0..1 for each
class, the angle; suppression is done here.

`yolo-obb-end2end`: one output (batch, objects, 7): centre x, centre y, width, height, score, class, angle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from inference_server.detection.description import Description
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Placement
from inference_server.detection.heads import Head, ReadHead, anchor_rows
from inference_server.detection.oriented import enclosing, suppress_oriented, to_source
from inference_server.detection.pixels import PictureInput
from inference_server.detection.results import DEFAULTS, Detections, Options
from inference_server.detection.selected import selected_rows
from inference_server.errors import ModelRefused

NAME = "yolo-obb"
NAME_END2END = "yolo-obb-end2end"


@dataclass(frozen=True, slots=True)
class YoloObb:
    """A detector of boxes at an angle; `selected` says whether its graph has suppressed them."""

    name: str
    picture: PictureInput
    head: Head
    selected: bool
    class_names: tuple[str, ...]
    defaults: Options = DEFAULTS

    def check(self, outputs: Outputs) -> None:
        self.head.check(outputs)

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        found = self.head.columns(outputs, options)
        boxes = np.concatenate((found.boxes, found.extras), axis=1)
        if not self.selected:
            kept = suppress_oriented(
                boxes, found.scores, found.class_ids, options.iou_threshold, options.max_detections
            )
            found, boxes = found.take(kept), boxes[kept]
        oriented = to_source(boxes, placement)
        upright = placement.clip(enclosing(oriented))
        return Detections(upright, found.scores, found.class_ids, oriented_boxes=oriented)


def build(name: str, read_head: ReadHead, description: Description) -> YoloObb:
    """A model with one output, a head as `read_head` reads it, whose last column is the angle."""
    picture = description.picture_input()
    if not description.tasked:
        raise ModelRefused("expected the metadata key 'task', for the rows are those of a detector with one more class")
    head, names = read_head(description, description.output(), picture.layout, 1)
    return YoloObb(name, picture, head, name == NAME_END2END, names)


KIND = FamilyKind(NAME, "obb", partial(build, NAME, anchor_rows))
KIND_END2END = FamilyKind(NAME_END2END, "obb", partial(build, NAME_END2END, selected_rows))
