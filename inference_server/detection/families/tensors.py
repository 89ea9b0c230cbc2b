"""Any model that takes pictures, where the caller reads the raw outputs; only if the registry entry says so."""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Layout, Placement
from inference_server.detection.results import Detections, Options
from inference_server.detection.signature import GraphSignature, PictureInput, find_picture_input

NAME = "tensors"


@dataclass(frozen=True, slots=True)
class Tensors:
    """A model that detects nothing as far as this server knows; pictures are letterboxed for it."""

    picture: PictureInput
    class_names: tuple[str, ...] = ()
    name: str = NAME

    @property
    def layout(self) -> Layout:
        return self.picture.layout

    def check(self, outputs: Outputs) -> None:
        """Whatever comes out is right."""

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        return Detections.none()


def build(signature: GraphSignature, *, declared: bool) -> Tensors:
    """Any model with one input for pictures."""
    return Tensors(find_picture_input(signature))


KIND = FamilyKind(NAME, build, by_itself=False)
