from __future__ import annotations

import inspect
from typing import Any

import grpc
import pytest
import videoai
import videoai.aio
from google.protobuf.json_format import MessageToDict
from videoai import channels, errors
from videoai.inference.v1 import inference_pb2
from videoai.registry.v1 import registry_pb2

MODEL = registry_pb2.Model(model_name="yolo", version=3)
ACTIVATION = registry_pb2.Activation(model_name="yolo", previous_version=2, version=3, revision=9)


async def test_register_sends_what_was_given_and_a_request_id(fake: Any, registry: Any) -> None:
    fake.registry.answers["RegisterModel"] = lambda *_: registry_pb2.RegisterModelResponse(model=MODEL, revision=7)
    attributes = {"videoai": {"family": "yolo-detect"}, "tags": ["a", 1.5]}
    answer = await registry(
        "register", "yolo", "models/y.onnx", description="d", metrics={"map": 0.5}, attributes=attributes, sha256="ab"
    )
    assert answer == MODEL
    sent = fake.registry.requests[0]
    assert (sent.model_name, sent.version, sent.path, sent.sha256) == ("yolo", 0, "models/y.onnx", "ab")
    assert MessageToDict(sent.metadata) == {"description": "d", "metrics": {"map": 0.5}, "attributes": attributes}
    assert len(sent.request_id) == 32


async def test_a_repeat_after_unavailable_carries_the_same_request_id(fake: Any, registry: Any) -> None:
    def answer(_: Any, context: grpc.ServicerContext) -> Any:
        if len(fake.registry.requests) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "storage is away")
        return registry_pb2.ActivateModelVersionResponse(model=MODEL, revision=8)

    fake.registry.answers["ActivateModelVersion"] = answer
    assert (await registry("activate", "yolo", 3)).revision == 8
    assert len(fake.registry.requests) == 3
    assert len({request.request_id for request in fake.registry.requests}) == 1
    await registry("activate", "yolo", 3)
    assert len({request.request_id for request in fake.registry.requests}) == 2


@pytest.mark.parametrize(("method", "rpc"), [("rollback", "RollbackProduction"), ("delete", "DeleteModelVersion")])
async def test_what_must_not_happen_twice_is_not_repeated(fake: Any, registry: Any, method: str, rpc: str) -> None:
    fake.registry.answers[rpc] = lambda _, context: context.abort(grpc.StatusCode.UNAVAILABLE, "storage is away")
    with pytest.raises(errors.Unavailable, match="storage is away"):
        await registry(method, "yolo", *([1] if method == "delete" else []))
    assert len(fake.registry.requests) == 1


def test_repeatable_calls_exist() -> None:
    services = {**registry_pb2.DESCRIPTOR.services_by_name, **inference_pb2.DESCRIPTOR.services_by_name}
    known = {service.full_name: set(service.methods_by_name) for service in services.values()}
    known["grpc.health.v1.Health"] = {"Check"}
    for service, methods in channels.REPEATABLE.items():
        assert set(methods) <= known[service]


async def test_expectation_is_sent_only_if_given(fake: Any, registry: Any) -> None:
    fake.registry.answers["ActivateModelVersion"] = lambda *_: registry_pb2.ActivateModelVersionResponse(model=MODEL)
    await registry("activate", "yolo", 3)
    await registry("activate", "yolo", 3, expected_production_version=0)
    without, with_none = fake.registry.requests
    assert not without.HasField("expected_production_version")
    assert with_none.HasField("expected_production_version")


async def test_list_reads_every_page(fake: Any, registry: Any) -> None:
    def page(request: registry_pb2.ListModelsRequest, _: Any) -> registry_pb2.ListModelsResponse:
        number = int(request.page_token or 0)
        models = [registry_pb2.Model(model_name="yolo", version=number * 2 + i) for i in (1, 2)]
        return registry_pb2.ListModelsResponse(models=models, next_page_token=str(number + 1) if number < 2 else "")

    fake.registry.answers["ListModels"] = page
    models = await registry("list", "yolo", status=registry_pb2.MODEL_STATUS_STAGING)
    assert [model.version for model in models] == [1, 2, 3, 4, 5, 6]
    assert {request.status for request in fake.registry.requests} == {registry_pb2.MODEL_STATUS_STAGING}
    assert {request.model_name for request in fake.registry.requests} == {"yolo"}


