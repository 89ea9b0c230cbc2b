"""Runs models: the one place that knows ONNX Runtime."""

from inference_server.engine.apart import Apart, Standby
from inference_server.engine.cuda import pinning
from inference_server.engine.device import Device, choose_device, try_out
from inference_server.engine.graph import ModelVersion
from inference_server.engine.inspection import Inspection, inspect
from inference_server.engine.loading import load, prepare
from inference_server.engine.model import LoadedModel
from inference_server.engine.prepared import PreparedModels, notice_code

__all__ = [
    "Apart",
    "Device",
    "Inspection",
    "LoadedModel",
    "ModelVersion",
    "PreparedModels",
    "Standby",
    "choose_device",
    "inspect",
    "load",
    "notice_code",
    "pinning",
    "prepare",
    "try_out",
]
