"""ModelRegistryService: thin handlers from the wire to the registry and back."""

# ruff: noqa: N802 - the names of the calls are those of the .proto

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import grpc
from videoai.registry.v1 import registry_pb2 as pb
from videoai.registry.v1 import registry_pb2_grpc

from registry_server import convert, errors, history
from registry_server.entry import check_digest, check_name, check_path, check_request_id, check_version
from registry_server.registry import Registry, Result
from registry_server.rollout import Rollouts
from registry_server.steps import Digest, Registration
from registry_server.transfers import Transfers
from registry_server.watch import Message, Names, Position, Told, WatchHub

SERVICE = pb.DESCRIPTOR.services_by_name["ModelRegistryService"].full_name
WRITES = f"{SERVICE}.writes"
"""What health checks call the half of the service that stops while what is stored cannot be read; the rest goes on."""

ERROR_CODES: Mapping[type[Exception], grpc.StatusCode] = {
    errors.InvalidField: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyRegistered: grpc.StatusCode.ALREADY_EXISTS,
    errors.RequestIdReused: grpc.StatusCode.ALREADY_EXISTS,
    errors.ExpectationNotMet: grpc.StatusCode.ABORTED,
    errors.ChangedMeanwhile: grpc.StatusCode.ABORTED,
    errors.Refused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StorageUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.TooManyWatchers: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.PlaceTaken: grpc.StatusCode.ALREADY_EXISTS,
    errors.UploadTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooManyUploads: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UploadStalled: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.DataDamaged: grpc.StatusCode.DATA_LOSS,
}

MAX_PAGE = 1000
DEFAULT_PAGE = 100

Context = grpc.aio.ServicerContext[Any, Any]


