"""Ultralytics detection heads without suppression in the graph: YOLOv8, 9, 11 and 12.

One output (batch, 4 + classes, anchors): centre x, centre y, width and height in input pixels, then a score in 0..1 for
each class.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.detection.description import Description
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Placement
from inference_server.detection.heads import AnchorRows, anchor_rows
from inference_server.detection.pixels import PictureInput
from inference_server.detection.results import DEFAULTS, Detections, Options
from inference_server.detection.suppression import suppress

NAME = "yolo-detect"


@dataclass(frozen=True, slots=True)
class YoloDetect:
    """A detector whose output is (4 + classes, anchors) for each frame."""

    picture: PictureInput
    rows: AnchorRows
    class_names: tuple[str, ...]
    defaults: Options = DEFAULTS
    name: str = NAME

    def check(self, outputs: Outputs) -> None:
        self.rows.check(outputs)

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        found = self.rows.read(outputs, options)
        boxes, scores, class_ids = found.boxes, found.scores, found.class_ids
        kept = suppress(boxes, scores, class_ids, options.iou_threshold, options.max_detections)
        return Detections(placement.to_source(boxes[kept]), scores[kept], class_ids[kept])


def build(description: Description) -> YoloDetect:
    """Read the head's classes from the file, or from its shape where that leaves one reading."""
    picture = description.picture_input()
    rows, names = anchor_rows(description, description.output(), picture.layout)
    return YoloDetect(picture, rows, names)


KIND = FamilyKind(NAME, "detect", build)
