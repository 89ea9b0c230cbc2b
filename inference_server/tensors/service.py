"""The gRPC face of the Open Inference Protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any, Protocol

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from videoai.open_inference.v2 import open_inference_pb2 as pb
from videoai.open_inference.v2 import open_inference_pb2_grpc

from inference_server.errors import (
    InferenceError,
    InvalidField,
    ModelNotReady,
    ModelNotServed,
    NotSupported,
    VersionNotRunning,
)
from inference_server.serving import ServedModel, ServedModels
from inference_server.tensors import describe
from inference_server.tensors.calls import Calls, lease
from inference_server.tensors.messages import (
    InferRequest,
    InferResponse,
    RequestParser,
    StreamResponse,
    serialise_response,
    serialise_stream_response,
)
from inference_server.tensors.settings import log_settings, trace_settings
from inference_server.tensors.shared_memory import Regions

log = structlog.get_logger(__name__)

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
SERVICE = DESCRIPTOR.full_name
EXTENSIONS = ("model_repository", "model_configuration", "parameters", "statistics", "trace", "logging")
# Answered at a time for one stream; more wait in its connection.
STREAM_REQUESTS = 16
FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
NO_CUDA_MEMORY = "shared memory of CUDA is not supported"

Context = grpc.aio.ServicerContext[Any, Any]


class Repository(Protocol):
    """Where models come from."""

    async def load(self, model: ServedModel) -> None:
        """Serve the version that is in production, and wait for it. Raises ModelNotReady."""

    def unload(self, model: ServedModel) -> None:
        """Serve the model no more, until it is loaded again or another version is activated."""


class TensorService(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """`inference.GRPCInferenceService`."""

    def __init__(self, models: ServedModels, regions: Regions, repository: Repository) -> None:
        self._models = models
        self._repository = repository
        self._regions = regions
        self._calls = Calls(models, regions)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802 - named by the .proto
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802
        return pb.ServerReadyResponse(ready=self._models.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802
        try:
            lease(self._models, request.name, request.version).release()
        except (ModelNotServed, ModelNotReady, VersionNotRunning):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:  # noqa: N802
        extensions = [*EXTENSIONS, *(["system_shared_memory"] if self._regions.allowed else [])]
        return pb.ServerMetadataResponse(name="videoai", version=version("videoai"), extensions=extensions)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:  # noqa: N802
        with lease(self._models, request.name, request.version) as running:
            return describe.metadata(running.model)

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:  # noqa: N802
        with lease(self._models, request.name, request.version) as running:
            return pb.ModelConfigResponse(config=describe.config(running.model))

    async def ModelInfer(self, request: InferRequest, context: Context) -> InferResponse:  # type: ignore[override] # noqa: N802 - see `add_to`
        return await self._calls.answer(request, context.peer())

    async def ModelStreamInfer(  # type: ignore[override] # noqa: N802
        self, request_iterator: AsyncIterator[InferRequest], context: Context
    ) -> AsyncIterator[StreamResponse]:
        room = asyncio.Semaphore(STREAM_REQUESTS)
        pending: asyncio.Queue[asyncio.Task[StreamResponse] | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(request_iterator, pending, room, context.peer()))
        try:
            while (answer := await pending.get()) is not None:
                yield await answer
                room.release()
            await reader
        finally:
            reader.cancel()
            while not pending.empty():
                if (left := pending.get_nowait()) is not None:
                    left.cancel()

    async def _read(
        self,
        requests: AsyncIterator[InferRequest],
        pending: asyncio.Queue[asyncio.Task[StreamResponse] | None],
        room: asyncio.Semaphore,
        caller: str,
    ) -> None:
        try:
            async for request in requests:
                await room.acquire()
                pending.put_nowait(asyncio.create_task(self._answer_in_stream(request, caller)))
        finally:
            pending.put_nowait(None)

    async def _answer_in_stream(self, request: InferRequest, caller: str) -> StreamResponse:
        try:
            response = await self._calls.answer(request, caller)
        except InferenceError as error:
            return StreamResponse(InferResponse(b"", request.id), str(error))
        response.head += FINAL
        return StreamResponse(response)

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:  # noqa: N802
        names = [request.name] if request.name else [model.model_name for model in self._models if model.running]
        found = pb.ModelStatisticsResponse()
        for name in names:
            with lease(self._models, name, request.version) as running:
                found.model_stats.append(describe.statistics(running.model, self._calls.statistics.of(running)))
        return found

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:  # noqa: N802
        _check_repository(request.repository_name)
        return describe.index(self._models, ready=request.ready)

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        _check_parameters(request.parameters, ())
        await self._repository.load(self._models.find(request.model_name))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        _check_parameters(request.parameters, ("unload_dependents",))
        self._repository.unload(self._models.find(request.model_name))
        return pb.RepositoryModelUnloadResponse()

    async def SystemSharedMemoryStatus(  # noqa: N802
        self, request: pb.SystemSharedMemoryStatusRequest, context: Context
    ) -> pb.SystemSharedMemoryStatusResponse:
        regions = [self._regions.find(request.name)] if request.name else list(self._regions)
        status = pb.SystemSharedMemoryStatusResponse.RegionStatus
        return pb.SystemSharedMemoryStatusResponse(
            regions={
                region.name: status(name=region.name, key=region.key, offset=region.offset, byte_size=region.byte_size)
                for region in regions
            }
        )

    async def SystemSharedMemoryRegister(  # noqa: N802
        self, request: pb.SystemSharedMemoryRegisterRequest, context: Context
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(  # noqa: N802
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(self, request: Any, context: Context) -> pb.CudaSharedMemoryStatusResponse:  # noqa: N802
        raise NotSupported(NO_CUDA_MEMORY)

    async def CudaSharedMemoryRegister(self, request: Any, context: Context) -> pb.CudaSharedMemoryRegisterResponse:  # noqa: N802
        raise NotSupported(NO_CUDA_MEMORY)

    async def CudaSharedMemoryUnregister(  # noqa: N802
        self, request: Any, context: Context
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        raise NotSupported(NO_CUDA_MEMORY)

    async def TraceSetting(self, request: pb.TraceSettingRequest, context: Context) -> pb.TraceSettingResponse:  # noqa: N802
        return trace_settings(request)

    async def LogSettings(self, request: pb.LogSettingsRequest, context: Context) -> pb.LogSettingsResponse:  # noqa: N802
        return log_settings(request)


def add_to(server: grpc.aio.Server, service: TensorService) -> None:
    """Serve `service`, its tensors past protobuf: see `messages`."""
    parser = RequestParser()
    handlers = {method.name: _handler(method, getattr(service, method.name), parser) for method in DESCRIPTOR.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _handler(method: MethodDescriptor, answer: Callable[..., Any], parser: RequestParser) -> Any:
    takes, gives = (GetMessageClass(message) for message in (method.input_type, method.output_type))
    if method.name == "ModelInfer":
        return grpc.unary_unary_rpc_method_handler(answer, parser.parse, serialise_response)
    if method.name == "ModelStreamInfer":
        return grpc.stream_stream_rpc_method_handler(answer, parser.parse, serialise_stream_response)
    return grpc.unary_unary_rpc_method_handler(answer, takes.FromString, gives.SerializeToString)


def _check_parameters(parameters: Iterable[str], known: Sequence[str]) -> None:
    for name in parameters:
        if name not in known:
            raise NotSupported(f"parameters: {name[:50]!r} is not supported: the registry says what is served, and how")


def _check_repository(name: str) -> None:
    if name:
        raise InvalidField("repository_name", f"nothing, for there is one registry, got {name[:100]!r}")
