"""What a call brings: bytes that are a request or not, one or a stream of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError


class UnreadableRequest(Exception):  # noqa: N818 - says what it is
    """The bytes of a request are no message of its type."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"request: expected a message as the .proto describes it, got other bytes: {reason}")


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
        return checked(request)

    def close(self) -> None:
        """Begin no more reads: gRPC does not survive one of a call that has ended."""
        self._closed = True


def reader(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """The deserializer, giving the error that it raises for bytes that it cannot read: `checked` raises it."""
    if deserializer is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError as error:
            return UnreadableRequest(str(error))

    return read


def checked(request: Any) -> Any:
    """`request`, if `reader` could read it. Raises UnreadableRequest."""
    if isinstance(request, UnreadableRequest):
        raise request
    return request


def _look(reading: asyncio.Task[Any]) -> None:
    """Asyncio would complain of an error that nobody looks at: that of a read which outlived its call."""
    if not reading.cancelled():
        reading.exception()
