"""What a model's output means: families of detectors, and the geometry between a picture and a model's input.

Nothing here knows about files, sessions or requests; arrays come in, detections go out.
"""

from inference_server.detection.description import Description
from inference_server.detection.family import Family, FamilyKind
from inference_server.detection.geometry import Layout, Placement, Resize, place
from inference_server.detection.heads import AnchorRows, anchor_rows_of
from inference_server.detection.pixels import Colors, ConstantInput, PictureInput, Pixels
from inference_server.detection.recognition import Candidate, choose, consider, recognise
from inference_server.detection.results import Classes, Detections, Found, Options
from inference_server.detection.settings import Settings, read_settings
from inference_server.detection.signature import GraphSignature, TensorSpec

__all__ = [
    "AnchorRows",
    "Candidate",
    "Classes",
    "Colors",
    "ConstantInput",
    "Description",
    "Detections",
    "Family",
    "FamilyKind",
    "Found",
    "GraphSignature",
    "Layout",
    "Options",
    "PictureInput",
    "Pixels",
    "Placement",
    "Resize",
    "Settings",
    "TensorSpec",
    "anchor_rows_of",
    "choose",
    "consider",
    "place",
    "read_settings",
    "recognise",
]