class RegistryService(registry_pb2_grpc.ModelRegistryServiceServicer):
    """Answers every call of the service; domain errors are turned into codes by ERROR_CODES."""

    def __init__(
        self, registry: Registry, hub: WatchHub, rollouts: Rollouts, transfers: Transfers, storage: str
    ) -> None:
        """`storage` says where the registry is kept, for a person to read."""
        self._registry = registry
        self._storage = storage
        self._hub = hub
        self._rollouts = rollouts
        self._transfers = transfers

    async def RegisterModel(self, request: pb.RegisterModelRequest, context: Context) -> pb.RegisterModelResponse:
        metadata = convert.from_metadata(request.metadata)
        wanted = Registration(
            model_name=check_name(request.model_name),
            version=check_version(request.version) if request.version else 0,
            path=check_path(request.path),
            metadata={part: value for part, value in metadata.items() if value},
            sha256=check_digest(request.sha256) if request.HasField("sha256") else "",
            request_id=_request_id(request),
        )
        result = await self._registry.register(wanted)
        return pb.RegisterModelResponse(model=convert.to_model(result.entry), revision=result.revision)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        state = self._registry.state
        entry = state.catalog.get(*_key(request))
        return pb.GetModelResponse(model=convert.to_model(entry), revision=state.revision)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        if not 0 <= request.page_size <= MAX_PAGE:
            raise errors.InvalidField("page_size", f"a whole number of 0..{MAX_PAGE}", request.page_size)
        size = request.page_size or DEFAULT_PAGE
        name = check_name(request.model_name) if request.HasField("model_name") else None
        status = convert.from_status(request.status)
        state = self._registry.state
        entries = state.catalog.after(convert.from_page_token(request.page_token), name)
        page = list(islice((entry for entry in entries if status in (None, entry.status)), size + 1))
        token = convert.to_page_token(page[size - 1].key) if len(page) > size else ""
        models = [convert.to_model(entry) for entry in page[:size]]
        return pb.ListModelsResponse(models=models, next_page_token=token, revision=state.revision)

    async def ActivateModelVersion(
        self, request: pb.ActivateModelVersionRequest, context: Context
    ) -> pb.ActivateModelVersionResponse:
        expected = request.expected_production_version if request.HasField("expected_production_version") else None
        if expected is not None and expected < 0:
            raise errors.InvalidField("expected_production_version", "a version, or 0 for none", expected)
        result = await self._registry.activate(
            *_key(request), expected=expected, request_id=_request_id(request), requested_by=_requested_by(request)
        )
        return pb.ActivateModelVersionResponse(**_activation(result))

    async def RollbackProduction(
        self, request: pb.RollbackProductionRequest, context: Context
    ) -> pb.RollbackProductionResponse:
        result = await self._registry.rollback(check_name(request.model_name), requested_by=_requested_by(request))
        return pb.RollbackProductionResponse(**_activation(result))

    async def ListActivations(self, request: pb.ListActivationsRequest, context: Context) -> pb.ListActivationsResponse:
        name, state = check_name(request.model_name), self._registry.state
        records = history.of_model(state.catalog.history, name)
        if not records and not state.catalog.knows(name):
            raise errors.ModelNotFound(name)
        wanted = records[: request.limit or None]
        return pb.ListActivationsResponse(
            activations=[convert.to_activation(record) for record in wanted], revision=state.revision
        )

    async def GetRegistryState(
        self, request: pb.GetRegistryStateRequest, context: Context
    ) -> pb.GetRegistryStateResponse:
        state = self._registry.state
        return pb.GetRegistryStateResponse(
            registry_uid=state.registry_uid,
            revision=state.revision,
            storage=self._storage,
            versions=len(state.catalog.entries),
            watchers=self._hub.watchers,
            problem=str(self._registry.problem or ""),
            current_timestamp=convert.to_timestamp(datetime.now(UTC)),
        )

    async def ArchiveModelVersion(
        self, request: pb.ArchiveModelVersionRequest, context: Context
    ) -> pb.ArchiveModelVersionResponse:
        result = await self._registry.archive(*_key(request))
        return pb.ArchiveModelVersionResponse(model=convert.to_model(result.entry), revision=result.revision)

    async def UpdateModelMetadata(
        self, request: pb.UpdateModelMetadataRequest, context: Context
    ) -> pb.UpdateModelMetadataResponse:
        key = _key(request)
        parts = _masked(convert.from_metadata(request.metadata), list(request.update_mask.paths))
        result = await self._registry.update_metadata(*key, parts)
        return pb.UpdateModelMetadataResponse(model=convert.to_model(result.entry), revision=result.revision)

    async def DeleteModelVersion(
        self, request: pb.DeleteModelVersionRequest, context: Context
    ) -> pb.DeleteModelVersionResponse:
        result = await self._registry.delete(*_key(request))
        return pb.DeleteModelVersionResponse(revision=result.revision)

    async def GetProductionModel(
        self, request: pb.GetProductionModelRequest, context: Context
    ) -> pb.GetProductionModelResponse:
        state = self._registry.state
        entry = state.catalog.production(check_name(request.model_name))
        return pb.GetProductionModelResponse(model=convert.to_model(entry), revision=state.revision)

    async def WatchProduction(
        self, request: pb.WatchProductionRequest, context: Context
    ) -> AsyncIterator[pb.WatchProductionResponse]:
        names = _names(request)
        instance_id = convert.check_text("instance_id", request.instance_id)
        both = request.HasField("registry_uid") and request.HasField("revision")
        position = Position(request.registry_uid, request.revision) if both else None
        now = datetime.now(UTC)
        with self._hub.watch(names, position) as watcher, self._rollouts.live(instance_id, names, now):
            async for message in watcher.messages():
                yield _watch_response(message)

    async def ReportModelState(
        self, request: pb.ReportModelStateRequest, context: Context
    ) -> pb.ReportModelStateResponse:
        instance_id = convert.check_text("instance_id", request.instance_id, least=1)
        model_name = check_name(request.model_name)
        self._rollouts.report(instance_id, model_name, convert.from_report(request, datetime.now(UTC)))
        return pb.ReportModelStateResponse()

    async def GetRollout(self, request: pb.GetRolloutRequest, context: Context) -> pb.GetRolloutResponse:
        name = check_name(request.model_name)
        state = self._registry.state
        if not state.catalog.knows(name):
            raise errors.ModelNotFound(name)
        present = state.catalog.in_production.get(name)
        return pb.GetRolloutResponse(
            model_name=name,
            production_version=present.version if present else 0,
            revision=state.revision,
            replicas=[convert.to_replica(replica) for replica in self._rollouts.replicas(name)],
        )

    async def UploadModel(
        self, request_iterator: AsyncIterator[pb.UploadModelRequest], context: Context
    ) -> pb.UploadModelResponse:
        first = await anext(request_iterator, pb.UploadModelRequest())
        if first.WhichOneof("payload") != "header":
            raise errors.InvalidField("header", "it in the first message")
        wanted, digest = _upload(first.header)
        result = await self._transfers.upload(wanted, digest, _chunks(request_iterator))
        return pb.UploadModelResponse(model=convert.to_model(result.entry), revision=result.revision)

    async def DownloadModel(
        self, request: pb.DownloadModelRequest, context: Context
    ) -> AsyncIterator[pb.DownloadModelResponse]:
        async with self._transfers.download(*_key(request), request.offset_bytes) as (entry, digest, chunks):
            response = pb.DownloadModelResponse(model=convert.to_model(entry))
            response.model.sha256, response.model.size_bytes = digest.sha256, digest.size_bytes
            yield response
            async for chunk in chunks:
                yield pb.DownloadModelResponse(chunk=chunk)


