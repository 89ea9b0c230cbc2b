"""The guarantees of the watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs
from videoai.registry.v1 import registry_pb2 as pb

from registry_server.artifacts import ArtifactFolder
from registry_server.json_storage import JsonFileStorage
from registry_server.registry import open_registry
from registry_server.steps import Registration
from registry_server.watch import Told, WatchHub

Code = grpc.StatusCode


class Watch:
    """A watch on a running server."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._messages = aiter(call)

    async def next(self) -> pb.WatchProductionResponse:
        message: pb.WatchProductionResponse = await anext(self._messages)
        return message

    async def until(self, event: str) -> list[pb.WatchProductionResponse]:
        messages = [await self.next()]
        while messages[-1].WhichOneof("event") != event:
            messages.append(await self.next())
        return messages


@asynccontextmanager
async def watching(client: Any, *names: str, **request: Any) -> AsyncIterator[Watch]:
    call = client.stub.WatchProduction(pb.WatchProductionRequest(model_names=names, **request))
    try:
        yield Watch(call)
    finally:
        call.cancel()


def told(messages: list[pb.WatchProductionResponse]) -> dict[str, int]:
    """Version in production by name; 0 for cleared."""
    result = {}
    for message in messages:
        match message.WhichOneof("event"):
            case "activated":
                result[message.activated.model.model_name] = message.activated.model.version
            case "cleared":
                result[message.cleared.model_name] = 0
    return result


def position(message: pb.WatchProductionResponse) -> dict[str, Any]:
    return {"registry_uid": message.registry_uid, "revision": message.revision}


async def set_up(client: Any, root: Any, *names: str, versions: int = 2) -> None:
    """Register the versions of each model and put version 1 into production."""
    for name in names:
        for version in range(1, versions + 1):
            await client.register(name, version, root.add_model(name, version))
        await client.activate(name, 1)


async def test_an_empty_registry_is_synced_at_once(client: Any) -> None:
    async with watching(client) as watch:
        assert (await watch.next()).WhichOneof("event") == "synced"
    async with watching(client, "unknown") as watch:
        messages = await watch.until("synced")
    assert told(messages) == {"unknown": 0}


async def test_everything_asked_for_is_told_then_synced(root: Any, client: Any) -> None:
    await set_up(client, root, "a", "b", "c")
    await client.register("d", 1, root.add_model("d", 1))
    async with watching(client) as watch:
        messages = await watch.until("synced")
    assert told(messages) == {"a": 1, "b": 1, "c": 1, "d": 0}
    assert all(message.reset for message in messages)
    async with watching(client, "b", "x") as watch:
        assert told(await watch.until("synced")) == {"b": 1, "x": 0}
    current = await client.production("a")
    assert messages[-1].revision == current.revision
    assert {message.registry_uid for message in messages} == {root.document()["videoai"]["registry_uid"]}


async def test_changes_are_told_as_they_happen(root: Any, client: Any) -> None:
    await set_up(client, root, "a", "b")
    async with watching(client, "a") as watch:
        await watch.until("synced")
        await client.activate("b", 2)
        answer = await client.activate("a", 2)
        message = await watch.next()
    assert message.activated.model == answer.model
    assert message.revision == answer.revision
    assert not message.reset


async def test_models_of_the_future_are_told_to_those_who_watch_all(root: Any, client: Any) -> None:
    async with watching(client) as watch:
        await watch.until("synced")
        await set_up(client, root, "new", versions=1)
        assert told([await watch.next()]) == {"new": 1}


async def test_who_comes_back_is_told_what_changed_since(root: Any, client: Any) -> None:
    await set_up(client, root, "a", "b", "c")
    async with watching(client) as watch:
        last = (await watch.until("synced"))[-1]
    await client.activate("b", 2)
    async with watching(client, **position(last)) as watch:
        messages = await watch.until("synced")
    assert told(messages) == {"b": 2}
    assert not any(message.reset for message in messages)
    async with watching(client, **position(messages[-1])) as watch:
        assert told(await watch.until("synced")) == {}


