"""Requests and answers as they cross the wire, with the large parts left out of protobuf's hands.

Protobuf copies every bytes field once when it parses and once when it is read. Raw tensors are found in the received
bytes instead and stay there, and in answers they are joined with what protobuf made of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server.tensors.datatypes import Buffer

RAW_INPUT = pb.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
RAW_OUTPUT = pb.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number
RESPONSE = pb.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}


@dataclass(frozen=True, slots=True)
class InferRequest:
    """`message` is without its raw_input_contents; these are `raw`, parts of the bytes received."""

    message: pb.ModelInferRequest
    raw: Sequence[Buffer] = ()


@dataclass(frozen=True, slots=True)
class InferResponse:
    """`message` is without its raw_output_contents; these are `raw`."""

    message: pb.ModelInferResponse
    raw: Sequence[Buffer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StreamResponse:
    """One message of an answering stream."""

    response: InferResponse
    error: str = ""


def parse_request(data: bytes) -> InferRequest:
    """The request in `data`. Raises DecodeError."""
    view = memoryview(data)
    rest: list[Buffer] = []
    raw: list[Buffer] = []
    for number, begin, value, end in _fields(view):
        if number == RAW_INPUT:
            raw.append(view[value:end])
        else:
            rest.append(view[begin:end])
    return InferRequest(pb.ModelInferRequest.FromString(b"".join(rest)), raw)


def serialise_response(response: InferResponse) -> bytes:
    """The bytes of an answer."""
    return b"".join(_parts(response))


def serialise_stream_response(response: StreamResponse) -> bytes:
    """The bytes of one message of an answering stream."""
    parts = list(_parts(response.response))
    head = pb.ModelStreamInferResponse(error_message=response.error).SerializeToString()
    return b"".join((head, _key(RESPONSE), _varint(sum(map(len, parts))), *parts))


def _parts(response: InferResponse) -> Iterator[Buffer]:
    yield response.message.SerializeToString()
    for raw in response.raw:
        yield _key(RAW_OUTPUT)
        yield _varint(len(raw))
        yield raw


def _fields(view: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Each field's number, and where it, its value if it is of bytes, and the next field begin. Raises DecodeError."""
    place, size = 0, len(view)
    while place < size:
        begin = place
        key, place = _read_varint(view, place)
        number, kind = key >> 3, key & 7
        if number == RAW_INPUT and kind != BYTES:
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
        yield number, begin, value, place


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


def _key(number: int) -> bytes:
    return _varint(number << 3 | BYTES)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
