"""The Open Inference Protocol: raw tensors in, raw tensors out."""

from inference_server.tensors.service import SERVICE, TensorService, add_to
from inference_server.tensors.shared_memory import Regions

__all__ = ["SERVICE", "Regions", "TensorService", "add_to"]
