"""Pose models of Ultralytics: boxes, and K keypoints of D numbers each: x and y in input pixels, and with D = 3 how
surely the point is visible, 0..1.

`yolo-pose`: one output (batch, 4 + classes + K * D, anchors), laid out as for `yolo-detect`.

`yolo-pose-end2end`: one output (batch, objects, 6 + K * D), laid out as for `yolo-detect-end2end`.

K and D come from the metadata key 'kpt_shape' or the registry entry: the number of rows alone does not tell them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from inference_server.detection.description import Description
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Placement
from inference_server.detection.heads import BoxHead, ReadHead, anchor_rows
from inference_server.detection.metadata import read_keypoint_shape
from inference_server.detection.pixels import PictureInput
from inference_server.detection.results import DEFAULTS, Detections, Options
from inference_server.detection.selected import selected_rows
from inference_server.detection.settings import SECTION
from inference_server.errors import ModelRefused

NAME = "yolo-pose"
NAME_END2END = "yolo-pose-end2end"


@dataclass(frozen=True, slots=True)
class YoloPose:
    """A detector whose objects have keypoints; `keypoint_shape` is how many, and how many numbers for each."""

    name: str
    picture: PictureInput
    head: BoxHead
    keypoint_shape: tuple[int, int]
    class_names: tuple[str, ...]
    defaults: Options = DEFAULTS

    def check(self, outputs: Outputs) -> None:
        self.head.check(outputs)

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        found = self.head.detect(outputs, options)
        keypoints = self._keypoints(found.extras, placement)
        return Detections(placement.to_source(found.boxes), found.scores, found.class_ids, keypoints=keypoints)

    def _keypoints(self, extras: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
        given = extras.reshape(len(extras), *self.keypoint_shape)
        keypoints = np.ones((*given.shape[:2], 3), np.float32)
        keypoints[..., :2] = placement.to_source(given[..., :2])
        keypoints[..., 2:] = np.clip(given[..., 2:], 0, 1) if given.shape[2] == 3 else 1
        return keypoints


def build(name: str, read_head: ReadHead, description: Description) -> YoloPose:
    """A model with one output, a head as `read_head` reads it, and keypoints that are told of."""
    picture = description.picture_input()
    output = description.output()
    shape = description.settings.keypoint_shape or read_keypoint_shape(description.signature.metadata)
    if shape is None:
        raise ModelRefused(
            f"the file has no metadata key 'kpt_shape': set {SECTION}.keypoint_shape to [keypoints, 2 or 3]"
        )
    head, names = read_head(description, output, picture.layout, shape[0] * shape[1])
    return YoloPose(name, picture, head, shape, names)


KIND = FamilyKind(NAME, "pose", partial(build, NAME, anchor_rows))
KIND_END2END = FamilyKind(NAME_END2END, "pose", partial(build, NAME_END2END, selected_rows))
