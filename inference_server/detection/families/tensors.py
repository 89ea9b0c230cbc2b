"""Any model, where the caller reads the raw outputs; only if the registry entry says so."""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.detection.description import Description
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Placement
from inference_server.detection.pixels import PictureInput
from inference_server.detection.results import DEFAULTS, Detections, Options
from inference_server.errors import ModelRefused

NAME = "tensors"
# The types that the Open Inference Protocol knows, as NumPy names them; object is text.
TRANSFERABLE = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
                "float16", "bfloat16", "float32", "float64", "object")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensors:
    """A model that detects nothing as far as this server knows; pictures, if it takes them, are letterboxed for it."""

    picture: PictureInput | None
    class_names: tuple[str, ...] = ()
    defaults: Options = DEFAULTS
    name: str = NAME

    def check(self, outputs: Outputs) -> None:
        """Whatever comes out is right."""

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        return Detections.none()


def build(description: Description) -> Tensors:
    """Any model whose tensors can cross the wire; it takes pictures if its one input may be one."""
    for spec in (*description.signature.inputs, *description.signature.outputs):
        if spec.dtype not in TRANSFERABLE:
            raise ModelRefused(f"{spec}: expected one of {', '.join(TRANSFERABLE)}")
    try:
        return Tensors(description.picture_input())
    except ModelRefused:
        if description.settings.of_pictures:
            raise
        return Tensors(None)


KIND = FamilyKind(NAME, None, build)
