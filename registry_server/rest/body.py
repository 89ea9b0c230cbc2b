"""A request whose body is strict JSON, not too long, and comes in time."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from registry_server import document

MAX_BODY_BYTES = 2**20
MAX_LEVELS = 32
"""Deeper metadata could be stored, but no gRPC client could read it: protobuf gives up at 100 levels of its own."""
BODY_SECONDS = 10.0


class JsonRequest(Request):
    """What FastAPI takes a body from; `load` it first."""

    _bytes: bytes
    _value: Any

    async def load(self) -> None:
        """Read the body. Raises HTTPException."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # and so no page in a browser can send one unasked
            raise HTTPException(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type: expected application/json, got {kind!r}"
            )
        self._bytes = await self._read_in_time()
        try:
            self._value = document.read(self._bytes)
        except document.MalformedText as error:
            place = f"line {error.line}, column {error.column}"
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"body: {error.reason} ({place})") from None
        if _deeper_than(MAX_LEVELS, self._value):
            detail = f"body: expected objects and lists in at most {MAX_LEVELS} levels"
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, detail)

    async def body(self) -> bytes:
        return self._bytes

    async def json(self) -> Any:
        return self._value

    async def _read_in_time(self) -> bytes:
        if int(self.headers.get("content-length", 0)) > MAX_BODY_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._read()
        except TimeoutError:
            # What may still come belongs to this request, not to a next one.
            headers = {"Connection": "close"}
            detail = f"body: expected all of it within {BODY_SECONDS:g} s"
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, detail, headers) from None
        except ClientDisconnect:  # nobody hears this, but it is counted
            raise HTTPException(HTTPStatus.BAD_REQUEST, "body: expected more of it") from None

    async def _read(self) -> bytes:
        body = bytearray()
        async for chunk in self.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise _too_large()
        return bytes(body)


def _deeper_than(levels: int, value: object) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return items is not None and (levels == 0 or any(_deeper_than(levels - 1, item) for item in items))


def _too_large() -> HTTPException:
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body: expected at most {MAX_BODY_BYTES} bytes")
