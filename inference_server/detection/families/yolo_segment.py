"""Segmentation models of Ultralytics: boxes, and masks made of prototypes.

`yolo-segment`: output0 (batch, 4 + classes + P, anchors), laid out as for `yolo-detect` with P coefficients for each
anchor, and output1 (batch, P, height / 4, width / 4), the prototypes.

`yolo-segment-end2end`: output0 (batch, objects, 6 + P), laid out as for `yolo-detect-end2end`, and the same output1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from inference_server.detection.description import Description
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Placement
from inference_server.detection.heads import BoxHead, ReadHead, anchor_rows
from inference_server.detection.masks import CELL, run_lengths
from inference_server.detection.pixels import PictureInput
from inference_server.detection.results import DEFAULTS, Detections, Options
from inference_server.detection.selected import selected_rows
from inference_server.detection.signature import TensorSpec
from inference_server.errors import ModelRefused

NAME = "yolo-segment"
NAME_END2END = "yolo-segment-end2end"


@dataclass(frozen=True, slots=True)
class YoloSegment:
    """A detector whose objects have masks. An object whose mask has no pixel is none, as it is for Ultralytics."""

    name: str
    picture: PictureInput
    head: BoxHead
    prototypes: TensorSpec
    class_names: tuple[str, ...]
    defaults: Options = DEFAULTS

    def check(self, outputs: Outputs) -> None:
        self.head.check(outputs)
        layout, shape = self.picture.layout, outputs[self.prototypes.name].shape
        expected = (self.prototypes.shape or ())[1], layout.height // CELL, layout.width // CELL
        if shape != expected:
            raise ModelRefused(f"output {self.prototypes.name}: expected {expected} for each frame, got {shape}")

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        found = self.head.detect(outputs, options)
        boxes = placement.to_source(found.boxes)
        prototypes = outputs[self.prototypes.name].astype(np.float32, copy=False)
        masks = run_lengths(found.extras, prototypes, boxes, placement)
        there = np.array([len(mask) > 1 for mask in masks], np.bool_)
        return Detections(
            boxes[there],
            found.scores[there],
            found.class_ids[there],
            masks=tuple(mask for mask in masks if len(mask) > 1),
        )


def build(name: str, read_head: ReadHead, description: Description) -> YoloSegment:
    """A model with two outputs: a head as `read_head` reads it, and prototypes."""
    picture = description.picture_input()
    rows, prototypes = _outputs(description)
    count = (prototypes.shape or ())[1]
    layout = picture.layout
    if count is None or not prototypes.fits(None, count, layout.height // CELL, layout.width // CELL):
        raise ModelRefused(
            f"output {prototypes}: expected float32 or float16 (batch, prototypes, {layout.height // CELL},"
            f" {layout.width // CELL}), a quarter of the input"
        )
    head, names = read_head(description, rows, layout, count)
    return YoloSegment(name, picture, head, prototypes, names)


def _outputs(description: Description) -> tuple[TensorSpec, TensorSpec]:
    """The rows and the prototypes, told by their dimensions."""
    by_dimensions = {len(output.shape or ()): output for output in description.signature.outputs}
    if set(by_dimensions) != {3, 4} or len(description.signature.outputs) != 2:
        found = len(description.signature.outputs)
        raise ModelRefused(f"expected two outputs, of three and of four dimensions, found {found}")
    return by_dimensions[3], by_dimensions[4]


KIND = FamilyKind(NAME, "segment", partial(build, NAME, anchor_rows))
KIND_END2END = FamilyKind(NAME_END2END, "segment", partial(build, NAME_END2END, selected_rows))
