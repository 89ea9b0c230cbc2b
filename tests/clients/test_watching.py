from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from videoai.registry.v1 import registry_pb2
from videoai.watching import Activated, Backoff, Cleared, Follower, Synced

Message = registry_pb2.WatchProductionResponse


def activated(revision: int, name: str, version: int, *, reset: bool = False) -> Message:
    event = registry_pb2.Activated(model=registry_pb2.Model(model_name=name, version=version))
    return Message(registry_uid="u", revision=revision, reset=reset, activated=event)


def synced(revision: int, *, reset: bool = False) -> Message:
    return Message(registry_uid="u", revision=revision, reset=reset, synced=registry_pb2.Synced())


def heartbeat(revision: int) -> Message:
    return Message(registry_uid="u", revision=revision, heartbeat=registry_pb2.Heartbeat())


def position(follower: Follower) -> tuple[str, int] | None:
    request = follower.request()
    return (request.registry_uid, request.revision) if request.HasField("revision") else None


def test_first_request_has_no_position() -> None:
    request = Follower(["a", "b"], "me").request()
    assert request == registry_pb2.WatchProductionRequest(model_names=["a", "b"], instance_id="me")
    assert not request.HasField("registry_uid")


def test_nothing_is_remembered_before_synced() -> None:
    follower = Follower([], "")
    follower.take(activated(3, "a", 1, reset=True))
    follower.take(heartbeat(3))
    assert position(follower) is None
    follower.take(synced(3))
    assert position(follower) == ("u", 3)


def test_a_resumed_connection_lost_before_synced_keeps_the_old_position() -> None:
    follower = Follower([], "")
    follower.take(synced(3))
    follower.request()
    follower.take(activated(7, "a", 1))
    follower.take(heartbeat(8))
    assert position(follower) == ("u", 3)


def test_an_event_does_not_move_the_position_but_a_heartbeat_does() -> None:
    follower = Follower([], "")
    follower.take(synced(3))
    follower.take(activated(4, "a", 1))
    assert follower.take(heartbeat(5)) is None
    follower.take(activated(6, "a", 2))
    assert position(follower) == ("u", 5)


def test_what_is_told_again_is_no_news_unless_it_resets() -> None:
    follower = Follower([], "")
    assert isinstance(follower.take(activated(4, "a", 1)), Activated)
    assert follower.take(activated(4, "a", 1)) is None
    assert follower.take(activated(5, "a", 1)) is None
    assert isinstance(follower.take(activated(5, "a", 1, reset=True)), Activated)
    assert isinstance(follower.take(activated(6, "a", 2)), Activated)
    cleared = Message(registry_uid="u", revision=7, cleared=registry_pb2.Cleared(model_name="a"))
    assert follower.take(cleared) == Cleared("a", "u", 7, reset=False)
    assert follower.take(cleared) is None
    assert isinstance(follower.take(activated(8, "a", 2)), Activated)
    assert follower.take(synced(8)) == follower.take(synced(8)) == Synced("u", 8, reset=False)


def test_an_event_of_a_later_release_is_ignored() -> None:
    assert Follower([], "").take(Message(registry_uid="u", revision=1)) is None


def test_one_name_as_a_string_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a sequence of names, got the string 'yolo'"):
        Follower("yolo", "")


@given(st.floats(0.001, 10), st.floats(1, 100))
def test_backoff_doubles_up_to_the_longest(first: float, factor: float) -> None:
    longest = first * factor
    steps = [min(first * 2**n, longest) for n in range(12)]
    for delay, step in zip(islice(Backoff(first, longest).delays(), 12), steps, strict=True):
        assert step / 2 <= delay <= step * 1.000001


def test_backoff_differs_between_clients() -> None:
    assert len({next(Backoff().delays()) for _ in range(20)}) > 1
