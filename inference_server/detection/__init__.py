"""What a model's output means: families of detectors, and the geometry between a picture and a model's input.

Nothing here knows about files, sessions or requests; arrays come in, detections go out.
"""

from inference_server.detection.family import Family, FamilyKind
from inference_server.detection.geometry import Layout, Placement, Resize, place
from inference_server.detection.recognition import recognise
from inference_server.detection.results import Detections, Options
from inference_server.detection.signature import GraphSignature, PictureInput, TensorSpec

__all__ = [
    "Detections",
    "Family",
    "FamilyKind",
    "GraphSignature",
    "Layout",
    "Options",
    "PictureInput",
    "Placement",
    "Resize",
    "TensorSpec",
    "place",
    "recognise",
]
