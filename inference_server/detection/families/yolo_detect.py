"""Detection models of Ultralytics, from YOLOv5u to YOLO26.

`yolo-detect`: one output (batch, 4 + classes, anchors): centre x, centre y, width and height in input pixels, then a
score in 0..1 for each class; suppression is done here.

`yolo-detect-end2end`: one output (batch, objects, 6): x_min, y_min, x_max, y_max in input pixels, score, class; the
graph has chosen the objects already.
"""

from __future__ import annotations

from functools import partial

from inference_server.detection.description import Description
from inference_server.detection.detector import Detector
from inference_server.detection.family import FamilyKind
from inference_server.detection.heads import ReadHead, anchor_rows
from inference_server.detection.selected import selected_rows

NAME = "yolo-detect"
NAME_END2END = "yolo-detect-end2end"


def build(name: str, read_head: ReadHead, description: Description) -> Detector:
    """A model with one output, a head as `read_head` reads it."""
    picture = description.picture_input()
    head, names = read_head(description, description.output(), picture.layout, 0)
    return Detector(name, picture, head, names)


KIND = FamilyKind(NAME, "detect", partial(build, NAME, anchor_rows))
KIND_END2END = FamilyKind(NAME_END2END, "detect", partial(build, NAME_END2END, selected_rows))
