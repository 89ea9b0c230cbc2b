"""Detection models of Ultralytics, from YOLOv5u to YOLO26.

`yolo-detect`: one output (batch, 4 + classes, anchors): centre x, centre y, width and height in input pixels, then a
score in 0..1 for each class; suppression is done here.

`yolo-detect-end2end`: one output (batch, objects, 6): x_min, y_min, x_max, y_max in input pixels, score, class; the
graph has chosen the objects already.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from inference_server.detection.description import Description
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Placement
from inference_server.detection.heads import Head, ReadHead, anchor_rows
from inference_server.detection.pixels import PictureInput
from inference_server.detection.results import DEFAULTS, Detections, Options
from inference_server.detection.selected import selected_rows

NAME = "yolo-detect"
NAME_END2END = "yolo-detect-end2end"


@dataclass(frozen=True, slots=True)
class YoloDetect:
    """A detector that gives boxes and nothing else."""

    name: str
    picture: PictureInput
    head: Head
    class_names: tuple[str, ...]
    defaults: Options = DEFAULTS

    def check(self, outputs: Outputs) -> None:
        self.head.check(outputs)

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        found = self.head.detect(outputs, options)
        return Detections(placement.to_source(found.boxes), found.scores, found.class_ids)


def build(name: str, read_head: ReadHead, description: Description) -> YoloDetect:
    """A model with one output, a head as `read_head` reads it."""
    picture = description.picture_input()
    head, names = read_head(description, description.output(), picture.layout, 0)
    return YoloDetect(name, picture, head, names)


KIND = FamilyKind(NAME, "detect", partial(build, NAME, anchor_rows))
KIND_END2END = FamilyKind(NAME_END2END, "detect", partial(build, NAME_END2END, selected_rows))
