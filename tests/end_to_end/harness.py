"""Both servers as real processes on free ports, spoken to through the generated stubs alone."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from videoai.inference.v1 import inference_pb2, inference_pb2_grpc
from videoai.registry.v1 import registry_pb2, registry_pb2_grpc

PATIENCE = 60.0  # seconds until something that must happen is given up on
NAME = "shapes"


def eventually(question: Callable[[], Any], what: str = "") -> Any:
    """Ask until the answer is true, and return it. Raises what the question raised last, or AssertionError."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if answer := question():
                return answer
        except (grpc.RpcError, AssertionError, LookupError):
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, f"did not happen: {what or question}"
        time.sleep(0.02)


class Process:
    """One server process: its address, and everything it wrote to standard error."""

    def __init__(self, module: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.name = module
        self.popen = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.address = ""

    def _read_log(self) -> None:
        for line in self.popen.stderr or ():
            self._log.append(line)

    @property
    def log(self) -> str:
        return "".join(self._log)

    def wait_until_listening(self) -> Process:
        line = self.popen.stdout.readline()
        assert line.startswith("listening on "), f"{line!r}\n{self.log}"
        self.address = line.removeprefix("listening on ").strip()
        return self

    @property
    def memory(self) -> int:
        """Bytes in use that are its own: pages of files, its libraries among them, come and go with other processes."""
        memory = psutil.Process(self.popen.pid).memory_info()
        return int(memory.rss - memory.shared)

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self) -> int:
        code = self.popen.wait(timeout=PATIENCE)
        self._reader.join(timeout=10)
        return code

    def kill(self) -> None:
        self.popen.kill()
        self.wait()
        self.popen.stdout.close()
        self.popen.stderr.close()


