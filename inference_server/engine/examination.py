"""What sessions could run on here, and what is in their way; for people who set a machine up."""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from inference_server.engine.device import SESSION_ERRORS, Device, choose_device, try_out
from inference_server.engine.runtime import onnxruntime
from inference_server.engine.session import explain
from inference_server.errors import DeviceUnavailable

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-rocm")


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's driver: the newest CUDA that it can run ("13.0"), and how many devices it has."""

    cuda: str
    devices: int


def runtimes() -> Mapping[str, str]:
    """The packages that bring an ONNX Runtime, with their versions. More than one overwrite each other's files."""
    found = {}
    for name in _RUNTIMES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def providers() -> list[str]:
    """What this ONNX Runtime was built for, whether or not the machine has it."""
    return list(onnxruntime.get_available_providers())


def trouble(device: str) -> str:
    """Why no session runs on "cpu", "cuda[:N]" or "tensorrt[:N]", shown by running one; empty if one does."""
    try:
        if device != "cpu":
            choose_device(device)
        else:
            try_out(Device("cpu"))
    except DeviceUnavailable as error:
        return str(error)
    except SESSION_ERRORS as error:
        return explain(error)
    return ""


def nvidia_driver() -> Driver | None:
    """NVIDIA's driver, asked directly, so that it is seen where ONNX Runtime cannot use it; None without one."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    except OSError:
        return None
    version, devices = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    if library.cuInit(0) == 0:
        library.cuDeviceGetCount(ctypes.byref(devices))
    return Driver(f"{version.value // 1000}.{version.value % 1000 // 10}", devices.value)
