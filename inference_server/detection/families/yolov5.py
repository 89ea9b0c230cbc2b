"""Detectors of the original YOLOv5 and YOLOv7 (exported with `--grid`), which Ultralytics' YOLOv5u are not.

One output (batch, anchors, 5 + classes): centre x, centre y, width and height in input pixels, then the objectness and
a score for each class, all in 0..1. There are three anchors for each cell. Raw heads (five dimensions) that come with
it are not needed.
"""

from __future__ import annotations

from inference_server.detection.description import Description
from inference_server.detection.detector import Detector
from inference_server.detection.family import FamilyKind
from inference_server.detection.geometry import Layout
from inference_server.detection.heads import STRIDES
from inference_server.detection.objectness import object_rows
from inference_server.detection.results import Options
from inference_server.detection.signature import TensorSpec
from inference_server.errors import ModelRefused

NAME = "yolov5"
ANCHORS_PER_CELL = 3
P6_STRIDES = (*STRIDES, 64)
RAW_DIMENSIONS, BATCHLESS_COLUMNS = 5, 7
DEFAULTS = Options(iou_threshold=0.45)


def build(description: Description) -> Detector:
    """A model with one decoded output of three dimensions."""
    picture = description.picture_input()
    output = _decoded(description)
    anchors = () if description.declared else (_anchors(picture.layout, STRIDES), _anchors(picture.layout, P6_STRIDES))
    head, names = object_rows(description, output, anchors)
    return Detector(NAME, picture, head, names, DEFAULTS)


def _decoded(description: Description) -> TensorSpec:
    outputs = description.signature.outputs
    decoded = [output for output in outputs if output.shape is None or len(output.shape) != RAW_DIMENSIONS]
    if not decoded:
        raise ModelRefused("expected a decoded output, found raw heads alone; export with --grid")
    if len(decoded) != 1:
        raise ModelRefused(f"expected one output besides raw heads, found {len(decoded)}")
    shape = decoded[0].shape
    if shape is not None and len(shape) == 2 and shape[1] == BATCHLESS_COLUMNS:
        raise ModelRefused(
            f"output {decoded[0]}: looks like YOLOv7's --end2end, which mixes the frames of a batch; export with --grid"
            " alone"
        )
    return decoded[0]


def _anchors(layout: Layout, strides: tuple[int, ...]) -> int:
    return ANCHORS_PER_CELL * sum((layout.height // stride) * (layout.width // stride) for stride in strides)


KIND = FamilyKind(NAME, "detect", build)