async def test_one_version_methods_answer_the_model(fake: Any, registry: Any) -> None:
    fake.registry.answers |= {
        "GetModel": lambda *_: registry_pb2.GetModelResponse(model=MODEL),
        "ArchiveModelVersion": lambda *_: registry_pb2.ArchiveModelVersionResponse(model=MODEL),
        "GetProductionModel": lambda *_: registry_pb2.GetProductionModelResponse(model=MODEL),
        "RollbackProduction": lambda *_: registry_pb2.RollbackProductionResponse(model=MODEL, revision=4),
        "DeleteModelVersion": lambda *_: registry_pb2.DeleteModelVersionResponse(revision=5),
        "GetRollout": lambda *_: registry_pb2.GetRolloutResponse(model_name="yolo", production_version=3),
        "ListActivations": lambda *_: registry_pb2.ListActivationsResponse(activations=[ACTIVATION]),
        "GetRegistryState": lambda *_: registry_pb2.GetRegistryStateResponse(revision=9),
    }
    assert await registry("get", "yolo", 3) == MODEL
    assert await registry("archive", "yolo", 3) == MODEL
    assert await registry("production", "yolo") == MODEL
    assert (await registry("rollback", "yolo")).revision == 4
    assert await registry("delete", "yolo", 3) is None
    assert (await registry("rollout", "yolo")).production_version == 3
    assert list(await registry("activations", "yolo", limit=5)) == [ACTIVATION]
    assert fake.registry.requests[-1].limit == 5
    assert {request.model_name for request in fake.registry.requests} == {"yolo"}
    assert [request.version for request in fake.registry.requests if hasattr(request, "version")] == [3, 3, 3]
    assert (await registry("state")).revision == 9


async def test_update_metadata_replaces_only_what_is_given(fake: Any, registry: Any) -> None:
    fake.registry.answers["UpdateModelMetadata"] = lambda *_: registry_pb2.UpdateModelMetadataResponse(model=MODEL)
    await registry("update_metadata", "yolo", 3, description="", metrics={"map": 1})
    sent = fake.registry.requests[0]
    assert list(sent.update_mask.paths) == ["description", "metrics"]
    assert dict(sent.metadata.metrics) == {"map": 1.0}
    with pytest.raises(ValueError, match="expected at least one of"):
        await registry("update_metadata", "yolo", 3)


async def test_report_sends_the_state(fake: Any, registry: Any) -> None:
    fake.registry.answers["ReportModelState"] = lambda *_: registry_pb2.ReportModelStateResponse()
    rejected = registry_pb2.MODEL_STATE_REJECTED
    await registry("report", "replica-1", "yolo", 3, revision=9, state=rejected, running_version=2, error="bad")
    assert fake.registry.requests == [
        registry_pb2.ReportModelStateRequest(
            instance_id="replica-1",
            model_name="yolo",
            version=3,
            revision=9,
            state=rejected,
            running_version=2,
            error="bad",
        )
    ]


async def test_the_servers_refusal_is_raised(fake: Any, registry: Any) -> None:
    fake.registry.answers["GetModel"] = lambda _, context: context.abort(grpc.StatusCode.NOT_FOUND, "no yolo 3")
    with pytest.raises(errors.NotFound, match="no yolo 3") as caught:
        await registry("get", "yolo", 3)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert caught.value.details == "no yolo 3"


async def test_health(fake: Any, registry: Any) -> None:
    assert await registry("health") == "SERVING"
    with pytest.raises(errors.NotFound):
        await registry("health", "unheard.of.Service")
    fake.health.set("some.Service", 2)
    assert await registry("health", "some.Service") == "NOT_SERVING"
    fake.health.set("some.Service", 0)
    assert await registry("health", "some.Service") == "UNKNOWN"


async def test_deadline(fake: Any) -> None:
    fake.registry.answers["GetModel"] = lambda _, context: fake.accept()
    with videoai.RegistryClient(fake.address, timeout_seconds=0.05) as client, pytest.raises(errors.DeadlineExceeded):
        client.get("yolo", 1)
    async with videoai.aio.RegistryClient(fake.address, timeout_seconds=0.05) as aio_client:
        with pytest.raises(errors.DeadlineExceeded):
            await aio_client.get("yolo", 1)
    for _ in range(2):
        fake.watches.put(None)


async def test_unix_socket(fake_on_socket: Any) -> None:
    with videoai.RegistryClient(fake_on_socket.address) as client:
        assert client.health() == "SERVING"
    async with videoai.aio.RegistryClient(fake_on_socket.address) as aio_client:
        assert await aio_client.health() == "SERVING"


@pytest.mark.parametrize("address", ["", "unix:", "localhost", "localhost:", ":50051", "host:0", "host:65536", "a b:1"])
def test_malformed_address(address: str) -> None:
    with pytest.raises(ValueError, match="expected host:port or unix:path"):
        videoai.RegistryClient(address)


@pytest.mark.parametrize("address", ["localhost:1", "[::1]:50051", "10.0.0.1:65535", "unix:/run/x.sock", "unix:x"])
def test_address(address: str) -> None:
    assert channels.target(address) == address


@pytest.mark.parametrize("name", ["RegistryClient", "InferenceClient"])
def test_both_flavours_offer_the_same(name: str) -> None:
    sync, aio = getattr(videoai, name), getattr(videoai.aio, name)

    def signatures(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in methods if not name.startswith("_")}

    assert signatures(sync) == signatures(aio)
