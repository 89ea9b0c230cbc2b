"""The requests of a streaming call."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc


class Requests:
    """Iterates over the requests of the call behind `context`, in place of the iterator that gRPC gives.

    grpc.aio never frees the message that arrives for a read that was cancelled, nor a call whose own iterator was not
    read to its end. So a read that has begun is let finish here, at the latest with its call, whether or not somebody
    still waits for it; the next iteration takes what it brings.
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context
        self._reading: asyncio.Task[Any] | None = None
        self._closed = False

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Any:
        if self._closed:
            raise StopAsyncIteration
        reading = self._reading
        if reading is None:
            reading = self._reading = asyncio.create_task(self._context.read())
            reading.add_done_callback(_look)
        await asyncio.wait((reading,))
        self._reading = None
        request = reading.result()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return request

    def close(self) -> None:
        """Begin no more reads: gRPC does not survive one of a call that has ended."""
        self._closed = True


def _look(reading: asyncio.Task[Any]) -> None:
    """Asyncio would complain of an error that nobody looks at: that of a read which outlived its call."""
    if not reading.cancelled():
        reading.exception()
