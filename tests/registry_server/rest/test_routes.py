"""The routes over real sockets and a real file, with gRPC beside them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from videoai.registry.v1 import registry_pb2 as pb

from registry_server import errors
from registry_server.entry import check_path
from registry_server.rest.app import BATCH
from registry_server.rest.problems import STATUS_CODES
from registry_server.rest.schemas import PATH

MODELS = "/api/v1/registry/models"
PROBLEM = "application/problem+json"
BODY = {"model_name": "m", "version": 1, "path": "models/m/v1/model.onnx"}


def all_errors(kind: type[Exception] = errors.RegistryError) -> list[type[Exception]]:
    return [kind, *(error for child in kind.__subclasses__() for error in all_errors(child))]


@pytest.mark.parametrize("kind", all_errors()[1:], ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind: type[Exception]) -> None:
    assert any(base in STATUS_CODES for base in kind.__mro__)


def refused(response: Any, status: int, field: str | None = None) -> str:
    """The detail of a refusal, whose shape is checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert (problem["status"], problem.get("field")) == (status, field), problem
    assert set(problem) <= {"title", "status", "detail", "field"}
    return str(problem["detail"])


async def test_the_life_of_two_versions(root: Any, door: Any) -> None:
    for version in (1, 2):
        answer = await door.register("shapes", version, root.add_model("shapes", version))
        assert (answer.status_code, answer.headers["content-type"]) == (201, "application/json")
        assert answer.json() == root.document()["models"][-1]
        assert answer.json()["status"] == "staging"
        assert answer.json() in (await door.http.get(answer.headers["location"])).json()["models"]
    assert [entry["version"] for entry in await door.list()] == [1, 2]

    first = await door.activate("shapes", 1)
    assert (first.status_code, first.json()["status"]) == (200, "production")
    second = await door.activate("shapes", 2)
    assert second.json() == root.document()["models"][1]
    assert [entry["status"] for entry in await door.list("shapes")] == ["staging", "production"]

    detail = refused(await door.activate("shapes", 3), 404)
    assert detail == "version 3 of model 'shapes' is not registered"
    refused(await door.activate("circles", 1), 404)
    refused(await door.register("shapes", 1, "models/shapes/v1/model.onnx"), 409)
    assert [entry["status"] for entry in await door.list("shapes")] == ["staging", "production"]


async def test_an_entry_is_what_stands_in_the_file(example: Any, open_door: Any) -> None:
    document = json.loads(example.file.read_text())
    document["models"].reverse()
    document["models"][0]["owner"] = {"team": "vision", "since": 2019}
    document["models"][0]["metadata"]["note"] = "grün"
    example.edit(document)
    async with open_door() as door:
        for name in (None, "yolov8n-coco"):
            assert await door.list(name) == document["models"][::-1], "unknown keys included, in order of versions"
        assert await door.list("another") == []


async def test_grpc_and_rest_see_each_other(root: Any, door: Any) -> None:
    metadata = {"description": "coloured", "metrics": {"accuracy": 0.5}, "attributes": {"videoai": {"a": [1]}}, "x": 1}
    registered = (await door.register("m", 0, root.add_model("m", 1), metadata=metadata)).json()
    assert (registered["version"], registered["metadata"]) == (1, metadata)
    got = (await door.grpc.stub.GetModel(pb.GetModelRequest(model_name="m", version=1))).model
    assert (got.sha256, got.metadata.description) == (registered["sha256"], "coloured")
    assert got.metadata.attributes["videoai"]["a"][0] == 1
    await door.grpc.activate("m", 1)
    assert [entry["status"] for entry in await door.list()] == ["production"]


