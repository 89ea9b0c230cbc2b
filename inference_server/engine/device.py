"""Which device sessions run on, proven by running one there."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog
from onnx import TensorProto, helper

from inference_server.cpus import usable_cpus
from inference_server.engine import tensorrt
from inference_server.engine.runtime import onnxruntime
from inference_server.engine.session import ORT_ERRORS, Pieces, Session, SessionPlan, create_session, explain
from inference_server.errors import DeviceUnavailable

log = structlog.get_logger(__name__)

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"
PROVIDERS = {"cpu": CPU_PROVIDER, "cuda": CUDA_PROVIDER, "tensorrt": tensorrt.PROVIDER}
NAMES = {"cuda": "CUDA", "tensorrt": "TensorRT"}

MOST_RUNS = 4

PLAN = SessionPlan()
SESSION_ERRORS: tuple[type[Exception], ...] = (DeviceUnavailable, *ORT_ERRORS)


@dataclass(frozen=True, slots=True)
class Device:
    """A device that sessions run on: the CPU, or the CUDA device `index`, of whose memory each session may take
    `memory_limit` bytes (all there are if None). The kind "tensorrt" is a CUDA device with TensorRT on it.

    `run_threads` is how many threads work on one run on the CPU, one for each core if None.
    """

    kind: str
    index: int = 0
    memory_limit: int | None = None
    run_threads: int | None = None

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def provider(self) -> str:
        """The ONNX Runtime provider that a session on this device must report first."""
        return PROVIDERS[self.kind]

    @property
    def runs_at_once(self) -> int:
        """How many runs of a session get more done side by side than one after the other.

        On the CPU the threads of one run wait for each other at every layer, and another run uses that time; each takes
        memory, though. With fewer threads to a run there are as many runs as keep all cores busy. Runs on a CUDA device
        would only share it.
        """
        if self.kind != "cpu":
            return 1
        cores = usable_cpus()
        return min(cores, MOST_RUNS) if self.run_threads is None else max(1, cores // self.run_threads)

    @property
    def narrows(self) -> bool:
        """Whether runs may be as many as there are cores, each of which then does better with one thread."""
        return self.kind == "cpu" and self.run_threads is None and 1 < self.runs_at_once == usable_cpus()

    @property
    def memory(self) -> str:
        """What ONNX Runtime calls the memory of this device."""
        return "cpu" if self.kind == "cpu" else "cuda"

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """What to ask ONNX Runtime for. Nodes that TensorRT does not take go to CUDA, and those without a kernel there
        (shapes, mostly) to the CPU."""
        cpu: tuple[str, dict[str, str]] = (CPU_PROVIDER, {})
        if self.kind == "cpu":
            return [cpu]
        # An exhaustive search for convolutions takes seconds for each new shape; the arena need not double.
        options = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
        cuda = (CUDA_PROVIDER, {"device_id": str(self.index), **options, **self._limit("gpu_mem_limit")})
        if self.kind == "cuda":
            return [cuda, cpu]
        own = {"device_id": str(self.index), **self._limit("trt_max_workspace_size")}
        return [(tensorrt.PROVIDER, own), cuda, cpu]

    def _limit(self, option: str) -> dict[str, str]:
        return {} if self.memory_limit is None else {option: str(self.memory_limit)}


def open_session(model: Pieces, device: Device, plan: SessionPlan = PLAN) -> Session:
    """A session of a serialised model that really runs on `device`.

    Raises one of SESSION_ERRORS; DeviceUnavailable if it runs elsewhere.
    """
    (own, options), *others = device.providers
    providers = [(own, {**options, **plan.provider_options}), *others]
    if plan.threads is None and device.kind == "cpu":
        plan = replace(plan, threads=device.run_threads)
    session = create_session(model, providers, device.kind, plan)
    if session.get_providers()[0] != device.provider:
        raise DeviceUnavailable(f"a session asked for {device.provider} came up on {session.get_providers()[0]}")
    return session


def choose_device(wanted: str, memory_limit: int | None = None) -> Device:
    """The device for `wanted`: cpu, cuda[:N], tensorrt[:N], or auto, which takes CUDA where it works and says what it
    took. `memory_limit` is of each session on CUDA, in bytes; TensorRT also works within it when it builds an engine.

    Raises DeviceUnavailable, with what is missing, where a session does not really run on the device asked for.
    """
    if wanted == "auto":
        return _choose_automatically(memory_limit)
    device = replace(_parse(wanted), memory_limit=memory_limit)
    if device.kind != "cpu":
        _probe(device)
    log.info("device chosen", device=str(device), provider=device.provider, why="asked for")
    return device


def _choose_automatically(memory_limit: int | None) -> Device:
    cuda = Device("cuda", memory_limit=memory_limit)
    try:
        _probe(cuda)
    except DeviceUnavailable as error:
        log.warning("device chosen", device="cpu", provider=CPU_PROVIDER, why=f"CUDA does not work here: {error}")
        return Device("cpu")
    log.info("device chosen", device=str(cuda), provider=CUDA_PROVIDER, why="CUDA works here")
    return cuda


def _parse(wanted: str) -> Device:
    match = re.fullmatch(r"(cpu)|(cuda|tensorrt)(?::(\d{1,3}))?", wanted)
    if match is None:
        raise DeviceUnavailable(f"device: expected auto, cpu, cuda[:N] or tensorrt[:N], got {wanted!r}")
    return Device("cpu") if match[1] else Device(match[2], int(match[3] or 0))


def try_out(device: Device) -> None:
    """Run a convolution on `device`. Raises one of SESSION_ERRORS."""
    open_session([_tiny_model()], device).run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})


def _probe(device: Device) -> None:
    """Run a convolution on `device`. Raises DeviceUnavailable with all that is known about why it does not."""
    available = onnxruntime.get_available_providers()
    if device.provider not in available:
        raise DeviceUnavailable(
            f"device {device}: this ONNX Runtime is built without {NAMES[device.kind]} (it has {', '.join(available)});"
            " install onnxruntime-gpu in place of onnxruntime, or use --device cpu"
        )
    missing = _preload_cuda_libraries()
    if device.kind == "tensorrt":
        _load_tensorrt(device, available)
    try:
        try_out(device)
    except SESSION_ERRORS as error:
        reason = f"{explain(error)}; {missing or _provider_library_error(device) or 'its libraries load'}"
        raise DeviceUnavailable(
            f"device {device}: no session runs there ({reason}). ONNX Runtime {onnxruntime.__version__} has"
            f" {', '.join(available)}. Check that nvidia-smi lists the device, install the CUDA libraries with"
            " pip install 'videoai[cuda]', or use --device cpu"
        ) from error


def _load_tensorrt(device: Device, available: Sequence[str]) -> None:
    """Raises DeviceUnavailable where its libraries are not to be had, or CUDA is not, on which it runs."""
    if lacking := tensorrt.load_libraries():
        raise DeviceUnavailable(
            f"device {device}: TensorRT's libraries are not installed ({' and '.join(lacking)} cannot be loaded)."
            f" {tensorrt.how_to_install()}. It has {', '.join(available)}. Or use --device cuda or --device cpu"
        )
    try:
        _probe(Device("cuda", device.index, device.memory_limit))
    except DeviceUnavailable as error:
        raise DeviceUnavailable(f"device {device}: TensorRT runs on CUDA; {error}") from error


def _preload_cuda_libraries() -> str:
    """Load CUDA and cuDNN where pip put them; returns what ONNX Runtime says about those it did not find."""
    said = io.StringIO()
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(said):  # it prints what it misses
            onnxruntime.preload_dlls()
    return " ".join(re.findall(r"(?m)^Failed to load .*?: (.*)$", said.getvalue())[:1])


def _provider_library_error(device: Device) -> str:
    """Why the own library of the device's provider does not load; empty if it does. ONNX Runtime only logs it."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    for library in sorted(folder.glob(f"libonnxruntime_providers_{device.kind}.so")):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            return str(error)
    return ""


def _tiny_model() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialised: bytes = model.SerializeToString()
    return serialised
