"""Requests and answers as they cross the wire, with the large parts left out of protobuf's hands.

Protobuf copies every bytes field once when it parses and once when it is read. Raw tensors are found in the received
bytes instead and stay there, and in answers they are joined with what protobuf made of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from google.protobuf.message import DecodeError
from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server.tensors.datatypes import Buffer

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}
MAX_KEY_BYTES = 5

# Heads that are kept, and how long they may be: typed tensors are in the head.
MAX_HEADS = 256
MAX_HEAD_BYTES = 2048


@dataclass(slots=True, eq=False)
class Head:
    """A request without its id and its raw tensors. Callers repeat it, so it is kept, with what was found out of it.

    `message` must not be changed. `known` is for whoever answers.
    """

    message: pb.ModelInferRequest
    known: Any = None


@dataclass(slots=True)
class InferRequest:
    """`raw` are the raw_input_contents, parts of the bytes received."""

    head: Head
    id: str = ""
    raw: Sequence[Buffer] = ()


@dataclass(slots=True)
class InferResponse:
    """`head` is the serialised message without its id and its raw_output_contents; these are `raw`."""

    head: bytes
    id: str = ""
    raw: Sequence[Buffer] = ()


@dataclass(slots=True)
class StreamResponse:
    """One message of an answering stream."""

    response: InferResponse
    error: str = ""


class RequestParser:
    """Reads requests, and keeps the heads of the last ones."""

    def __init__(self) -> None:
        self._known = lru_cache(MAX_HEADS)(_read_head)

    def parse(self, data: bytes) -> InferRequest:
        """The request in `data`. Raises DecodeError."""
        view = memoryview(data)
        rest: list[Buffer] = []
        raw: list[Buffer] = []
        identifier = ""
        for key, begin, value, end in _fields(view):
            if key == RAW_INPUT:
                raw.append(view[value:end])
            elif key == REQUEST_ID:
                identifier = _text(view[value:end])
            else:
                rest.append(view[begin:end])
        content = b"".join(rest)
        head = self._known(content) if len(content) <= MAX_HEAD_BYTES else _read_head(content)
        return InferRequest(head, identifier, raw)


def _read_head(content: bytes) -> Head:
    return Head(pb.ModelInferRequest.FromString(content))


def _text(value: memoryview) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError("id: expected UTF-8") from error


def serialise_response(response: InferResponse) -> bytes:
    """The bytes of an answer."""
    return b"".join(_parts(response))


def serialise_stream_response(response: StreamResponse) -> bytes:
    """The bytes of one message of an answering stream."""
    parts = _parts(response.response)
    head = pb.ModelStreamInferResponse(error_message=response.error).SerializeToString()
    return b"".join((head, _varint(RESPONSE), _varint(sum(map(len, parts))), *parts))


def _parts(response: InferResponse) -> list[Buffer]:
    """Protobuf reads messages one after the other as one that has the fields of all."""
    parts: list[Buffer] = [response.head]
    if response.id:
        identifier = response.id.encode()
        parts += _varint(RESPONSE_ID), _varint(len(identifier)), identifier
    for raw in response.raw:
        parts += _varint(RAW_OUTPUT), _varint(len(raw)), raw
    return parts


def _fields(view: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Each field's key, and where it, its value if it is of bytes, and the next field begin. Raises DecodeError."""
    place, size = 0, len(view)
    while place < size:
        begin = place
        key, place = _read_varint(view, place)
        if place - begin > MAX_KEY_BYTES:
            raise DecodeError("a field's number is too long")
        kind = key & 7
        if key >> 3 == RAW_INPUT >> 3 and kind != BYTES:
            raise DecodeError("raw_input_contents: expected bytes")
        value = place
        if kind == BYTES:
            length, value = _read_varint(view, place)
            place = value + length
        elif kind == VARINT:
            _, place = _read_varint(view, place)
        elif kind in FIXED:
            place += FIXED[kind]
        else:
            raise DecodeError(f"a field of kind {kind}")
        if place > size:
            raise DecodeError("the message ends within a field")
        yield key, begin, value, place


def _read_varint(view: memoryview, place: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = shift = 0
    while place < len(view) and shift < 64:
        byte = view[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise DecodeError("the message ends within a number, or one is too long")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _key(message: Any, field: str) -> int:
    """What a field of bytes begins with."""
    number: int = message.DESCRIPTOR.fields_by_name[field].number
    return number << 3 | BYTES


REQUEST_ID, RAW_INPUT = (_key(pb.ModelInferRequest, field) for field in ("id", "raw_input_contents"))
RESPONSE_ID, RAW_OUTPUT = (_key(pb.ModelInferResponse, field) for field in ("id", "raw_output_contents"))
RESPONSE = _key(pb.ModelStreamInferResponse, "infer_response")