async def test_a_watcher_hears_of_an_activation(root: Any, door: Any) -> None:
    await door.register("m", 1, root.add_model("m", 1))
    watch = door.grpc.stub.WatchProduction(pb.WatchProductionRequest(model_names=["m"]))
    assert (await watch.read()).WhichOneof("event") == "cleared"
    assert (await watch.read()).WhichOneof("event") == "synced"
    await door.activate("m", 1)
    assert (await watch.read()).activated.model.version == 1
    watch.cancel()


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, 3 * BATCH])
async def test_a_list_is_whole(root: Any, open_door: Any, count: int) -> None:
    entries = [{**BODY, "version": version, "status": "staging"} for version in range(1, count + 1)]
    root.edit({"models": entries})
    async with open_door() as door:
        assert await door.list() == entries


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("model_name", {"model_name": "Upper"}),
        ("model_name", {"model_name": "a\0"}),
        ("model_name", {"model_name": "a\n"}),
        ("model_name", {"model_name": ["m"]}),
        ("model_name", {"model_name": None}),
        ("version", {"version": -1}),
        ("version", {"version": 2**31}),
        ("version", {"version": 10**400}),
        ("version", {"version": "1"}),
        ("version", {"version": 1.5}),
        ("version", {"version": False}),
        ("path", {"path": "../m/model.onnx"}),
        ("path", {"path": "models/m/v1/model.onnx\0"}),
        ("path", {"path": "models/m/v1"}),
        ("path", {"path": "models/text.onnx"}),
        ("sha256", {"sha256": "abc"}),
        ("metadata", {"metadata": []}),
        ("metadata.description", {"metadata": {"description": 3}}),
        ("metadata.metrics", {"metadata": {"metrics": [1]}}),
        ("metadata.metrics.accuracy", {"metadata": {"metrics": {"accuracy": "high"}}}),
        ("metadata.metrics.accuracy", {"metadata": {"metrics": {"accuracy": 10**400}}}),
        ("metadata.attributes.a.0", {"metadata": {"attributes": {"a": [10**400]}}}),
        ("status", {"status": "production"}),
    ],
)
async def test_malformed_fields_are_named(root: Any, door: Any, field: str, change: dict[str, Any]) -> None:
    root.add_model("m", 1)
    (root.path / "models" / "text.onnx").write_text("no model")
    response = await door.http.post(MODELS, json={**BODY, **change})
    assert refused(response, 422, field).startswith(f"{field}: expected ")
    assert not root.file.exists()


@pytest.mark.parametrize("field", ["model_name", "path"])
async def test_missing_fields_are_named(door: Any, field: str) -> None:
    response = await door.http.post(MODELS, json={key: value for key, value in BODY.items() if key != field})
    assert "required" in refused(response, 422, field)


async def test_version_0_or_none_takes_the_next_one(root: Any, door: Any) -> None:
    path = root.add_model("m", 1)
    bodies = [{"version": 0}, {}, {"version": 7.0}, {"version": 0.0}]
    answers = [await door.http.post(MODELS, json={"model_name": "m", "path": path, **body}) for body in bodies]
    assert [answer.json()["version"] for answer in answers] == [1, 2, 7, 8]


async def test_the_file_is_looked_at(root: Any, door: Any) -> None:
    path = root.add_model("m", 1)
    assert "no file" in refused(await door.register("m", 1, "models/none.onnx"), 404, "path")
    assert "sha256: expected 000" in refused(await door.register("m", 1, path, sha256="0" * 64), 409)
    await door.register("m", 1, path)
    (root.path / path).write_bytes(b"another")
    refused(await door.activate("m", 1), 409)
    (root.path / path).unlink()
    assert "cannot be activated" in refused(await door.activate("m", 1), 409)


async def test_an_archived_version_is_not_activated(root: Any, door: Any) -> None:
    await door.register("m", 1, root.add_model("m", 1))
    await door.grpc.stub.ArchiveModelVersion(pb.ArchiveModelVersionRequest(model_name="m", version=1))
    assert "archived" in refused(await door.activate("m", 1), 409)


async def test_an_edit_that_cannot_be_read_refuses_changes(root: Any, door: Any) -> None:
    path = root.add_model("m", 1)
    await door.register("m", 1, path)
    root.file.write_text('{"models": [')
    assert "registry.json:1:13" in refused(await door.register("m", 2, path), 409)
    assert len(await door.list()) == 1


async def test_a_storage_that_cannot_be_written(root: Any, door: Any) -> None:
    path = root.add_model("m", 1)
    root.file.with_name("registry.json.lock").mkdir()
    assert "registry.json.lock" in refused(await door.register("m", 1, path), 503)


async def test_expected_production_version(root: Any, door: Any) -> None:
    for version in (1, 2):
        await door.register("m", version, root.add_model("m", version))
    assert (await door.activate("m", 1, params={"expected_production_version": 0})).status_code == 200
    response = await door.activate("m", 2, params={"expected_production_version": 0})
    assert "found version 1" in refused(response, 409)
    assert (await door.activate("m", 2, params={"expected_production_version": 1})).status_code == 200
    for text in ("-1", "x", "", "1.0", str(2**31)):
        response = await door.activate("m", 1, params={"expected_production_version": text})
        refused(response, 422, "expected_production_version")