@dataclass
class Pair:
    """A root folder with models/, a registry and inference servers over it."""

    root: Path
    registry_process: Process | None = None
    processes: list[Process] = field(default_factory=list)
    channels: dict[str, grpc.Channel] = field(default_factory=dict)
    inference_process: Process | None = None
    registry_address: str = "127.0.0.1:0"
    inference_root: Path | None = None  # where inference servers have a folder of their own

    def start_registry(self, *arguments: str) -> Process:
        """Start the registry, at the address it had before if there was one."""
        process = self._start(
            "registry_server", "--root", str(self.root), "--listen", self.registry_address, *arguments
        )
        self.registry_process, self.registry_address = process, process.address
        return process

    def start_inference(self, *arguments: str, listen: str = "127.0.0.1:0", device: str = "cpu") -> Process:
        self.inference_process = self._start(
            "inference_server",
            *("--root", str(self.inference_root or self.root), "--listen", listen, "--device", device),
            *("--registry", self.registry_address, *arguments),
        )
        return self.inference_process

    def _start(self, module: str, *arguments: str) -> Process:
        return self.start_unchecked(module, *arguments).wait_until_listening()

    def start_unchecked(self, module: str, *arguments: str) -> Process:
        """Start a server that may not come up."""
        process = Process(module, *arguments)
        self.processes.append(process)
        return process

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self.channels:
            options = (
                ("grpc.max_receive_message_length", -1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
            )
            self.channels[address] = grpc.insecure_channel(address, options=options)
        return self.channels[address]

    @property
    def registry(self) -> registry_pb2_grpc.ModelRegistryServiceStub:
        return registry_pb2_grpc.ModelRegistryServiceStub(self._channel(self.registry_address))

    @property
    def inference(self) -> inference_pb2_grpc.InferenceServiceStub:
        return inference_pb2_grpc.InferenceServiceStub(self.inference_channel)

    @property
    def inference_channel(self) -> grpc.Channel:
        return self._channel(self.inference_process.address)

    def health(self, process: Process) -> int:
        stub = health_pb2_grpc.HealthStub(self._channel(process.address))
        return stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status

    def place(self, source: Path, version: int, name: str = NAME) -> str:
        """Copy an ONNX file to where version `version` belongs; return its path as the registry wants it."""
        path = Path("models") / name / f"v{version}" / "model.onnx"
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(source.read_bytes())
        return path.as_posix()

    def register(self, source: Path, version: int, name: str = NAME, **fields: Any) -> registry_pb2.Model:
        request = registry_pb2.RegisterModelRequest(
            model_name=name, version=version, path=self.place(source, version, name), **fields
        )
        return self.registry.RegisterModel(request, timeout=PATIENCE).model

    def activate(self, version: int, name: str = NAME) -> registry_pb2.ActivateModelVersionResponse:
        request = registry_pb2.ActivateModelVersionRequest(model_name=name, version=version)
        return self.registry.ActivateModelVersion(request, timeout=PATIENCE)

    def serving(self, name: str = NAME) -> inference_pb2.ServedModel:
        state = self.inference.GetServingState(inference_pb2.GetServingStateRequest(), timeout=PATIENCE)
        return next((model for model in state.models if model.model_name == name), inference_pb2.ServedModel())

    def wait_until_running(self, version: int, name: str = NAME) -> inference_pb2.ServedModel:
        def running() -> inference_pb2.ServedModel | None:
            served = self.serving(name)
            return served if served.running_version == version else None

        return eventually(running, f"version {version} of {name} runs")

    def replicas(self, name: str = NAME) -> list[registry_pb2.Replica]:
        return list(
            self.registry.GetRollout(registry_pb2.GetRolloutRequest(model_name=name), timeout=PATIENCE).replicas
        )

    def analyze(self, video: Path | Iterable[bytes], **config: Any) -> Stream:
        return Stream(self.inference, video, {"model_name": NAME, **config})

    def answer(self, picture: Any, **fields: Any) -> inference_pb2.FrameResult:
        """Analyse one picture, (H, W, 3) uint8 RGB."""
        height, width, _ = picture.shape
        raw = inference_pb2.RawPicture(width=width, height=height, rgb=picture.tobytes())
        request = inference_pb2.AnalyzeFramesRequest(model_name=NAME, frames=[inference_pb2.Picture(raw=raw)], **fields)
        return self.inference.AnalyzeFrames(request, timeout=PATIENCE).results[0]

    def close(self) -> None:
        for channel in self.channels.values():
            channel.close()
        for process in self.processes:
            process.kill()


@contextmanager
def serving(root: Path, model: Path, *arguments: str) -> Iterator[Pair]:
    """A running pair over `root`, a folder that is empty; `model` is version 1 and answers."""
    (root / "models").mkdir()
    pair = Pair(root)
    try:
        pair.start_registry()
        pair.register(model, 1)
        pair.activate(1)
        pair.start_inference(*arguments)
        pair.wait_until_running(1)
        yield pair
    finally:
        pair.close()


class Stream:
    """One AnalyzeVideo call: iterate for frames; started and summary are there once they came."""

    def __init__(self, stub: Any, video: Path | Iterable[bytes], config: dict[str, Any]) -> None:
        chunks = chunks_of(video) if isinstance(video, Path) else video
        requests = itertools.chain(
            [inference_pb2.AnalyzeVideoRequest(config=inference_pb2.AnalyzeConfig(**config))],
            (inference_pb2.AnalyzeVideoRequest(chunk=chunk) for chunk in chunks),
        )
        self.call = stub.AnalyzeVideo(requests, timeout=100)
        self.started: inference_pb2.Started | None = None
        self.summary: inference_pb2.Summary | None = None

    def __iter__(self) -> Iterator[inference_pb2.FrameResult]:
        for response in self.call:
            match response.WhichOneof("result"):
                case "started":
                    assert self.started is None
                    self.started = response.started
                case "frame":
                    assert self.started is not None
                    assert self.summary is None
                    yield response.frame
                case "summary":
                    self.summary = response.summary


def chunks_of(path: Path, size: int = 64 * 1024) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(size):
            yield chunk
