"""The service over a real socket and a real file."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc
from videoai.registry.v1 import registry_pb2 as pb

from registry_server import errors
from registry_server.service import ERROR_CODES, SERVICE, WRITES

Code = grpc.StatusCode
PRODUCTION, STAGING, ARCHIVED = pb.MODEL_STATUS_PRODUCTION, pb.MODEL_STATUS_STAGING, pb.MODEL_STATUS_ARCHIVED


def all_errors(kind: type[Exception] = errors.RegistryError) -> list[type[Exception]]:
    return [kind, *(error for child in kind.__subclasses__() for error in all_errors(child))]


@pytest.mark.parametrize("kind", all_errors()[1:], ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_code(kind: type[Exception]) -> None:
    assert any(base in ERROR_CODES for base in kind.__mro__)


def test_the_tree_of_errors_is_drawn_in_full() -> None:
    drawn = [line.split("─ ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "─ " in line]
    assert sorted(drawn) == sorted(kind.__name__ for kind in all_errors()[1:])


async def test_register_new_model(root: Any, client: Any) -> None:
    path = root.add_model("shapes", 1)
    data = (root.path / path).read_bytes()
    metadata = pb.ModelMetadata(description="coloured shapes", metrics={"accuracy": 0.5, "latency_ms": 30})
    metadata.attributes.update({"videoai": {"classes": ["circle"]}, "epochs": 3})

    answer = await client.register("shapes", 1, path, metadata=metadata)

    model = answer.model
    assert (model.model_name, model.version, model.path, model.status) == ("shapes", 1, path, STAGING)
    assert (model.sha256, model.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("images", "FP32", [-1, 3, 8, 8])]
    assert [(t.name, t.datatype, list(t.shape)) for t in model.outputs] == [("shifted", "FP16", [-1, 3, 8, 8])]
    assert model.metadata == metadata
    assert model.HasField("creation_timestamp")
    assert not model.HasField("activation_timestamp")
    entry = root.document()["models"][0]
    assert entry["metadata"]["metrics"] == {"accuracy": 0.5, "latency_ms": 30}
    assert '"latency_ms": 30\n' in root.text()
    got = await client.stub.GetModel(pb.GetModelRequest(model_name="shapes", version=1))
    assert (got.model, got.revision) == (model, answer.revision)


async def test_register_duplicate_version_fails(root: Any, client: Any, fails: Any) -> None:
    path = root.add_model("shapes", 1)
    await client.register("shapes", 1, path)
    before = root.text()
    details = await fails(client.register("shapes", 1, path), Code.ALREADY_EXISTS)
    assert "version 1 of model 'shapes'" in details
    assert root.text() == before


async def test_version_0_takes_the_next_free_one(root: Any, client: Any) -> None:
    path = root.add_model("shapes", 1)
    versions = [(await client.register("shapes", version, path)).model.version for version in (0, 7, 0)]
    assert versions == [1, 7, 8]


async def test_a_version_that_was_in_production_is_not_given_out_again(root: Any, client: Any) -> None:
    path = root.add_model("shapes", 1)
    for version in (1, 2):
        await client.register("shapes", version, path)
        await client.activate("shapes", version)
    await client.activate("shapes", 1)
    await client.stub.DeleteModelVersion(pb.DeleteModelVersionRequest(model_name="shapes", version=2))
    assert (await client.register("shapes", 0, path)).model.version == 3


@pytest.mark.parametrize(
    ("field", "request_fields"),
    [
        ("model_name", {"model_name": "Upper"}),
        ("model_name", {"model_name": ""}),
        ("model_name", {"model_name": "a" * 129}),
        ("model_name", {"model_name": "../a"}),
        ("version", {"version": -1}),
        ("path", {"path": ""}),
        ("path", {"path": "/etc/passwd"}),
        ("path", {"path": "models/../secret.onnx"}),
        ("path", {"path": "elsewhere/model.onnx"}),
        ("path", {"path": "models\\a.onnx"}),
        ("path", {"path": "models/shapes"}),
        ("sha256", {"sha256": "abc"}),
        ("request_id", {"request_id": ""}),
        ("request_id", {"request_id": "x" * 129}),
        ("metadata.metrics.accuracy", {"metadata": pb.ModelMetadata(metrics={"accuracy": float("nan")})}),
    ],
)
async def test_malformed_fields_are_named(
    root: Any, client: Any, fails: Any, field: str, request_fields: dict[str, Any]
) -> None:
    path = root.add_model("shapes", 1)
    request = pb.RegisterModelRequest(**{"model_name": "shapes", "version": 1, "path": path, **request_fields})
    details = await fails(client.stub.RegisterModel(request), Code.INVALID_ARGUMENT)
    assert details.startswith(f"{field}: expected")
    assert not root.file.exists()


async def test_register_looks_at_the_file(root: Any, client: Any, fails: Any) -> None:
    path = root.add_model("shapes", 1)
    await fails(client.register("shapes", 1, "models/shapes/none.onnx"), Code.NOT_FOUND)
    (root.path / "models" / "text.onnx").write_text("no model")
    assert "ONNX" in await fails(client.register("shapes", 1, "models/text.onnx"), Code.INVALID_ARGUMENT)
    details = await fails(client.register("shapes", 1, path, sha256="0" * 64), Code.FAILED_PRECONDITION)
    assert details.startswith("sha256: expected 000")
    digest = hashlib.sha256((root.path / path).read_bytes()).hexdigest()
    assert (await client.register("shapes", 1, path, sha256=digest.upper())).model.sha256 == digest


async def test_a_repeated_registration_answers_the_first_result(root: Any, client: Any, fails: Any) -> None:
    path = root.add_model("shapes", 1)
    first = await client.register("shapes", 0, path, request_id="r1")
    assert await client.register("shapes", 0, path, request_id="r1") == first
    assert await client.register("shapes", 1, path, request_id="r1") == first
    (root.path / path).unlink()
    assert await client.register("shapes", 0, path, request_id="r1") == first
    assert "request_id" in await fails(client.register("shapes", 2, path, request_id="r1"), Code.ALREADY_EXISTS)


async def test_list_models(root: Any, client: Any) -> None:
    for name, version in (("b", 2), ("a", 10), ("a", 9), ("b", 1), ("a-b", 1)):
        await client.register(name, version, root.add_model(name, version))
    answer = await client.stub.ListModels(pb.ListModelsRequest())
    listed = [(model.model_name, model.version) for model in answer.models]
    assert listed == [("a", 9), ("a", 10), ("a-b", 1), ("b", 1), ("b", 2)]
    assert not answer.next_page_token


async def test_list_models_by_name(root: Any, client: Any) -> None:
    for name, version in (("a", 1), ("b", 1), ("b", 2)):
        await client.register(name, version, root.add_model(name, version))
    await client.activate("b", 2)

    async def listed(**fields: Any) -> list[tuple[str, int]]:
        answer = await client.stub.ListModels(pb.ListModelsRequest(**fields))
        return [(model.model_name, model.version) for model in answer.models]

    assert await listed(model_name="b") == [("b", 1), ("b", 2)]
    assert await listed(model_name="none") == []
    assert await listed(status=PRODUCTION) == [("b", 2)]
    assert await listed(status=STAGING) == [("a", 1), ("b", 1)]
    assert await listed(model_name="b", status=STAGING) == [("b", 1)]


async def test_pages_survive_what_comes_and_goes_between_them(root: Any, client: Any, fails: Any) -> None:
    path = root.add_model("m", 1)
    for version in range(2, 12, 2):
        await client.register("m", version, path)
    first = await client.stub.ListModels(pb.ListModelsRequest(page_size=2))
    await client.register("m", 1, path)  # before the page's end: not seen again
    await client.register("m", 5, path)  # after it: seen
    await client.stub.DeleteModelVersion(pb.DeleteModelVersionRequest(model_name="m", version=4))  # the page's last
    rest, token = [], first.next_page_token
    while token:
        page = await client.stub.ListModels(pb.ListModelsRequest(page_size=2, page_token=token))
        rest += [model.version for model in page.models]
        token = page.next_page_token
    assert [model.version for model in first.models] == [2, 4]
    assert rest == [5, 6, 8, 10]
    for wrong in ("x", "!!", first.next_page_token[:-3], "bnVsbA", "WzEsMl0"):
        request = pb.ListModelsRequest(page_token=wrong)
        assert "page_token" in await fails(client.stub.ListModels(request), Code.INVALID_ARGUMENT)
    for size in (-1, 1001):
        request = pb.ListModelsRequest(page_size=size)
        assert "page_size" in await fails(client.stub.ListModels(request), Code.INVALID_ARGUMENT)


async def test_activate_model(root: Any, client: Any) -> None:
    await client.register("shapes", 1, root.add_model("shapes", 1))
    answer = await client.activate("shapes", 1)
    assert answer.model.status == PRODUCTION
    assert answer.model.HasField("activation_timestamp")
    assert not answer.HasField("demoted")
    assert root.document()["models"][0]["status"] == "production"
    assert root.document()["videoai"]["revision"] == answer.revision


async def test_activate_demotes_old_production(root: Any, client: Any) -> None:
    for version in (1, 2):
        await client.register("shapes", version, root.add_model("shapes", version))
    await client.activate("shapes", 1)
    answer = await client.activate("shapes", 2)
    assert (answer.demoted.version, answer.demoted.status) == (1, STAGING)
    assert [entry["status"] for entry in root.document()["models"]] == ["staging", "production"]


async def test_get_production_model(root: Any, client: Any, fails: Any) -> None:
    await fails(client.production("shapes"), Code.NOT_FOUND)
    await client.register("shapes", 1, root.add_model("shapes", 1))
    assert "no version in production" in await fails(client.production("shapes"), Code.NOT_FOUND)
    activated = await client.activate("shapes", 1)
    answer = await client.production("shapes")
    assert (answer.model, answer.revision) == (activated.model, activated.revision)


async def test_activating_what_is_in_production_makes_no_revision(root: Any, client: Any) -> None:
    await client.register("shapes", 1, root.add_model("shapes", 1))
    first = await client.activate("shapes", 1)
    before = root.text()
    again = await client.activate("shapes", 1)
    assert (again.model, again.revision) == (first.model, first.revision)
    assert root.text() == before


async def test_expected_production_version_is_compared_and_set(root: Any, client: Any, fails: Any) -> None:
    for version in (1, 2):
        await client.register("m", version, root.add_model("m", version))
    assert "found no version" in await fails(client.activate("m", 1, expected_production_version=2), Code.ABORTED)
    await client.activate("m", 1, expected_production_version=0)
    assert "found version 1" in await fails(client.activate("m", 2, expected_production_version=0), Code.ABORTED)
    assert "found version 1" in await fails(client.activate("m", 1, expected_production_version=2), Code.ABORTED)
    await client.activate("m", 2, expected_production_version=1)
    await fails(client.activate("m", 3, expected_production_version=1), Code.NOT_FOUND)


async def test_of_many_who_expect_the_same_one_wins(root: Any, client: Any) -> None:
    for version in range(1, 9):
        await client.register("m", version, root.add_model("m", version))
    calls = (client.activate("m", version, expected_production_version=0) for version in range(1, 9))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    winners = [answer for answer in answers if not isinstance(answer, BaseException)]
    losers = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(winners) == 1
    assert [loser.code() for loser in losers] == [Code.ABORTED] * 7


async def test_a_repeated_activation_answers_the_first_result(root: Any, client: Any, fails: Any) -> None:
    for version in (1, 2):
        await client.register("m", version, root.add_model("m", version))
    await client.activate("m", 1)
    first = await client.activate("m", 2, expected_production_version=1, request_id="a1")
    again = await client.activate("m", 2, expected_production_version=1, request_id="a1")
    assert again == first
    await fails(client.activate("m", 1, request_id="a1"), Code.ALREADY_EXISTS)


async def test_a_file_that_is_gone_or_changed_is_not_activated(root: Any, client: Any, fails: Any) -> None:
    path = root.path / root.add_model("m", 1, seed=1)
    original = path.read_bytes()
    await client.register("m", 1, "models/m/v1/model.onnx")
    root.add_model("m", 1, seed=2)
    assert "sha256" in await fails(client.activate("m", 1), Code.FAILED_PRECONDITION)
    path.write_bytes(original + b"\0")
    assert "size_bytes" in await fails(client.activate("m", 1), Code.FAILED_PRECONDITION)
    path.unlink()
    assert "No such file" in await fails(client.activate("m", 1), Code.FAILED_PRECONDITION)
    path.write_bytes(original)
    await client.activate("m", 1)


async def test_rollback_goes_to_the_version_before(root: Any, client: Any, fails: Any) -> None:
    rollback = client.stub.RollbackProduction
    request = pb.RollbackProductionRequest(model_name="m")
    await fails(rollback(request), Code.NOT_FOUND)
    for version in (1, 2, 3):
        await client.register("m", version, root.add_model("m", version))
    await fails(rollback(request), Code.FAILED_PRECONDITION)
    for version in (1, 3):
        await client.activate("m", version)
    answer = await rollback(request)
    assert (answer.model.version, answer.demoted.version) == (1, 3)
    assert (await client.production("m")).model.version == 1
    await client.stub.ArchiveModelVersion(pb.ArchiveModelVersionRequest(model_name="m", version=3))
    assert "version 3" in await fails(rollback(request), Code.FAILED_PRECONDITION)
    await client.stub.DeleteModelVersion(pb.DeleteModelVersionRequest(model_name="m", version=3))
    assert "deleted" in await fails(rollback(request), Code.FAILED_PRECONDITION)


async def test_production_can_be_neither_archived_nor_deleted(root: Any, client: Any, fails: Any) -> None:
    await client.register("m", 1, root.add_model("m", 1))
    await client.register("m", 2, root.add_model("m", 2))
    await client.activate("m", 1)
    archive, delete = client.stub.ArchiveModelVersion, client.stub.DeleteModelVersion
    await fails(archive(pb.ArchiveModelVersionRequest(model_name="m", version=1)), Code.FAILED_PRECONDITION)
    await fails(delete(pb.DeleteModelVersionRequest(model_name="m", version=1)), Code.FAILED_PRECONDITION)
    archived = await archive(pb.ArchiveModelVersionRequest(model_name="m", version=2))
    assert archived.model.status == ARCHIVED
    assert "archived" in await fails(client.activate("m", 2), Code.FAILED_PRECONDITION)
    deleted = await delete(pb.DeleteModelVersionRequest(model_name="m", version=2))
    assert deleted.revision == archived.revision + 1
    await fails(client.stub.GetModel(pb.GetModelRequest(model_name="m", version=2)), Code.NOT_FOUND)
    assert (root.path / "models/m/v2/model.onnx").exists()


async def test_metadata_is_replaced_whole_or_in_parts(root: Any, client: Any, fails: Any) -> None:
    metadata = pb.ModelMetadata(description="old", metrics={"a": 1, "b": 2})
    await client.register("m", 1, root.add_model("m", 1), metadata=metadata)

    async def update(paths: list[str], **parts: Any) -> pb.Model:
        request = pb.UpdateModelMetadataRequest(
            model_name="m", version=1, metadata=pb.ModelMetadata(**parts), update_mask=FieldMask(paths=paths)
        )
        return (await client.stub.UpdateModelMetadata(request)).model

    model = await update(["metrics"], description="ignored", metrics={"c": 3.5})
    assert (model.metadata.description, dict(model.metadata.metrics)) == ("old", {"c": 3.5})
    model = await update([], description="new")
    assert model.metadata == pb.ModelMetadata(description="new", attributes=model.metadata.attributes)
    assert dict(model.metadata.metrics) == {}
    before = root.text()
    await update([], description="new")
    assert root.text() == before
    assert "update_mask" in await fails(update(["name"]), Code.INVALID_ARGUMENT)


async def test_reading_leaves_the_example_byte_for_byte(example: Any, serve: Any) -> None:
    before, listing = example.file.read_bytes(), sorted(p.name for p in example.file.parent.iterdir())
    async with serve(example) as client:
        answer = await client.production("yolov8n-coco")
        assert (answer.model.version, answer.model.metadata.metrics["accuracy"]) == (1, 0.78)
        assert answer.model.creation_timestamp.ToJsonString() == "2025-06-25T12:00:00Z"
        assert len((await client.stub.ListModels(pb.ListModelsRequest())).models) == 2
        watch = client.stub.WatchProduction(pb.WatchProductionRequest())
        assert (await anext(aiter(watch))).activated.model == answer.model
        await client.activate("yolov8n-coco", 1)  # is there already
    assert example.file.read_bytes() == before
    assert sorted(p.name for p in example.file.parent.iterdir() if p.name != "registry.json.lock") == listing


async def test_activating_an_entry_written_by_hand_records_its_file(example: Any, serve: Any, fails: Any) -> None:
    path = example.path / "models/yolov8n-coco/v2/model.onnx"
    data = path.read_bytes()
    path.unlink()
    async with serve(example) as client:
        await fails(client.activate("yolov8n-coco", 2), Code.FAILED_PRECONDITION)
        path.write_bytes(data)
        model = (await client.activate("yolov8n-coco", 2)).model
        assert (model.sha256, model.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        assert [spec.name for spec in model.inputs] == ["images"]
        assert (
            await client.stub.RollbackProduction(pb.RollbackProductionRequest(model_name="yolov8n-coco"))
        ).model.version == 1
    entry = json.loads(example.file.read_text())["models"][1]
    assert list(entry)[:6] == ["model_name", "version", "path", "status", "creation_timestamp", "metadata"]


async def activations(client: Any, name: str, **fields: Any) -> list[pb.Activation]:
    answer = await client.stub.ListActivations(pb.ListActivationsRequest(model_name=name, **fields))
    return list(answer.activations)


async def test_activations_are_told_newest_first(root: Any, client: Any, fails: Any) -> None:
    unknown = client.stub.ListActivations(pb.ListActivationsRequest(model_name="m"))
    await fails(unknown, Code.NOT_FOUND)
    for version in (1, 2):
        await client.register("m", version, root.add_model("m", version))
    assert await activations(client, "m") == []
    first = await client.activate("m", 1, requested_by="ann@build-7")
    second = await client.activate("m", 2)
    back = await client.stub.RollbackProduction(pb.RollbackProductionRequest(model_name="m", requested_by="bob"))
    assert [(a.previous_version, a.version, a.requested_by, a.revision) for a in await activations(client, "m")] == [
        (2, 1, "bob", back.revision),
        (1, 2, "", second.revision),
        (0, 1, "ann@build-7", first.revision),
    ]
    (newest,) = await activations(client, "m", limit=1)
    assert newest.timestamp.ToDatetime() == back.model.activation_timestamp.ToDatetime()
    too_long = client.activate("m", 2, requested_by="x" * 129)
    assert "requested_by: expected 0 to 128 printable" in await fails(too_long, Code.INVALID_ARGUMENT)
    await fails(client.activate("m", 2, requested_by="ann\x1b[2J"), Code.INVALID_ARGUMENT)


async def test_an_edit_is_an_activation_that_nobody_called_for(serve: Any, example: Any) -> None:
    async with serve(example) as client:
        document = example.document()
        document["models"][0]["status"], document["models"][1]["status"] = "staging", "production"
        example.edit(document)
        while (await client.production("yolov8n-coco")).model.version != 2:
            await asyncio.sleep(0.01)
        (record,) = await activations(client, "yolov8n-coco")
        assert (record.previous_version, record.version, record.edited, record.requested_by) == (1, 2, True, "")


async def test_a_registry_that_cannot_be_read_says_so_until_it_is_mended(serve: Any, example: Any, fails: Any) -> None:
    async with serve(example) as client, grpc.aio.insecure_channel(client.address) as channel:
        health, state = health_pb2_grpc.HealthStub(channel), client.stub.GetRegistryState
        writes = health.Watch(health_pb2.HealthCheckRequest(service=WRITES))
        assert (await writes.read()).status == health_pb2.HealthCheckResponse.SERVING
        before = await state(pb.GetRegistryStateRequest())
        assert (before.versions, before.watchers, before.problem) == (2, 0, "")
        assert before.storage.endswith("models/registry.json")
        text = example.text()
        example.replace(text.replace('"version": 1,', '"version": 1'))
        while not (problem := (await state(pb.GetRegistryStateRequest())).problem):
            await asyncio.sleep(0.01)
        assert "models/registry.json:6:7: not valid JSON" in problem
        assert (await writes.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):  # whoever only reads and watches is to be left where it is
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert (await client.production("yolov8n-coco")).model.version == 1
        assert problem in await fails(client.activate("yolov8n-coco", 2), Code.FAILED_PRECONDITION)
        example.replace(text)
        while (await state(pb.GetRegistryStateRequest())).problem:
            await asyncio.sleep(0.01)
        assert (await writes.read()).status == health_pb2.HealthCheckResponse.SERVING
        await client.activate("yolov8n-coco", 2)


async def test_a_registry_that_cannot_be_reached_says_so(serve: Any, example: Any) -> None:
    async with serve(example) as client:
        aside = example.file.rename(example.file.with_suffix(".aside"))
        example.file.mkdir()
        while "Is a directory" not in (await client.stub.GetRegistryState(pb.GetRegistryStateRequest())).problem:
            await asyncio.sleep(0.01)
        assert (await client.production("yolov8n-coco")).model.version == 1
        example.file.rmdir()
        aside.rename(example.file)
        while (await client.stub.GetRegistryState(pb.GetRegistryStateRequest())).problem:
            await asyncio.sleep(0.01)
