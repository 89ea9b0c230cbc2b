"""The reconnecting watch of production, for threads."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

import grpc

from videoai.registry.v1 import registry_pb2
from videoai.watching import STREAM_ENDED, Backoff, Disconnected, Follower, Synced, retry_reason, silence_reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videoai.watching import WatchEvent

    Message = registry_pb2.WatchProductionResponse
    Method = grpc.UnaryStreamMultiCallable[registry_pb2.WatchProductionRequest, Message]
    Inbox = queue.SimpleQueue[Message | grpc.RpcError | None]


class Watch:
    """One watch over any number of connections."""

    def __init__(
        self, method: Method, follower: Follower, *, silence_seconds: float, backoff: Backoff, closed: threading.Event
    ) -> None:
        self._method = method
        self._follower = follower
        self._silence = silence_seconds
        self._backoff = backoff
        self._closed = closed

    def events(self) -> Iterator[WatchEvent]:
        """Yield events until the client is closed."""
        delays = self._backoff.delays()
        while not self._closed.is_set():
            call = self._method(self._follower.request())
            try:
                inbox = _read_in_background(call)
                while not isinstance(received := self._receive(inbox), str):
                    event = self._follower.take(received)
                    if isinstance(event, Synced):
                        delays = self._backoff.delays()
                    if event is not None:
                        yield event
            finally:
                call.cancel()
            if not self._closed.is_set():
                delay = next(delays)
                yield Disconnected(received, delay)
                self._closed.wait(delay)

    def _receive(self, inbox: Inbox) -> Message | str:
        """Return the next message, or why there is none."""
        try:
            message = inbox.get(timeout=self._silence)
        except queue.Empty:
            return silence_reason(self._silence)
        if isinstance(message, grpc.RpcError):
            return retry_reason(message)
        return STREAM_ENDED if message is None else message


def _read_in_background(call: Iterator[Message]) -> Inbox:
    """Read `call` in a thread, because a synchronous read cannot be given a time limit of its own."""
    inbox: Inbox = queue.SimpleQueue()

    def read() -> None:
        try:
            for message in call:
                inbox.put(message)
            inbox.put(None)
        except grpc.RpcError as error:
            inbox.put(error)

    threading.Thread(target=read, name="videoai-watch", daemon=True).start()
    return inbox