@pytest.mark.parametrize("wrong", [{"registry_uid": "other"}, {"revision": 1_000_000}, {"revision": -5}])
async def test_who_comes_from_elsewhere_is_told_everything(root: Any, client: Any, wrong: dict[str, Any]) -> None:
    await set_up(client, root, "a", "b")
    async with watching(client) as watch:
        last = (await watch.until("synced"))[-1]
    async with watching(client, **{**position(last), **wrong}) as watch:
        messages = await watch.until("synced")
    assert told(messages) == {"a": 1, "b": 1}
    assert all(message.reset for message in messages)


async def test_a_restart_is_no_news(root: Any, serve: Any) -> None:
    async with serve(root) as client:
        await set_up(client, root, "a", "b")
        async with watching(client) as watch:
            last = (await watch.until("synced"))[-1]
    async with serve(root) as client:
        async with watching(client, **position(last)) as watch:
            messages = await watch.until("synced")
        assert told(messages) == {}
        await client.activate("b", 2)
        async with watching(client, **position(last)) as watch:
            messages = await watch.until("synced")
    assert told(messages) == {"b": 2}
    assert not any(message.reset for message in messages)


async def test_breaking_off_anywhere_loses_nothing(root: Any, client: Any) -> None:
    """Whatever message was the last one received, coming back with it brings the rest."""
    await set_up(client, root, "a", "b", "c")
    async with watching(client) as watch:
        start = (await watch.until("synced"))[-1]
    document = root.document()
    for entry in document["models"]:  # one edit that changes every model in one revision
        entry["status"] = "production" if entry["version"] == 2 else "staging"
    async with watching(client, **position(start)) as watch:
        await watch.until("synced")
        root.edit(document)
        await watch.next()  # the edit has been taken up
    for break_after in range(1, 4):
        async with watching(client, **position(start)) as watch:
            received = [await watch.next() for _ in range(break_after)]
        async with watching(client, **position(received[-1])) as watch:
            received += await watch.until("synced")
        assert told(received) == {"a": 2, "b": 2, "c": 2}


async def test_a_hand_edit_is_published(root: Any, client: Any) -> None:
    await set_up(client, root, "a")
    async with watching(client) as watch:
        synced = (await watch.until("synced"))[-1]
        document = root.document()
        document["models"][0]["status"] = "staging"
        document["models"][1]["status"] = "production"
        root.edit(document)
        message = await watch.next()
        assert told([message]) == {"a": 2}
        assert (message.registry_uid, message.revision) == (synced.registry_uid, synced.revision + 1)
        document["models"][1]["status"] = "staging"
        root.edit(document)
        assert told([await watch.next()]) == {"a": 0}
        answer = await client.activate("a", 1)
        message = await watch.next()
        assert (message.activated.model, message.revision) == (answer.model, synced.revision + 3)


@pytest.mark.parametrize("client", ["file:models/registry.json"], indirect=True)
async def test_an_invalid_edit_stops_changes_but_not_reads(root: Any, client: Any, fails: Any) -> None:
    await set_up(client, root, "a")
    good = root.file.read_text()
    bad = good.replace('"status": "staging"', '"status": "production"')
    with capture_logs() as logs:
        root.replace(bad)
        for _ in range(3):
            details = await fails(client.activate("a", 2), Code.FAILED_PRECONDITION)
            assert "registry.json:" in details
            assert "two versions in production" in details
        assert (await client.production("a")).model.version == 1
        assert root.file.read_text() == bad
        root.replace(good)
        assert (await client.activate("a", 2)).model.version == 2
    events = [entry["event"] for entry in logs if entry["event"].startswith("registry file")]
    assert events == [
        "registry file cannot be read; serving the last good state, refusing changes",
        "registry file can be read again",
    ]


