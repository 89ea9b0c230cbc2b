"""TensorRT: its libraries, what ONNX Runtime is told for a model, and the engines that are built for one and kept.

ONNX Runtime gives TensorRT the parts of a graph that it can take, and builds an engine for each: minutes of work the
first time. An engine is good for one model, one kind of GPU and one TensorRT, and is read without any check. So each
load has a folder of its own, filled with what an earlier load of the same kept, verified; and nobody else writes there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from onnx import ModelProto, TensorProto

from inference_server.detection import PictureInput
from inference_server.engine.prepared import PreparedModels
from inference_server.engine.runtime import onnxruntime

PROVIDER = "TensorrtExecutionProvider"
Options = Mapping[str, str]

# Frames are converted on CUDA: both ways into a composed graph are branches of one If, and TensorRT would take bytes,
# and inputs of any size, only to hand them back. The others have outputs whose size depends on their values.
LEFT_TO_CUDA = "If,NonMaxSuppression,NonZero,RoiAlign"
# Smaller parts of a graph stay on CUDA, too: entering an engine costs more than their nodes do.
LEAST_NODES = "9"
QUANTISED = {"QuantizeLinear", "DequantizeLinear"}
_SEPARATORS = re.compile("[:,]")
_TIMINGS = ".timing"


def precisions(model: ModelProto) -> frozenset[int]:
    """The element types that the graph's weights, constants, inputs, outputs and conversions have."""
    graph = model.graph
    attributes = [(node.op_type, attribute) for node in graph.node for attribute in node.attribute]
    return frozenset(
        {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        | {tensor.data_type for tensor in graph.initializer}
        | {attribute.t.data_type for _, attribute in attributes if attribute.HasField("t")}
        | {attribute.i for operator, attribute in attributes if (operator, attribute.name) == ("Cast", "to")}
    )


def engine_options(folder: Path, elements: Collection[int], operators: Collection[str]) -> dict[str, str]:
    """What TensorRT's provider is told for a model of these element types and operators, its engines in `folder`.

    Nothing is computed less precisely than the model asks for.
    """
    return {
        "trt_fp16_enable": _flag(TensorProto.FLOAT16 in elements),
        "trt_bf16_enable": _flag(TensorProto.BFLOAT16 in elements),
        "trt_int8_enable": _flag(not QUANTISED.isdisjoint(operators)),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_op_types_to_exclude": LEFT_TO_CUDA,
        "trt_min_subgraph_size": LEAST_NODES,
    }


def profile_options(picture: PictureInput | None, max_batch: int) -> dict[str, str]:
    """The sizes that one engine is to take, 1..max_batch frames and best at the most; empty where that is fixed.

    Empty, too, where it cannot be said: ONNX Runtime parts names from sizes by ":", and these from each other by ",".
    """
    if picture is None or picture.batch is not None:
        return {}
    shapes = _shapes(picture)
    if any(_SEPARATORS.search(name) for name in shapes):
        return {}
    return {
        f"trt_profile_{which}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, (batch, *sizes)))}" for name, sizes in shapes.items()
        )
        for which, batch in (("min", 1), ("opt", max_batch), ("max", max_batch))
    }


def _shapes(picture: PictureInput) -> dict[str, tuple[int, ...]]:
    """What enters TensorRT's part of a composed graph: the inputs that the file had, without their batch."""
    size, channels = (picture.layout.height, picture.layout.width), picture.pixels.colors.channels
    shapes: dict[str, tuple[int, ...]] = {
        picture.name: (*size, channels) if picture.channels_last else (channels, *size)
    }
    return shapes | {constant.name: (len(constant.values),) for constant in picture.constants}


def _flag(on: bool) -> str:  # noqa: FBT001 - it is all there is to say
    return "1" if on else "0"


class Engines:
    """The engines of one load in `folder`, and what of them is `kept` under `key` from load to load.

    How long the device takes for each way to compute a layer is kept apart, under a key that all models share: what was
    measured for one version need not be measured for the next.
    """

    def __init__(self, folder: Path, kept: PreparedModels, key: str, timings_key: str) -> None:
        self._folder = folder
        self._kept = kept
        self._keys = {False: key, True: timings_key}
        self._before: dict[bool, Mapping[str, bytes | memoryview]] = {}

    def restore(self) -> bool:
        """Put what was kept into the folder. Says whether there were engines."""
        for timings, key in self._keys.items():
            found = self._before[timings] = self._kept.find_files(key) or {}
            for name, content in found.items():
                (self._folder / name).write_bytes(content)
        return bool(self._before[False])

    def keep(self) -> None:
        """Keep what is in the folder where it is not what was restored or kept before."""
        files = {path.name: path.read_bytes() for path in self._folder.iterdir() if path.is_file()}
        for timings, key in self._keys.items():
            now = {name: content for name, content in files.items() if name.endswith(_TIMINGS) == timings}
            if now and now != self._before.get(timings):
                self._before[timings] = now
                self._kept.keep_files(key, now)


def load_libraries() -> list[str]:
    """Load TensorRT where pip or the system has it; returns the libraries that this ONNX Runtime needs and lacks."""
    return [name for name in _needed() if _library(name) is None]


def how_to_install() -> str:
    """Which TensorRT this ONNX Runtime was built for, and the command that installs it."""
    major = next((found[1] for name in _needed() if (found := re.search(r"\.so\.(\d+)$", name))), "")
    cuda = (getattr(onnxruntime, "cuda_version", "") or "").partition(".")[0]
    built = f"ONNX Runtime {onnxruntime.__version__} is built for TensorRT {major or '(see its release notes)'}"
    if not (major and cuda):
        return built
    return f"{built} and CUDA {cuda}: pip install 'tensorrt-cu{cuda}>={major},<{int(major) + 1}'"


def place(index: int) -> dict[str, str]:
    """What engines depend on beside their model: the TensorRT that builds them, the driver, and the device `index`."""
    libraries = [library for name in _needed() if "nvinfer" in name and (library := _library(name))]
    versions = [str(library.getInferLibVersion()) for library in libraries]
    return {"tensorrt": " ".join(versions), **_device(index)}


def _device(index: int) -> dict[str, str]:
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        version, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
        driver.cuInit(0)
        driver.cuDriverGetVersion(ctypes.byref(version))
        if driver.cuDeviceGet(ctypes.byref(device), index) == 0:
            driver.cuDeviceGetName(name, len(name), device)
        return {"driver": str(version.value), "gpu": name.value.decode(errors="replace")}
    return {}


@cache
def _needed() -> tuple[str, ...]:
    """The libraries of TensorRT that ONNX Runtime's provider for it is linked with, by the names it asks for."""
    provider = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    with suppress(OSError):
        found = re.findall(rb"libnv(?:infer|onnxparser)\.so\.\d+", provider.read_bytes())
        return tuple(sorted({name.decode() for name in found}))
    return ()


def _library(name: str) -> ctypes.CDLL | None:
    """A library by its name, which loads it for ONNX Runtime, too."""
    for path in (*_installed_by_pip(name), name):
        with suppress(OSError):
            return ctypes.CDLL(path)
    return None


def _installed_by_pip(name: str) -> list[str]:
    package = importlib.util.find_spec("tensorrt_libs")
    folders = package.submodule_search_locations if package else None
    return [str(Path(folder) / name) for folder in folders or ()]
