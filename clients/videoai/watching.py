"""What a reconnecting watch of production does, apart from the waiting: the sync and the asyncio watch share it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videoai import errors
from videoai.registry.v1 import registry_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import grpc

# Asking again will not help.
FATAL = (errors.InvalidArgument, errors.Unimplemented, errors.PermissionDenied, errors.Unauthenticated)

STREAM_ENDED = "the registry ended the stream"


@dataclass(frozen=True, slots=True)
class Activated:
    """`model` is in production. With `reset`, this is part of a whole state that replaces all that was known."""

    model: registry_pb2.Model
    registry_uid: str
    revision: int
    reset: bool


@dataclass(frozen=True, slots=True)
class Cleared:
    """`model_name` has no version in production."""

    model_name: str
    registry_uid: str
    revision: int
    reset: bool


@dataclass(frozen=True, slots=True)
class Synced:
    """The watch is connected and everything up to `revision` has been told. With `reset`, as a whole state."""

    registry_uid: str
    revision: int
    reset: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """An attempt to connect failed, or the connection was lost: why, and in how many seconds the next attempt comes."""

    reason: str
    retry_seconds: float


WatchEvent = Activated | Cleared | Synced | Disconnected


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts: they double from first to longest; each is a random half to whole of its step."""

    first_seconds: float = 1.0
    longest_seconds: float = 30.0

    def delays(self) -> Iterator[float]:
        step = self.first_seconds
        while True:
            yield step * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
            step = min(step * 2, self.longest_seconds)


class Follower:
    """Turns messages into events and remembers where to resume."""

    def __init__(self, model_names: Sequence[str], instance_id: str) -> None:
        if isinstance(model_names, str):
            raise TypeError(f"model_names: expected a sequence of names, got the string {model_names!r}")
        self._names = tuple(model_names)
        self._instance_id = instance_id
        self._position: tuple[str, int] | None = None
        self._synced = False
        self._told: dict[str, registry_pb2.Model | None] = {}

    def request(self) -> registry_pb2.WatchProductionRequest:
        """Return the request of the next connection."""
        self._synced = False
        request = registry_pb2.WatchProductionRequest(model_names=self._names, instance_id=self._instance_id)
        if self._position is not None:
            request.registry_uid, request.revision = self._position
        return request

    def take(self, message: registry_pb2.WatchProductionResponse) -> Activated | Cleared | Synced | None:
        """Return what `message` means to the watcher; None if it is news to nobody."""
        match message.WhichOneof("event"):
            case "activated":
                model = message.activated.model
                if self._is_news(message, model.model_name, model):
                    return Activated(model, message.registry_uid, message.revision, message.reset)
            case "cleared":
                name = message.cleared.model_name
                if self._is_news(message, name, None):
                    return Cleared(name, message.registry_uid, message.revision, message.reset)
            case "synced":
                self._synced = True
                self._remember(message)
                return Synced(message.registry_uid, message.revision, message.reset)
            case "heartbeat" if self._synced:
                self._remember(message)
        return None

    # Several changes can share a revision, so having one of them is not having all of the revision: only synced and
    # heartbeat, which come after everything before them, are places to resume from. What is then told again is no news.
    def _remember(self, message: registry_pb2.WatchProductionResponse) -> None:
        self._position = (message.registry_uid, message.revision)

    def _is_news(
        self, message: registry_pb2.WatchProductionResponse, name: str, model: registry_pb2.Model | None
    ) -> bool:
        known = name in self._told and self._told[name] == model
        self._told[name] = model
        return message.reset or not known


def retry_reason(error: grpc.RpcError) -> str:
    """Return why the watch lost its connection; raise where connecting again will not help."""
    failure = errors.from_grpc(error)
    if isinstance(failure, FATAL):
        raise failure from None
    return f"{failure.code.name}: {failure.details}"


def silence_reason(seconds: float) -> str:
    """Return the reason of a connection given up after `seconds` without a message."""
    return f"silent for {seconds:g} s"
