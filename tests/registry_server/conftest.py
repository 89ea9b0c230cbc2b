from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import onnx
import pytest
from grpc_health.v1 import health_pb2_grpc
from onnx import TensorProto, helper
from videoai.registry.v1 import registry_pb2 as pb
from videoai.registry.v1 import registry_pb2_grpc

from registry_server import locations
from registry_server.catalog import Catalog
from registry_server.document import dump
from registry_server.server import registry_server
from registry_server.service import ERROR_CODES, SERVICE
from registry_server.settings import Settings
from registry_server.sqlite_storage import SqliteStorage
from server_kit.errors import ErrorInterceptor
from server_kit.health import Health

# The example of the registry file in the layout that this project took over: no stamp, no digests.
EXAMPLE = """{
  "models": [
    {
      "model_name": "yolov8n-coco",
      "version": 1,
      "path": "models/yolov8n-coco/v1/model.onnx",
      "status": "production",
      "creation_timestamp": "2025-06-25T12:00:00Z",
      "metadata": {
        "description": "Initial YOLOv8 Nano model trained on COCO.",
        "metrics": {
          "accuracy": 0.78,
          "latency_ms": 30
        }
      }
    },
    {
      "model_name": "yolov8n-coco",
      "version": 2,
      "path": "models/yolov8n-coco/v2/model.onnx",
      "status": "staging",
      "creation_timestamp": "2025-07-01T15:30:00Z",
      "metadata": {
        "description": "Retrained with additional data.",
        "metrics": {
          "accuracy": 0.82,
          "latency_ms": 32
        }
      }
    }
  ]
}
"""


def model_bytes(seed: int = 0) -> bytes:
    """A real graph with one dynamic and three fixed input dimensions; `seed` makes files differ."""
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])
    shifted = helper.make_tensor_value_info("shifted", TensorProto.FLOAT16, ["batch", 3, 8, 8])
    weight = helper.make_tensor("seed", TensorProto.FLOAT, [1], [float(seed)])
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["images", "seed"], ["sum"]),
            helper.make_node("Cast", ["sum"], ["shifted"], to=TensorProto.FLOAT16),
        ],
        "shift",
        [image],
        [shifted],
        [weight],
    )
    return onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


@dataclass(frozen=True)
class Root:
    """A folder that holds models/."""

    path: Path

    @property
    def file(self) -> Path:
        return self.path / "models" / "registry.json"

    @property
    def database(self) -> Path:
        return self.path / "models" / "registry.db"

    def add_model(self, name: str, version: int, seed: int | None = None) -> str:
        """Write a model file; return its path as entries spell it."""
        file = self.path / "models" / name / f"v{version}" / "model.onnx"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(model_bytes(version if seed is None else seed))
        return str(file.relative_to(self.path))

    def document(self) -> dict[str, Any]:
        if not self.database.exists():
            document: dict[str, Any] = json.loads(self.file.read_text())
            return document
        with closing(SqliteStorage(self.database)) as storage:
            return storage.load().document

    def text(self) -> str:
        """What is stored, laid out as in the file."""
        return dump(self.document()).decode()

    def edit(self, document: dict[str, Any]) -> None:
        """Replace the file as an editor does, or what the database holds as another process does."""
        if not self.database.exists():
            self.replace(json.dumps(document, indent=4))
            return
        with closing(SqliteStorage(self.database)) as storage:
            storage.transact(lambda _: Catalog.read(document))

    def replace(self, text: str) -> None:
        edited = self.file.with_name("registry.json.edited")
        edited.write_text(text)
        edited.replace(self.file)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "models").mkdir()
    return Root(tmp_path)


@pytest.fixture
def example(root: Root) -> Root:
    """A root with the example file and the model files that it names."""
    root.file.write_text(EXAMPLE)
    for version in (1, 2):
        root.add_model("yolov8n-coco", version)
    return root


@dataclass(frozen=True)
class Client:
    """A stub on a running server, and the server's health."""

    stub: registry_pb2_grpc.ModelRegistryServiceAsyncStub
    health: Health
    address: str
    doors: Mapping[str, str]

    async def register(self, name: str, version: int, path: str, **rest: Any) -> pb.RegisterModelResponse:
        request = pb.RegisterModelRequest(model_name=name, version=version, path=path, **rest)
        return await self.stub.RegisterModel(request)

    async def activate(self, name: str, version: int, **rest: Any) -> pb.ActivateModelVersionResponse:
        request = pb.ActivateModelVersionRequest(model_name=name, version=version, **rest)
        return await self.stub.ActivateModelVersion(request)

    async def production(self, name: str) -> pb.GetProductionModelResponse:
        return await self.stub.GetProductionModel(pb.GetProductionModelRequest(model_name=name))


Serve = Callable[..., AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def serve(root: Root, **settings: Any) -> AsyncIterator[Client]:
    """The whole registry server, but for its process: real socket, real file."""
    health = Health([SERVICE])
    server = grpc.aio.server(interceptors=[ErrorInterceptor(ERROR_CODES)])
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    async with registry_server(Settings(root.path, **settings), server, health) as doors:
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                yield Client(registry_pb2_grpc.ModelRegistryServiceStub(channel), health, address, doors)
        finally:
            health.drain()
            await server.stop(5)


@pytest.fixture(name="serve")
def _serve() -> Serve:
    return serve


@pytest.fixture(params=["file:models/registry.json", "sqlite:models/registry.db"], ids=["json", "sqlite"])
async def client(request: pytest.FixtureRequest, root: Root) -> AsyncIterator[Client]:
    """A server over an empty root, on each storage."""
    async with serve(root, storage=locations.parse(request.param)) as running:
        yield running


Fails = Callable[[Awaitable[Any], grpc.StatusCode], Awaitable[str]]


@pytest.fixture
def fails() -> Fails:
    """Await a call that must fail with this code; returns the status details."""

    async def check(call: Awaitable[Any], code: grpc.StatusCode) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is code, caught.value.details()
        return caught.value.details() or ""

    return check


class Server:
    """A running registry process."""

    def __init__(self, root: Path, log: Path, *flags: str) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "registry_server", "--root", str(root), "--listen", "127.0.0.1:0", *flags],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("VIDEOAI_")},
            )
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        assert line.startswith("listening on "), log.read_text()
        self.address = line.removeprefix("listening on ")
        self.rest = ""
        if "--rest" in flags:
            self.rest = self.process.stdout.readline().strip().removeprefix("rest listening on ")

    def stub(self) -> Any:
        return registry_pb2_grpc.ModelRegistryServiceStub(grpc.insecure_channel(self.address))

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def start(root: Any, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def run(*flags: str) -> Server:
        servers.append(Server(root.path, tmp_path / "log", *flags))
        return servers[-1]

    yield run
    for server in servers:
        server.process.kill()
        server.process.wait()
        assert server.process.stdout
        server.process.stdout.close()
