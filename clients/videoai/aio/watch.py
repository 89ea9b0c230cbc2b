"""The reconnecting watch of production, for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import grpc

from videoai.registry.v1 import registry_pb2
from videoai.watching import STREAM_ENDED, Backoff, Disconnected, Follower, Synced, retry_reason, silence_reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from videoai.watching import WatchEvent

    Message = registry_pb2.WatchProductionResponse
    Method = grpc.aio.UnaryStreamMultiCallable[registry_pb2.WatchProductionRequest, Message]
    Stream = grpc.aio.UnaryStreamCall[registry_pb2.WatchProductionRequest, Message]


class Watch:
    """One watch over any number of connections."""

    def __init__(
        self, method: Method, follower: Follower, *, silence_seconds: float, backoff: Backoff, closed: asyncio.Event
    ) -> None:
        self._method = method
        self._follower = follower
        self._silence = silence_seconds
        self._backoff = backoff
        self._closed = closed

    async def events(self) -> AsyncIterator[WatchEvent]:
        """Yield events until the client is closed."""
        delays = self._backoff.delays()
        while not self._closed.is_set():
            call = self._method(self._follower.request())
            try:
                while not isinstance(received := await self._receive(call), str):
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
                await self._pause(delay)

    async def _receive(self, call: Stream) -> Message | str:
        """Return the next message, or why there is none."""
        try:
            async with asyncio.timeout(self._silence):
                message = await call.read()
        except TimeoutError:
            return silence_reason(self._silence)
        except grpc.RpcError as error:
            return retry_reason(error)
        except asyncio.CancelledError:
            return self._why_cancelled()
        return STREAM_ENDED if message is grpc.aio.EOF else cast("Message", message)

    def _why_cancelled(self) -> str:
        """Closing the channel cancels the call, which looks as if the task had been cancelled."""
        task = asyncio.current_task()
        if self._closed.is_set() and not (task and task.cancelling()):
            return "the client was closed"
        raise

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