async def test_an_older_copy_put_back_resets_the_watch(root: Any, client: Any) -> None:
    await set_up(client, root, "a", "b")
    copy = root.document()
    async with watching(client) as watch:
        await watch.until("synced")
        await client.activate("b", 2)
        before = await watch.next()
        root.edit(copy)
        messages = await watch.until("synced")
        assert told(messages) == {"a": 1, "b": 1}
        assert all(message.reset and message.registry_uid != before.registry_uid for message in messages)
    async with watching(client, **position(before)) as watch:
        assert all(message.reset for message in await watch.until("synced"))


async def test_revisions_never_go_down_and_the_last_state_arrives(root: Any, client: Any) -> None:
    await set_up(client, root, "a", "b", versions=3)

    async def change() -> None:
        for version in (*(1, 2) * 10, 3):
            for name in ("a", "b"):
                await client.activate(name, version)

    async with watching(client) as watch:
        received = await watch.until("synced")
        changing = asyncio.create_task(change())
        while told(received) != {"a": 3, "b": 3}:
            received.append(await watch.next())
        await changing
    revisions = [message.revision for message in received]
    assert revisions == sorted(revisions)
    assert revisions[-1] == (await client.production("b")).revision


async def test_a_watcher_that_stops_reading_holds_up_nobody_and_learns_the_last(root: Any, client: Any) -> None:
    await set_up(client, root, "a")
    note = pb.ModelMetadata(description="x" * 1_000_000)  # a few such messages fill the connection
    async with grpc.aio.insecure_channel(client.address) as channel:
        call = channel.unary_stream(
            "/videoai.registry.v1.ModelRegistryService/WatchProduction",
            request_serializer=pb.WatchProductionRequest.SerializeToString,
            response_deserializer=pb.WatchProductionResponse.FromString,
        )(pb.WatchProductionRequest())
        slow = Watch(call)
        await slow.until("synced")
        async with watching(client) as quick:
            await quick.until("synced")
            for turn in range(60):
                note.metrics["turn"] = turn
                request = pb.UpdateModelMetadataRequest(model_name="a", version=1, metadata=note)
                await client.stub.UpdateModelMetadata(request)
                assert (await quick.next()).activated.model.metadata.metrics["turn"] == turn
        turns = [-1]
        while turns[-1] != 59:
            turns.append(int((await slow.next()).activated.model.metadata.metrics["turn"]))
        call.cancel()
    print(f"{len(turns)} of 60 states were sent to the slow watcher")
    assert len(turns) < 50, "the slow watcher was sent every state, so all of them were kept for it"


async def test_heartbeats_carry_the_revision(root: Any, serve: Any) -> None:
    async with serve(root, heartbeat_seconds=0.01) as client, watching(client) as watch:
        await watch.until("synced")
        first, second = await watch.next(), await watch.next()
        assert {first.WhichOneof("event"), second.WhichOneof("event")} == {"heartbeat"}
        registered = await client.register("a", 1, root.add_model("a", 1))
        while (await watch.next()).revision < registered.revision:
            pass


async def test_too_many_watchers_are_refused_until_one_leaves(root: Any, serve: Any, fails: Any) -> None:
    async with serve(root, max_watchers=1) as client:
        async with watching(client) as watch:
            await watch.until("synced")
            async with watching(client) as surplus:
                assert "limit is 1" in await fails(surplus.next(), Code.RESOURCE_EXHAUSTED)
        served = False
        while not served:  # the server learns of the one that left a little later
            async with watching(client) as watch:
                with suppress(grpc.aio.AioRpcError):
                    served = bool(await watch.until("synced"))


async def test_watches_end_when_the_server_drains(client: Any) -> None:
    async with watching(client) as watch:
        await watch.until("synced")
        client.health.drain()
        with pytest.raises(StopAsyncIteration):
            await watch.next()


