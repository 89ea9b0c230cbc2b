"""The protocol's datatypes: as NumPy has them, as raw bytes, and as typed contents."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | memoryview

LENGTH = struct.Struct("<I")
# The fields of typed contents that hold several datatypes, and what their elements are.
TYPED: Mapping[str, Any] = {"int_contents": np.int32, "uint_contents": np.uint32}


@dataclass(frozen=True, slots=True)
class Datatype:
    """`name` on the wire, `dtype` as the engine names it, `item` the little-endian type of raw elements, `contents` the
    field of typed ones; `item` is None for BYTES, `contents` for what cannot be typed."""

    name: str
    dtype: str
    item: np.dtype[Any] | None
    contents: str | None

    def from_raw(self, raw: Buffer, count: int) -> NDArray[Any]:
        """`count` elements, flat; numbers stay where they lie. Raises ValueError saying what was expected."""
        if self.item is None:
            if count * LENGTH.size > len(raw):  # before there is room for what a shape only claims
                raise ValueError(f"{count} elements, each 4 bytes of its length and its bytes, got {len(raw)} bytes")
            return _strings(_elements(raw, count), count)
        if len(raw) != count * self.item.itemsize:
            raise ValueError(f"{count * self.item.itemsize} bytes for {count} elements of {self.name}, got {len(raw)}")
        array = np.frombuffer(raw, self.item)
        if not array.flags.aligned:  # the runtime's kernels count on it
            array = array.copy()
        return widened(array) if self.name == "BF16" else array

    def from_contents(self, values: Sequence[Any], count: int) -> NDArray[Any]:
        """The same from typed contents."""
        if len(values) != count:
            raise ValueError(f"{count} elements, got {len(values)}")
        if self.item is None:
            return _strings(values, count)
        wide = np.array(values, TYPED.get(self.contents or "", self.item))
        array = wide.astype(self.item)
        if self.item.kind in "iu" and not np.array_equal(wide, array):
            raise ValueError(f"values of {self.name}, got {wide[wide != array][0]}")
        return array

    def to_raw(self, array: NDArray[Any]) -> Buffer:
        """The elements as they go out; numbers stay where they lie if they can."""
        if self.item is None:
            encoded = [str(value).encode() for value in array.flat]
            return b"".join(part for value in encoded for part in (LENGTH.pack(len(value)), value))
        if self.name == "BF16":
            array = narrowed(array)
        return np.ascontiguousarray(array, self.item).data.cast("B") if array.size else b""


def _number(name: str, dtype: str, contents: str | None) -> Datatype:
    kind = "uint16" if name == "BF16" else dtype
    return Datatype(name, dtype, np.dtype(kind).newbyteorder("<"), contents)


DATATYPES: Mapping[str, Datatype] = {
    datatype.name: datatype
    for datatype in (
        _number("BOOL", "bool", "bool_contents"),
        _number("UINT8", "uint8", "uint_contents"),
        _number("UINT16", "uint16", "uint_contents"),
        _number("UINT32", "uint32", "uint_contents"),
        _number("UINT64", "uint64", "uint64_contents"),
        _number("INT8", "int8", "int_contents"),
        _number("INT16", "int16", "int_contents"),
        _number("INT32", "int32", "int_contents"),
        _number("INT64", "int64", "int64_contents"),
        _number("FP16", "float16", None),
        _number("BF16", "bfloat16", None),
        _number("FP32", "float32", "fp32_contents"),
        _number("FP64", "float64", "fp64_contents"),
        Datatype("BYTES", "object", None, "bytes_contents"),
    )
}
BY_DTYPE: Mapping[str, Datatype] = {datatype.dtype: datatype for datatype in DATATYPES.values()}


def widened(array: NDArray[Any]) -> NDArray[Any]:
    """bfloat16, as its bits in uint16, as float32."""
    return (array.astype(np.uint32) << 16).view(np.float32)


def narrowed(array: NDArray[Any]) -> NDArray[Any]:
    """float32 that came from bfloat16, as the bits of that in uint16."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _elements(raw: Buffer, count: int) -> Iterator[Buffer]:
    """The elements of a BYTES tensor. Raises ValueError."""
    place = 0
    for index in range(count):
        begin = place + LENGTH.size
        if begin > len(raw):
            raise ValueError(f"{count} elements, each 4 bytes of its length and its bytes, got {index} and a part")
        place = begin + LENGTH.unpack_from(raw, place)[0]
        if place > len(raw):
            raise ValueError(f"as many bytes as the length of element {index} says, got fewer")
        yield raw[begin:place]
    if place != len(raw):
        raise ValueError(f"{count} elements in {place} bytes, got {len(raw)} bytes")


def _strings(elements: Iterable[Buffer], count: int) -> NDArray[Any]:
    array = np.empty(count, object)
    for index, element in enumerate(elements):
        try:
            array[index] = str(element, "utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"text in UTF-8, got other bytes in element {index}") from None
    return array
