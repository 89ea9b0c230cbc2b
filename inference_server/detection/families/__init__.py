"""The families of models that this server reads, one module each. A new one is added to KINDS, and nowhere else."""

from inference_server.detection.families import tensors, yolo_detect

KINDS = (yolo_detect.KIND, yolo_detect.KIND_END2END, tensors.KIND)

__all__ = ["KINDS"]