async def test_malformed_requests_are_refused(client: Any, fails: Any) -> None:
    async with watching(client, "Upper") as watch:
        assert "model_names" in await fails(watch.next(), Code.INVALID_ARGUMENT)
    async with watching(client, instance_id="x" * 129) as watch:
        assert "instance_id" in await fails(watch.next(), Code.INVALID_ARGUMENT)


async def test_the_rollout_shows_what_live_replicas_report(root: Any, client: Any, fails: Any) -> None:
    await set_up(client, root, "a", "b")

    async def report(instance: str, state: Any, version: int = 1, **more: Any) -> None:
        request = pb.ReportModelStateRequest(
            instance_id=instance, model_name="a", version=version, revision=3, state=state, **more
        )
        await client.stub.ReportModelState(request)

    async def rollout() -> pb.GetRolloutResponse:
        return await client.stub.GetRollout(pb.GetRolloutRequest(model_name="a"))

    await fails(client.stub.GetRollout(pb.GetRolloutRequest(model_name="none")), Code.NOT_FOUND)
    assert "instance_id" in await fails(report("r1", pb.MODEL_STATE_LOADING), Code.FAILED_PRECONDITION)
    async with (
        watching(client, instance_id="r2") as second,
        watching(client, "a", instance_id="r1") as first,
        watching(client, "b", instance_id="r3") as third,
        watching(client) as nameless,
    ):
        for watch in (first, second, third, nameless):
            await watch.until("synced")
        answer = await rollout()
        assert [(r.instance_id, r.state) for r in answer.replicas] == [("r1", 0), ("r2", 0)]
        assert (answer.production_version, answer.replicas[0].HasField("report_timestamp")) == (1, False)
        await fails(report("r3", pb.MODEL_STATE_LOADING), Code.FAILED_PRECONDITION)
        await fails(report("r1", pb.MODEL_STATE_UNSPECIFIED), Code.INVALID_ARGUMENT)
        await fails(report("r1", pb.MODEL_STATE_LOADING, version=0), Code.INVALID_ARGUMENT)
        await report("r1", pb.MODEL_STATE_APPLIED, running_version=1)
        await report("r2", pb.MODEL_STATE_REJECTED, error="e" * 5000)
        one, two = (await rollout()).replicas
        assert (one.seen_version, one.running_version, one.state, one.revision) == (1, 1, pb.MODEL_STATE_APPLIED, 3)
        assert (two.state, len(two.error), two.running_version) == (pb.MODEL_STATE_REJECTED, 4096, 0)
        assert one.HasField("connected_timestamp")
        assert one.HasField("report_timestamp")
    while (await rollout()).replicas:  # the server learns of the end of a watch a little later
        pass


async def test_a_hub_wakes_only_those_concerned(root: Any, client: Any) -> None:
    await set_up(client, root, "a", "b")
    call = client.stub.WatchProduction(pb.WatchProductionRequest(model_names=["a"]))
    watch = Watch(call)
    await watch.until("synced")
    await client.activate("b", 2)
    await client.activate("a", 2)
    assert told([await watch.next()]) == {"a": 2}
    call.cancel()


async def test_those_who_watch_hear_of_a_change_before_it_is_answered(root: Any) -> None:
    path = root.add_model("m", 1)
    async with open_registry(JsonFileStorage(root.file), ArtifactFolder(root.path)) as registry:
        hub = WatchHub(registry.state, max_watchers=10, heartbeat_seconds=60)
        registry.listen(hub.publish)
        heard = []

        async def listen(number: int) -> None:
            with hub.watch(None) as watcher:
                async for message in watcher.messages():
                    if isinstance(message.event, Told) and message.event.entry:
                        heard.append(number)
                        return

        listeners = [asyncio.create_task(listen(number)) for number in range(10)]
        await registry.register(Registration("m", 1, path, {}))
        await registry.activate("m", 1)
        assert sorted(heard) == [*range(10)]
        await asyncio.gather(*listeners)
