"""The service over a socket, with models that are loaded for it."""

import os
from pathlib import Path

import grpc
import pytest
from videoai.open_inference.v2 import open_inference_pb2 as pb
from videoai.open_inference.v2 import open_inference_pb2_grpc

from inference_server.engine import Device, ModelVersion, load
from inference_server.errors import ModelNotReady
from inference_server.service import ERROR_CODES
from inference_server.serving import ServedModels
from inference_server.tensors import Regions, TensorService, add_to
from server_kit.errors import ErrorInterceptor

PREFIX = f"videoai-test-{os.getpid()}-"


class Repository:
    """Notes what it is asked for."""

    def __init__(self):
        self.calls = []

    async def load(self, model):
        self.calls.append(("load", model.model_name))
        if model.running is None:
            raise ModelNotReady(model.model_name, "the registry has none in production")

    def unload(self, model):
        self.calls.append(("unload", model.model_name))
        model.unload()


class Server:
    """A running service: `stub` asks it over `channel`, `put` loads a model into it."""

    def __init__(self, folder, models, channel):
        self.folder, self.models, self.channel = folder, models, channel
        self.stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        self.repository = Repository()
        self.loaded = []

    def put(self, model, *, name="thing", version=1, max_batch=4, family="tensors"):
        path = self.folder / f"{name}-{version}.onnx"
        path.write_bytes(model.SerializeToString())
        found = ModelVersion(name, version, path, attributes={"videoai": {"family": family}} if family else {})
        self.loaded.append(load(found, Device("cpu"), max_batch=max_batch))
        self.models.announced(name).swap(self.loaded[-1])
        return self.loaded[-1]

    async def infer(self, *inputs, raw=(), name="thing", **fields):
        """Ask with `inputs` (name, datatype, shape, contents...)."""
        request = pb.ModelInferRequest(model_name=name, raw_input_contents=raw, **fields)
        for tensor, datatype, shape, *contents in inputs:
            request.inputs.add(name=tensor, datatype=datatype, shape=shape, **dict(*contents))
        return await self.stub.ModelInfer(request)


async def serve(folder: Path, prefix):
    models = ServedModels()
    regions = Regions(prefix)
    server = grpc.aio.server(interceptors=[ErrorInterceptor(ERROR_CODES)])
    address = f"unix:{folder / 'server.sock'}"
    server.add_insecure_port(address)
    async with grpc.aio.insecure_channel(address) as channel:
        ours = Server(folder, models, channel)
        add_to(server, TensorService(models, regions, ours.repository))
        await server.start()
        yield ours
    await server.stop(None)
    await models.close()
    regions.close()


@pytest.fixture
async def server(tmp_path):
    async for served in serve(tmp_path, PREFIX):
        yield served


@pytest.fixture
async def closed_server(tmp_path):
    """One whose operator has not allowed shared memory."""
    folder = tmp_path / "closed"
    folder.mkdir()
    async for served in serve(folder, None):
        yield served


@pytest.fixture
def memory():
    """A function that makes POSIX shared memory of some content, and returns its name and its file."""
    made = []

    def make(content, name="memory"):
        path = Path("/dev/shm") / f"{PREFIX}{name}"  # noqa: S108
        path.write_bytes(content)
        made.append(path)
        return f"/{path.name}", path

    yield make
    for path in made:
        path.unlink(missing_ok=True)


@pytest.fixture
def refused():
    """A function that awaits a call and returns the code and the words that it is refused with."""

    async def ask(call):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return caught.value.code().name, caught.value.details()

    return ask
