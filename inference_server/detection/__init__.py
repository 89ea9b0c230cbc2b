"""What a model's output means: families of detectors, and the geometry between a picture and a model's input.

Nothing here knows about files, sessions or requests; arrays come in, detections go out.
"""

from inference_server.detection.geometry import Layout, Placement, Resize, place

__all__ = ["Layout", "Placement", "Resize", "place"]
