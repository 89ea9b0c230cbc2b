from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from videoai import errors
from videoai.aio import RegistryClient
from videoai.registry.v1 import registry_pb2
from videoai.watching import Activated, Backoff, Cleared, Disconnected, Synced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from videoai.watching import WatchEvent

QUICK = Backoff(first_seconds=0.01, longest_seconds=0.05)


@pytest.fixture
async def client(fake: Any) -> AsyncIterator[RegistryClient]:
    async with RegistryClient(fake.address) as client:
        yield client


async def accept(fake: Any) -> Any:
    return await asyncio.to_thread(fake.accept)


def model(name: str, version: int) -> registry_pb2.Model:
    return registry_pb2.Model(model_name=name, version=version)


async def start(fake: Any, events: Any) -> Any:
    """Connect a watch and bring it to revision 5 with yolo 1 in production."""
    first = asyncio.create_task(anext(events))
    connection = await accept(fake)
    connection.activated(5, "yolo", 1, reset=True)
    connection.synced(5, reset=True)
    assert await first == Activated(model("yolo", 1), "uid-1", 5, reset=True)
    assert await anext(events) == Synced("uid-1", 5, reset=True)
    return connection


async def test_state_then_changes_without_heartbeats(fake: Any, client: RegistryClient) -> None:
    events = client.watch(["yolo"], instance_id="replica-1")
    connection = await start(fake, events)
    assert connection.request == registry_pb2.WatchProductionRequest(model_names=["yolo"], instance_id="replica-1")
    connection.heartbeat(5)
    connection.activated(6, "yolo", 2)
    connection.heartbeat(6)
    connection.send(7, cleared=registry_pb2.Cleared(model_name="yolo"))
    assert await anext(events) == Activated(model("yolo", 2), "uid-1", 6, reset=False)
    assert await anext(events) == Cleared("yolo", "uid-1", 7, reset=False)


async def test_resumes_after_the_server_was_killed(fake: Any, client: RegistryClient) -> None:
    events = client.watch(backoff=QUICK)
    connection = await start(fake, events)
    connection.heartbeat(9)
    connection.activated(10, "yolo", 2)
    assert isinstance(await anext(events), Activated)
    await asyncio.to_thread(fake.kill)
    lost = await anext(events)
    assert isinstance(lost, Disconnected)
    assert 0 < lost.retry_seconds <= 0.01
    fake.start()
    synced = asyncio.create_task(skip_failures(events))
    connection = await accept(fake)
    # Other changes of revision 10 may have been lost with the connection, so it asks for all since the heartbeat.
    assert (connection.request.registry_uid, connection.request.revision) == ("uid-1", 9)
    connection.activated(10, "yolo", 2)
    connection.activated(10, "other", 1)
    connection.synced(10)
    assert await synced == Activated(model("other", 1), "uid-1", 10, reset=False)
    assert await anext(events) == Synced("uid-1", 10, reset=False)


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL", "OK"])
async def test_comes_back_after_an_end(fake: Any, client: RegistryClient, code: str) -> None:
    events = client.watch(backoff=QUICK)
    connection = await start(fake, events)
    connection.end(grpc.StatusCode[code])
    lost = await anext(events)
    assert isinstance(lost, Disconnected)
    assert lost.reason == ("the registry ended the stream" if code == "OK" else f"{code}: scripted")
    synced = asyncio.create_task(anext(events))
    connection = await accept(fake)
    connection.synced(5)
    assert await synced == Synced("uid-1", 5, reset=False)


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED"])
async def test_raises_where_coming_back_will_not_help(fake: Any, client: RegistryClient, code: str) -> None:
    first = asyncio.create_task(anext(client.watch()))
    (await accept(fake)).end(grpc.StatusCode[code])
    with pytest.raises(errors.BY_CODE[grpc.StatusCode[code]], match="scripted"):
        await first


async def test_silence_is_taken_for_a_lost_connection(fake: Any, client: RegistryClient) -> None:
    events = client.watch(silence_seconds=0.2, backoff=QUICK)
    first = asyncio.create_task(anext(events))
    connection = await accept(fake)
    assert await first == Disconnected("silent for 0.2 s", pytest.approx(0.0075, abs=0.0026))
    synced = asyncio.create_task(anext(events))
    second = await accept(fake)
    second.synced(1, reset=True)
    assert await synced == Synced("uid-1", 1, reset=True)
    assert await asyncio.to_thread(connection.ended.wait, 15)


async def test_heartbeats_end_the_silence(fake: Any, client: RegistryClient) -> None:
    events = client.watch(silence_seconds=2)
    connection = await start(fake, events)
    following = asyncio.create_task(anext(events))
    for _ in range(25):
        connection.heartbeat(5)
        await asyncio.sleep(0.1)
    connection.activated(6, "yolo", 2)
    assert isinstance(await following, Activated)


async def test_a_registry_restored_from_a_copy_tells_everything_again(fake: Any, client: RegistryClient) -> None:
    events = client.watch(backoff=QUICK)
    connection = await start(fake, events)
    connection.end()
    assert isinstance(await anext(events), Disconnected)
    again = asyncio.create_task(anext(events))
    connection = await accept(fake)
    connection.activated(2, "yolo", 1, uid="uid-2", reset=True)
    connection.synced(2, uid="uid-2", reset=True)
    assert await again == Activated(model("yolo", 1), "uid-2", 2, reset=True)
    assert await anext(events) == Synced("uid-2", 2, reset=True)


async def test_starts_before_the_registry_does(fake: Any, client: RegistryClient) -> None:
    await asyncio.to_thread(fake.kill)
    events = client.watch(backoff=QUICK)
    assert isinstance(await anext(events), Disconnected)
    fake.start()
    synced = asyncio.create_task(skip_failures(events))
    (await accept(fake)).synced(1, reset=True)
    assert await synced == Synced("uid-1", 1, reset=True)


async def test_closing_the_client_ends_a_connected_watch(fake: Any) -> None:
    client = RegistryClient(fake.address)
    events = client.watch()
    await start(fake, events)
    rest = asyncio.create_task(drain(events))
    await asyncio.sleep(0)
    await client.close()
    assert await rest == []


async def test_closing_the_client_ends_a_pause(fake: Any) -> None:
    client = RegistryClient(fake.address)
    events = client.watch(backoff=Backoff(3600, 3600))
    first = asyncio.create_task(anext(events))
    (await accept(fake)).end()
    assert isinstance(await first, Disconnected)
    rest = asyncio.create_task(drain(events))
    await asyncio.sleep(0)
    await client.close()
    assert await rest == []


async def test_cancelling_the_reader_cancels_the_call(fake: Any, client: RegistryClient) -> None:
    events = client.watch()
    connection = await start(fake, events)
    reader = asyncio.create_task(anext(events))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await asyncio.to_thread(connection.ended.wait, 15)


async def skip_failures(events: AsyncIterator[WatchEvent]) -> WatchEvent:
    """Return the next event that is not a failed attempt."""
    return await anext(event async for event in events if not isinstance(event, Disconnected))


async def drain(events: AsyncIterator[WatchEvent]) -> list[WatchEvent]:
    return [event async for event in events]
