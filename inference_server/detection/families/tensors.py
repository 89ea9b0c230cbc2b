"""Any model that takes pictures, where the caller reads the raw outputs; only if the registry entry says so."""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.detection.description import Description
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Placement
from inference_server.detection.pixels import PictureInput
from inference_server.detection.results import DEFAULTS, Detections, Options

NAME = "tensors"


@dataclass(frozen=True, slots=True)
class Tensors:
    """A model that detects nothing as far as this server knows; pictures are letterboxed for it."""

    picture: PictureInput
    class_names: tuple[str, ...] = ()
    defaults: Options = DEFAULTS
    name: str = NAME

    def check(self, outputs: Outputs) -> None:
        """Whatever comes out is right."""

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        return Detections.none()


def build(description: Description) -> Tensors:
    """Any model with one input for pictures."""
    return Tensors(description.picture_input())


KIND = FamilyKind(NAME, None, build)