async def test_an_idempotency_key_makes_repeating_harmless(root: Any, door: Any) -> None:
    headers = {"Idempotency-Key": "build-17"}
    body = {"model_name": "m", "path": root.add_model("m", 1)}
    first, again = [await door.http.post(MODELS, json=body, headers=headers) for _ in range(2)]
    assert (again.status_code, again.json()) == (201, first.json())
    other = {**body, "model_name": "another"}
    assert "already used" in refused(await door.http.post(MODELS, json=other, headers=headers), 409)
    await door.register("m", 2, root.add_model("m", 2))
    await door.activate("m", 1, headers=headers)
    await door.activate("m", 2)
    assert (await door.activate("m", 1, headers=headers)).status_code == 200
    assert [entry["status"] for entry in await door.list()] == ["staging", "production"], "it was not made again"
    for key in ("", "x" * 129, "a b"):
        refused(await door.activate("m", 1, headers={"Idempotency-Key": key}), 422, "Idempotency-Key")


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/m/1/activate", 404, None),
        ("/m/01/activate", 422, "version"),
        ("/m/1.0/activate", 422, "version"),
        ("/m/+1/activate", 422, "version"),
        ("/m/1_0/activate", 422, "version"),
        ("/m/٣/activate", 422, "version"),
        ("/m/0/activate", 422, "version"),
        ("/m/2147483648/activate", 422, "version"),
        (f"/m/{'9' * 5000}/activate", 422, "version"),
        ("/m%00/1/activate", 422, "model_name"),
        ("/%FF/1/activate", 422, "model_name"),
        ("/M/1/activate", 422, "model_name"),
        ("/a%2Fb/1/activate", 404, None),
        ("/../models/m/1/activate", 404, None),
        ("/m/1/activate/", 404, None),
        ("//1/activate", 404, None),
        ("/m/1/activate?force=1", 422, "query"),
        ("/m/1/activate?expected_production_version=1&expected_production_version=2", 422, "query"),
    ],
)
async def test_odd_paths(door: Any, path: str, status: int, field: str | None) -> None:
    refused(await door.http.put(MODELS + path), status, field)


async def test_a_list_takes_one_parameter(door: Any) -> None:
    for query, field in (("model=m", "query"), ("model_name=m&model_name=n", "query"), ("model_name=M", "model_name")):
        refused(await door.http.get(f"{MODELS}?{query}"), 422, field)
    refused(await door.http.get(f"{MODELS}/"), 404)


@pytest.mark.parametrize(
    ("path", "allowed"), [(MODELS, "GET, POST"), (f"{MODELS}/m/1/activate", "PUT"), ("/openapi.json", "GET")]
)
@pytest.mark.parametrize("method", ["DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
async def test_other_methods_are_refused(door: Any, path: str, allowed: str, method: str) -> None:
    response = await door.http.request(method, path)
    assert allowed in refused(response, 405)
    assert allowed in response.headers["allow"]


async def test_there_are_no_pages(door: Any) -> None:
    for path in ("/", "/docs", "/redoc"):
        assert "/openapi.json" in refused(await door.http.get(path), 404)


async def test_a_fault_is_logged_and_kept_from_the_caller(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("secret detail")

    monkeypatch.setattr("registry_server.catalog.Catalog.after", broken)
    with capture_logs() as logs:
        detail = refused(await door.http.get(MODELS), 500)
    assert "secret" not in detail
    reference = re.search(r"reference (\w+)", detail)
    assert reference
    assert [(line["event"], line["reference"]) for line in logs] == [("call failed", reference[1])]


@given(st.text(st.sampled_from("mo/.\\\0\n ü"), max_size=8) | st.from_regex(PATH))
def test_the_pattern_of_paths_is_the_check_of_paths(tail: str) -> None:
    path = tail if tail.startswith("models/") else f"models/{tail}"
    try:
        check_path(path)
        taken = True
    except errors.InvalidField:
        taken = False
    assert taken == bool(re.fullmatch(PATH.removeprefix("^").removesuffix("$"), path))
