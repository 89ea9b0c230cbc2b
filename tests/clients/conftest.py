"""Real gRPC servers on free ports and Unix sockets, whose answers the tests script."""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import videoai
import videoai.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from videoai.inference.v1 import inference_pb2, inference_pb2_grpc
from videoai.registry.v1 import registry_pb2, registry_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    Answer = Callable[[Any, grpc.ServicerContext], Any]

PATIENCE = 30.0


class Scripted:
    """Answers each rpc with what the test put into `answers` under its name; keeps the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[Any] = []

    def answer(self, rpc: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        if rpc not in self.answers:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{rpc} has no script")
        return self.answers[rpc](request, context)


def scripted(base: type) -> type[Scripted]:
    """A servicer of `base` whose every rpc is scripted."""

    def method(rpc: str) -> Any:
        return lambda self, request, context: self.answer(rpc, request, context)

    rpcs = [name for name in vars(base) if name[0].isupper()]
    return type(f"Scripted{base.__name__}", (Scripted, base), {rpc: method(rpc) for rpc in rpcs})


class Connection:
    """One watch that the fake registry has accepted."""

    def __init__(self, request: registry_pb2.WatchProductionRequest) -> None:
        self.request = request
        self.outbox: queue.Queue[registry_pb2.WatchProductionResponse | grpc.StatusCode] = queue.Queue()
        self.ended = threading.Event()

    def messages(self, context: grpc.ServicerContext) -> Iterator[registry_pb2.WatchProductionResponse]:
        context.add_callback(self.ended.set)
        context.add_callback(lambda: self.outbox.put(grpc.StatusCode.OK))
        while isinstance(message := self.outbox.get(), registry_pb2.WatchProductionResponse):
            yield message
        if message is not grpc.StatusCode.OK:
            context.abort(message, "scripted")

    def send(self, revision: int, *, uid: str = "uid-1", reset: bool = False, **event: Any) -> None:
        self.outbox.put(registry_pb2.WatchProductionResponse(registry_uid=uid, revision=revision, reset=reset, **event))

    def activated(self, revision: int, name: str, version: int, **kwargs: Any) -> None:
        model = registry_pb2.Model(model_name=name, version=version)
        self.send(revision, activated=registry_pb2.Activated(model=model), **kwargs)

    def synced(self, revision: int, **kwargs: Any) -> None:
        self.send(revision, synced=registry_pb2.Synced(), **kwargs)

    def heartbeat(self, revision: int, **kwargs: Any) -> None:
        self.send(revision, heartbeat=registry_pb2.Heartbeat(), **kwargs)

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK) -> None:
        self.outbox.put(code)


class Fake:
    """A server process in small: both services, to be killed and started again on the same address."""

    def __init__(self, address: str) -> None:
        self.registry = scripted(registry_pb2_grpc.ModelRegistryServiceServicer)()
        self.inference = scripted(inference_pb2_grpc.InferenceServiceServicer)()
        self.health = HealthServicer()
        self.watches: queue.Queue[Connection] = queue.Queue()
        self.registry.answers["WatchProduction"] = self._watch
        self.address = address
        self.start()

    def start(self) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        )
        registry_pb2_grpc.add_ModelRegistryServiceServicer_to_server(self.registry, self._server)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self.inference, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        port = self._server.add_insecure_port(self.address)
        if self.address.endswith(":0"):
            self.address = self.address.removesuffix(":0") + f":{port}"
        self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        self._server.start()

    def kill(self) -> None:
        self._server.stop(None).wait()

    def accept(self) -> Connection:
        """Wait for the next watch."""
        return self.watches.get(timeout=PATIENCE)

    def _watch(self, request: registry_pb2.WatchProductionRequest, context: grpc.ServicerContext) -> Any:
        connection = Connection(request)
        self.watches.put(connection)
        return connection.messages(context)


@pytest.fixture
def fake() -> Iterator[Fake]:
    fake = Fake("127.0.0.1:0")
    yield fake
    fake.kill()


@pytest.fixture
def fake_on_socket(tmp_path: Path) -> Iterator[Fake]:
    fake = Fake(f"unix:{tmp_path / 'fake.sock'}")
    yield fake
    fake.kill()


@pytest.fixture
def video_answers() -> list[inference_pb2.AnalyzeVideoResponse]:
    """What a server answers to a video of three frames, with a swap to version 2 before the last."""
    started = inference_pb2.Started(
        container="matroska,webm", codec="h264", width=64, height=48, frame_rate=10, duration_seconds=0.3
    )
    box = inference_pb2.BoundingBox(x_min=8, y_min=8, x_max=40, y_max=40)
    detection = inference_pb2.Detection(box=box, class_id=0, class_name="square", score=0.875)
    frames = [
        inference_pb2.FrameResult(
            frame_index=index,
            pts=index * 100,
            time_base=inference_pb2.Rational(numerator=1, denominator=1000),
            time_seconds=index / 10,
            width=64,
            height=48,
            model_name="shapes",
            model_version=1 if index < 2 else 2,
            detections=[detection],
        )
        for index in range(3)
    ]
    summary = inference_pb2.Summary(frames_decoded=3, frames_analyzed=3, frames_per_version={1: 2, 2: 1})
    answer = inference_pb2.AnalyzeVideoResponse
    return [answer(started=started), *(answer(frame=frame) for frame in frames), answer(summary=summary)]


class Caller:
    """Calls a client's methods by name, whether they are synchronous (then in a thread) or coroutines."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        function = getattr(self.client, method)
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        if inspect.isasyncgenfunction(function):
            return [item async for item in function(*args, **kwargs)]
        if inspect.isgeneratorfunction(function):
            return await asyncio.to_thread(lambda: list(function(*args, **kwargs)))
        return await asyncio.to_thread(function, *args, **kwargs)


@pytest.fixture(params=["sync", "aio"])
async def registry(request: pytest.FixtureRequest, fake: Fake) -> AsyncIterator[Caller]:
    """Both registry clients, one after the other, connected to `fake`."""
    if request.param == "sync":
        with videoai.RegistryClient(fake.address) as client:
            yield Caller(client)
    else:
        async with videoai.aio.RegistryClient(fake.address) as aio_client:
            yield Caller(aio_client)


@pytest.fixture(params=["sync", "aio"])
async def inference(request: pytest.FixtureRequest, fake: Fake) -> AsyncIterator[Caller]:
    """Both inference clients, one after the other, connected to `fake`."""
    if request.param == "sync":
        with videoai.InferenceClient(fake.address) as client:
            yield Caller(client)
    else:
        async with videoai.aio.InferenceClient(fake.address) as aio_client:
            yield Caller(aio_client)