async def _chunks(requests: AsyncIterator[pb.UploadModelRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("payload") != "chunk":
            raise errors.InvalidField("chunk", "it in every message after the first")
        yield request.chunk


def _upload(header: pb.UploadHeader) -> tuple[Registration, Digest]:
    metadata = convert.from_metadata(header.metadata)
    wanted = Registration(
        model_name=check_name(header.model_name),
        version=check_version(header.version) if header.version else 0,
        path="",  # the registry's to choose
        metadata={part: value for part, value in metadata.items() if value},
        sha256=check_digest(header.sha256),
        request_id=_request_id(header),
    )
    return wanted, Digest(wanted.sha256, header.size_bytes)


def _key(request: Any) -> tuple[str, int]:
    return check_name(request.model_name), check_version(request.version)


def _request_id(request: Any) -> str:
    return check_request_id(request.request_id) if request.HasField("request_id") else ""


def _requested_by(request: Any) -> str:
    return convert.check_text("requested_by", request.requested_by)


def _names(request: pb.WatchProductionRequest) -> Names:
    try:
        return frozenset(check_name(name) for name in request.model_names) or None
    except errors.InvalidField as error:
        raise errors.InvalidField("model_names", str(error)) from None


def _masked(parts: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    unknown = next((path for path in paths if path not in convert.METADATA_PARTS), None)
    if unknown is not None:
        raise errors.InvalidField("update_mask", f"any of {', '.join(convert.METADATA_PARTS)}", unknown)
    return {part: value for part, value in parts.items() if not paths or part in paths}


def _activation(result: Result) -> dict[str, Any]:
    demoted = convert.to_model(result.demoted) if result.demoted else None
    return {"model": convert.to_model(result.entry), "demoted": demoted, "revision": result.revision}


def _watch_response(message: Message) -> pb.WatchProductionResponse:
    response = pb.WatchProductionResponse(
        registry_uid=message.registry_uid, revision=message.revision, reset=message.reset
    )
    match message.event:
        case Told(model_name=name, entry=None):
            response.cleared.model_name = name
        case Told(entry=entry) if entry is not None:
            response.activated.model.CopyFrom(convert.to_model(entry))
        case "synced":
            response.synced.SetInParent()
        case _:
            response.heartbeat.SetInParent()
    return response
