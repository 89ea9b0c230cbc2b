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
    while not isinstance(synced := asyncio.create_task(anext(events)), Synced):
        done, _ = await asyncio.wait([synced, asyncio.create_task(accept(fake))], return_when="FIRST_COMPLETED")
        if synced not in done:
            break
        assert isinstance(synced.result(), Disconnected)
    connection = done.pop().result()
    # Other changes of revision 10 may have been lost with the connection, so it asks for all since the heartbeat.
    assert (connection.request.registry_uid, connection.request.revision) == ("uid-1", 9)
    connection.activated(10, "yolo", 2)
    connection.activated(10, "other", 1)
    connection.synced(10)
    assert await synced == Activated(model("other", 1), "uid-1", 10, reset=False)
    assert await anext(events) == Synced("uid-1", 10, reset=False)
