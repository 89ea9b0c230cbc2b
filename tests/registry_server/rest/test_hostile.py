"""What nobody should send, and what becomes of the server when it comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs
from videoai.registry.v1 import registry_pb2 as pb

from registry_server.rest import body, listener
from registry_server.rest.body import MAX_BODY_BYTES, MAX_LEVELS

MODELS = "/api/v1/registry/models"
JSON = {"Content-Type": "application/json"}
HEAD = f"POST {MODELS} HTTP/1.1\r\nHost: registry\r\nContent-Type: application/json\r\n".encode()


@asynccontextmanager
async def connection(door: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = door.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def talk(door: Any, data: bytes) -> bytes:
    """Send bytes; return all that comes until the server closes the connection."""
    async with connection(door) as (reader, writer):
        writer.write(data)
        return await reader.read()


async def post(door: Any, content: bytes, kind: str = "application/json") -> tuple[int, str]:
    response = await door.http.post(MODELS, content=content, headers={"Content-Type": kind})
    return response.status_code, response.json().get("detail", "")


@pytest.fixture
def registration(root: Any) -> dict[str, Any]:
    return {"model_name": "m", "version": 1, "path": root.add_model("m", 1)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "line 1, column 2"),
        (b'{"model_name": NaN}', "NaN is not a JSON number"),
        (b'{"version": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"version": 1e999}', "too large"),
        (b'{"version": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"model_name": "\xff"}', "not valid UTF-8"),
        (b'{"model_name": "\\ud800"}', "half a surrogate pair"),
        (b'{"path": 1, "path": 2}', '"path" occurs twice'),
        (b"[" * 100_000, "nested too deeply"),
        (b"{" + b",".join(b'"%d":0' % min(number, 70_000) for number in range(70_002)) + b"}", '"70000" occurs twice'),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_not_json_is_a_bad_request(door: Any, content: bytes, reason: str) -> None:
    status, detail = await post(door, content)
    assert (status, reason in detail) == (400, True), detail


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
async def test_other_kinds_of_bodies_are_refused(door: Any, registration: Any, kind: str) -> None:
    status, detail = await post(door, json.dumps(registration).encode(), kind)
    assert (status, "application/json" in detail) == (415, True)


async def test_a_charset_does_no_harm(door: Any, registration: Any) -> None:
    assert (await post(door, json.dumps(registration).encode(), "Application/JSON; charset=utf-8"))[0] == 201


async def test_a_body_may_be_as_long_as_the_limit_and_no_longer(door: Any, registration: Any) -> None:
    content = json.dumps(registration).encode().ljust(MAX_BODY_BYTES)
    for longer in (content + b" ", content * 20):
        assert await post(door, longer) == (413, f"body: expected at most {MAX_BODY_BYTES} bytes")
    assert (await post(door, content))[0] == 201


async def test_a_body_without_a_length_is_bounded_too(door: Any) -> None:
    async with connection(door) as (reader, writer):
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(MAX_BODY_BYTES // 65536 + 1):
            writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        assert b" 413 " in await reader.readline()


async def test_an_announced_length_is_refused_before_it_comes(door: Any) -> None:
    async with connection(door) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n")
        assert b" 413 " in await reader.readline()


async def test_a_body_that_does_not_come_is_not_waited_for(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.1)
    answer = await talk(door, HEAD + b"Content-Length: 10\r\n\r\n{")
    assert b" 408 " in answer.splitlines()[0]
    assert b"application/problem+json" in answer
    assert await door.list() == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET " + MODELS.encode() + b" HTTP/1.1\r\n\r\n",
        HEAD + b"Content-Length: ten\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
        HEAD + b"X: \0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=lambda data: repr(data[-20:]),
)
async def test_what_is_not_http_is_answered_and_ends_the_connection(door: Any, data: bytes) -> None:
    assert (await talk(door, data)).splitlines()[0].split()[1] in (b"400", b"501")
    assert await door.list() == []


async def test_who_leaves_in_mid_request_leaves_nothing_behind(root: Any, door: Any, registration: Any) -> None:
    content = json.dumps(registration).encode()
    with capture_logs() as logs:
        for sent in (b"", content[:5], content):
            async with connection(door) as (_, writer):
                writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + sent)
                await writer.drain()
        # One that came whole is done all the same.
        while not await door.list():
            pass
    assert [line for line in logs if line["log_level"] == "error"] == []
    assert len(root.document()["models"]) == 1


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


async def test_what_is_stored_can_be_read_through_grpc(door: Any, registration: Any) -> None:
    levels = MAX_LEVELS - 2  # the body, the metadata
    metadata = {
        "description": "\0 ü 𝄞 \u2028",
        "metrics": {f"metric {number}": number for number in range(10_000)} | {"": 1e308, "\0": -0.0},
        "attributes": nested(levels) | {"list": [None, True, "", [], {}, 2**1023]},
        "other": [None, {"": 0.1}],
    }
    response = await door.http.post(MODELS, json={**registration, "metadata": metadata})
    assert (response.status_code, response.json()["metadata"]) == (201, metadata)
    for deeper in ({"attributes": nested(levels + 1)}, {"other": nested(900)}):
        refused = await door.http.post(MODELS, json={**registration, "version": 2, "metadata": deeper})
        assert refused.status_code == 422
        assert "levels" in refused.json()["detail"]
    await door.activate("m", 1)
    [model] = (await door.grpc.stub.ListModels(pb.ListModelsRequest())).models
    assert len(model.metadata.metrics) == 10_002
    assert model.metadata.description == metadata["description"]
    watch = door.grpc.stub.WatchProduction(pb.WatchProductionRequest())
    assert (await watch.read()).activated.model == model
    watch.cancel()


@pytest.mark.parametrize("key", ["model_name", "version", "path", "sha256", "metadata"])
async def test_values_of_any_kind_are_refused_where_they_do_not_fit(door: Any, registration: Any, key: str) -> None:
    for value in (None, True, -1, 1.5, "\0", "é" * 100_000, [], [[]] * 1000, [nested(20)]):
        response = await door.http.post(MODELS, json={**registration, key: value})
        assert response.status_code == 422, (key, value)
        assert response.json()["field"] == key
        assert len(response.content) < 10_000


async def test_names_as_long_as_the_caller_made_them_are_cut(door: Any, registration: Any) -> None:
    name = "x" * 500_000
    for change in ({name: 1}, {"metadata": {"metrics": {name: "high"}}}):
        response = await door.http.post(MODELS, json={**registration, **change})
        assert response.status_code == 422
        assert len(response.content) < 10_000


async def connect(door: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = door.address.rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


async def test_more_connections_than_the_limit_are_told_so(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)
    first, *others = [await connect(door) for _ in range(3)]
    reader, writer = await connect(door)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"].startswith("the limit of 3 connections is reached")
    first[1].write(b"GET /api/v1/registry/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await first[0].read()).startswith(b"HTTP/1.1 200 ")
    assert (await door.http.get(MODELS)).status_code == 200  # there is room again
    for _, other in (first, *others, (reader, writer)):
        other.close()
        await other.wait_closed()


async def test_a_connection_that_says_nothing_is_closed(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "FIRST_REQUEST_SECONDS", 0.05)
    (silent, one), (slow, two) = await connect(door), await connect(door)
    two.write(b"GET /api/v1/registry/models HTT")
    assert (await silent.read(), await slow.read()) == (b"", b"")
    for writer in (one, two):
        writer.close()
        await writer.wait_closed()


async def test_many_at_once_are_all_answered(root: Any, door: Any) -> None:
    path = root.add_model("m", 1)
    body = {"model_name": "m", "path": path}
    answers = await asyncio.gather(*(door.http.post(MODELS, json=body) for _ in range(100)))
    assert sorted(answer.json()["version"] for answer in answers) == list(range(1, 101))
    activations = await asyncio.gather(*(door.activate("m", version) for version in range(1, 101)))
    assert {answer.status_code for answer in activations} == {200}
    assert [entry["status"] for entry in await door.list()].count("production") == 1
