from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from videoai import RegistryClient, errors
from videoai.registry.v1 import registry_pb2
from videoai.watching import Activated, Backoff, Disconnected, Synced

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = Backoff(first_seconds=0.01, longest_seconds=0.05)


@pytest.fixture
def client(fake: Any) -> Iterator[RegistryClient]:
    with RegistryClient(fake.address) as client:
        yield client


def script(fake: Any, *connections: Any) -> threading.Thread:
    """Play one function for each connection, in the background."""

    def play() -> None:
        for connection in connections:
            connection(fake.accept())

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    return thread


def first(connection: Any) -> None:
    connection.activated(5, "yolo", 1, reset=True)
    connection.synced(5, reset=True)
    connection.heartbeat(6)


def test_resumes_after_the_server_was_killed(fake: Any, client: RegistryClient) -> None:
    requests = []

    def second(connection: Any) -> None:
        requests.append(connection.request)
        connection.activated(7, "yolo", 2)
        connection.synced(7)

    script(fake, first, second)
    events = client.watch(["yolo"], instance_id="replica-1", backoff=QUICK)
    model = registry_pb2.Model(model_name="yolo", version=1)
    assert next(events) == Activated(model, "uid-1", 5, reset=True)
    assert next(events) == Synced("uid-1", 5, reset=True)
    fake.kill()
    assert isinstance(next(events), Disconnected)
    fake.start()
    again = next(event for event in events if not isinstance(event, Disconnected))
    assert isinstance(again, Activated)
    assert (again.model.version, again.revision, again.reset) == (2, 7, False)
    assert next(events) == Synced("uid-1", 7, reset=False)
    assert requests[0].instance_id == "replica-1"
    assert (requests[0].registry_uid, requests[0].revision) in {("uid-1", 5), ("uid-1", 6)}


def test_silence_and_ends_are_told(fake: Any, client: RegistryClient) -> None:
    script(
        fake,
        lambda connection: None,
        lambda connection: connection.end(),
        lambda connection: connection.end(grpc.StatusCode.RESOURCE_EXHAUSTED),
        lambda connection: connection.end(grpc.StatusCode.UNIMPLEMENTED),
    )
    events = client.watch(silence_seconds=0.3, backoff=QUICK)
    lost = [next(events) for _ in range(3)]
    assert [event.reason for event in lost if isinstance(event, Disconnected)] == [
        "silent for 0.3 s",
        "the registry ended the stream",
        "RESOURCE_EXHAUSTED: scripted",
    ]
    with pytest.raises(errors.Unimplemented):
        next(events)


def test_closing_the_client_ends_a_connected_watch(fake: Any) -> None:
    client = RegistryClient(fake.address)
    events = client.watch()
    script(fake, first)
    assert isinstance(next(events), Activated)
    assert isinstance(next(events), Synced)
    threading.Timer(0.05, client.close).start()
    assert list(events) == []


def test_closing_the_client_ends_a_pause(fake: Any) -> None:
    client = RegistryClient(fake.address)
    events = client.watch(backoff=Backoff(3600, 3600))
    script(fake, lambda connection: connection.end())
    assert isinstance(next(events), Disconnected)
    threading.Timer(0.05, client.close).start()
    assert list(events) == []


def test_leaving_the_loop_cancels_the_call(fake: Any, client: RegistryClient) -> None:
    connections = []
    script(fake, lambda connection: (connections.append(connection), first(connection)))
    for event in client.watch():
        assert isinstance(event, Activated)
        break
    assert connections[0].ended.wait(15)
