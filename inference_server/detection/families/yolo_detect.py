"""Ultralytics detection heads without suppression in the graph: YOLOv8, 9, 11 and 12.

One output (batch, 4 + classes, anchors): centre x, centre y, width and height in input pixels, then a score in 0..1 for
each class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Layout, Placement
from inference_server.detection.metadata import read_class_names
from inference_server.detection.results import Detections, Options
from inference_server.detection.signature import GraphSignature, PictureInput, TensorSpec, find_picture_input
from inference_server.detection.suppression import suppress
from inference_server.errors import ModelRefused

NAME = "yolo-detect"
STRIDES = (8, 16, 32)
BOX_ROWS = 4


@dataclass(frozen=True, slots=True)
class YoloDetect:
    """A detector whose output is (4 + classes, anchors) for each frame."""

    picture: PictureInput
    output_name: str
    class_names: tuple[str, ...]
    name: str = NAME

    @property
    def layout(self) -> Layout:
        return self.picture.layout

    def check(self, outputs: Outputs) -> None:
        shape, rows = outputs[self.output_name].shape, BOX_ROWS + len(self.class_names)
        if len(shape) != 2 or shape[0] != rows:
            raise ModelRefused(f"output {self.output_name}: expected ({rows}, anchors) for each frame, got {shape}")

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        rows = outputs[self.output_name].astype(np.float32, copy=False)
        # Most anchors see nothing: find them by their best class first, along contiguous memory.
        best = rows[BOX_ROWS:].max(axis=0)
        rows = rows.take(np.flatnonzero(best > options.confidence_threshold), axis=1)
        class_ids = rows[BOX_ROWS:].argmax(axis=0)
        if options.class_ids is not None:
            wanted = np.isin(class_ids, list(options.class_ids))
            rows, class_ids = rows[:, wanted], class_ids[wanted]
        if not class_ids.size:
            return Detections.none()
        scores, boxes = rows[BOX_ROWS:].max(axis=0), _corners(rows[:BOX_ROWS])
        kept = suppress(boxes, scores, class_ids, options.iou_threshold, options.max_detections)
        return Detections(placement.to_source(boxes[kept]), scores[kept], class_ids[kept])


def _corners(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(4, N) centres and sizes as (N, 4) corners."""
    centres, halves = rows[:2], rows[2:] * np.float32(0.5)
    corners: NDArray[np.float32] = np.concatenate((centres - halves, centres + halves)).T
    return corners


def build(signature: GraphSignature, *, declared: bool) -> YoloDetect:
    """Read the head's classes from the file, or from its shape where that leaves one reading."""
    picture = find_picture_input(signature)
    task = signature.metadata.get("task", "detect")
    if task != "detect":
        raise ModelRefused(f"the file's metadata key 'task': expected detect, got {task[:100]}")
    output, rows, _ = _only_output(signature)
    names = read_class_names(signature.metadata)
    if names is None:
        names = _numbered_classes(signature, picture.layout, declared=declared)
    if rows not in (BOX_ROWS + len(names), None):
        raise ModelRefused(
            f"output {output}: expected (batch, {BOX_ROWS + len(names)}, anchors) for {len(names)} classes"
        )
    return YoloDetect(picture, output.name, names)


def _only_output(signature: GraphSignature) -> tuple[TensorSpec, int | None, int | None]:
    """The output with its rows and anchors, as far as they are fixed."""
    if len(signature.outputs) != 1:
        raise ModelRefused(f"expected one output, found {len(signature.outputs)}")
    output = signature.outputs[0]
    if output.dtype not in ("float32", "float16") or output.shape is None or len(output.shape) != 3:
        raise ModelRefused(f"output {output}: expected float32 or float16 of three dimensions")
    return output, output.shape[1], output.shape[2]


def _numbered_classes(signature: GraphSignature, layout: Layout, *, declared: bool) -> tuple[str, ...]:
    """Names made of numbers, if the anchors are those of this head's strides and so the rows can only be its own."""
    output, rows, anchors = _only_output(signature)
    expected = sum((layout.height // stride) * (layout.width // stride) for stride in STRIDES)
    if rows is None or rows <= BOX_ROWS or not (declared or anchors == expected):
        raise ModelRefused(
            f"output {output}: the file has no metadata key 'names', and without it expected"
            f" (batch, 4 + classes, {expected}) for {layout.width}x{layout.height} pixels"
        )
    return tuple(f"class{index}" for index in range(rows - BOX_ROWS))


KIND = FamilyKind(NAME, build)
