"""A family that finds boxes and nothing else: a head, and what it takes to get from it to the source picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference_server.detection.family import Outputs
from inference_server.detection.geometry import Layout, Placement
from inference_server.detection.heads import BoxHead, Candidates, corners
from inference_server.detection.pixels import PictureInput
from inference_server.detection.results import DEFAULTS, Detections, Options


@dataclass(frozen=True, slots=True)
class Detector:
    """A detector that gives the boxes of its head."""

    name: str
    picture: PictureInput
    head: BoxHead
    class_names: tuple[str, ...]
    defaults: Options = DEFAULTS

    def check(self, outputs: Outputs) -> None:
        self.head.check(outputs)

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        found = self.head.detect(outputs, options)
        return Detections(placement.to_source(found.boxes), found.scores, found.class_ids)


def best_first(found: Candidates, limit: int) -> Candidates:
    """At most `limit` of what was found, best first; equal scores stay in the order in which they came."""
    return found.take(np.argsort(-found.scores, kind="stable")[:limit])


def in_pixels(found: Candidates, layout: Layout) -> Candidates:
    """Boxes that are centre and size in parts of the input as corners in its pixels."""
    size = np.array([layout.width, layout.height] * 2, np.float32)
    return Candidates(corners(found.boxes * size), found.scores, found.class_ids, found.extras)
