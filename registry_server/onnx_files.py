"""Reads what an ONNX file says about itself, and passes over its weights: they may be gigabytes, and are not wanted.

A file is one protobuf message, and its graph's weights are most of it. So the fields are walked by hand as far as those
tensors, whose values are passed over; the rest is small, and is parsed as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BufferedReader

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

# Wire types.
VARINT, LENGTH = 0, 2
FIXED_BYTES = {1: 8, 5: 4}

MAX_FIELDS = 2_000_000
"""To walk by hand: nodes and weights, and what is in the weights. Large graphs have some ten thousand of them."""

_VALUES = ("float_data", "int32_data", "string_data", "int64_data", "raw_data", "double_data", "uint64_data")
_MAX_VARINT_BYTES = 10

Rewrite = Callable[["_Walk", int], bytes]


class NotReadable(Exception):  # noqa: N818 - says what is
    """The file is no protobuf message of ONNX, or it is cut short."""


def read_model(file: BufferedReader) -> ModelProto:
    """The model in a file that is open at its beginning, the values of its weights left out. Raises NotReadable."""
    end = file.seek(0, 2)
    file.seek(0)
    try:
        return ModelProto.FromString(_model(_Walk(file), end))
    except DecodeError as error:
        raise NotReadable(str(error)) from error


class _Walk:
    """Goes through a file, field by field."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._fields = 0

    def message(self, end: int, rewrites: Mapping[int, Rewrite]) -> bytes:
        """The message from here to `end`; what is in fields of `rewrites` is what those make of it."""
        kept = bytearray()
        while self._file.tell() < end:
            tag = self._varint()
            kept += _encoded(tag) + self._value(tag, end, rewrites)
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise NotReadable(f"more than {MAX_FIELDS} fields")
        if self._file.tell() != end:
            raise NotReadable("a field reaches beyond its message")
        return bytes(kept)

    def copy(self, end: int) -> bytes:
        wanted = end - self._file.tell()
        data = self._file.read(wanted)
        if len(data) != wanted:
            raise NotReadable("cut short")
        return data

    def skip(self, end: int) -> bytes:
        self._file.seek(end)
        return b""

    def _value(self, tag: int, end: int, rewrites: Mapping[int, Rewrite]) -> bytes:
        wire = tag & 7
        if wire == VARINT:
            return _encoded(self._varint())
        if wire in FIXED_BYTES:
            return self.copy(self._file.tell() + FIXED_BYTES[wire])
        if wire != LENGTH:
            raise NotReadable(f"wire type {wire}")
        stop = self._varint() + self._file.tell()
        if stop > end:
            raise NotReadable("a field reaches beyond its message")
        content = rewrites.get(tag >> 3, _Walk.copy)(self, stop)
        return _encoded(len(content)) + content

    def _varint(self) -> int:
        value = 0
        for position in range(_MAX_VARINT_BYTES):
            byte = self._file.read(1)
            if not byte:
                raise NotReadable("cut short")
            value |= (byte[0] & 0x7F) << 7 * position
            if byte[0] < 0x80:
                return value
        raise NotReadable("a number of more than 64 bits")


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(message: type[ModelProto | GraphProto | TensorProto], field: str) -> int:
    return message.DESCRIPTOR.fields_by_name[field].number


_IN_TENSOR = {_number(TensorProto, name): _Walk.skip for name in _VALUES}


def _tensor(walk: _Walk, end: int) -> bytes:
    return walk.message(end, _IN_TENSOR)


def _graph(walk: _Walk, end: int) -> bytes:
    return walk.message(end, {_number(GraphProto, "initializer"): _tensor})


def _model(walk: _Walk, end: int) -> bytes:
    return walk.message(end, {_number(ModelProto, "graph"): _graph})
