"""The files of a model whose larger weights lie beside it ("external data"): which they are, and the digest of all.

The registry records that digest and inference servers check it, so both count it here. A model of one file has that
file's SHA-256. For one of several, it is the SHA-256 of what `sha256sum MODEL WEIGHTS...` prints in the model's folder,
the model first, then the others in the order of their bytes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto

MAX_WEIGHTS_FILES = 1000
MAX_NAME = 1024

_PLACE_KEYS = ("location", "offset", "length")


class BadWeights(Exception):  # noqa: N818 - says what is
    """A model's weights cannot be read from where it says they are; names the tensor or the file."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the values of one tensor lie: a file beside the model, and the bytes in it; no length is up to its end."""

    tensor: TensorProto
    location: str
    offset: int
    length: int | None

    def end_in(self, size: int) -> int:
        """The end of the bytes in a file of this size. Raises BadWeights where they reach beyond it."""
        end = size if self.length is None else self.offset + self.length
        if not self.offset <= end <= size:
            raise BadWeights(
                f"tensor {self.tensor.name[:100]!r}: expected bytes of {self.location!r}, which has {size},"
                f" got offset {self.offset} and length {self.length}"
            )
        return end


def weights_of(model: ModelProto) -> list[Weights]:
    """Where the model keeps weights outside of itself, wherever in it they belong. Raises BadWeights."""
    found = [_weights(tensor) for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    count = len(files_of(found))
    if count > MAX_WEIGHTS_FILES:
        raise BadWeights(f"expected weights in at most {MAX_WEIGHTS_FILES} files, found {count}")
    return found


def files_of(weights: Sequence[Weights]) -> tuple[str, ...]:
    """The names of the files with weights, each once, in the order in which they are digested."""
    return tuple(sorted({one.location for one in weights}, key=str.encode))


def open_beside(model: Path, location: str) -> BufferedReader:
    """Open a regular file in the folder of `model`, a path without links, or below it. Raises BadWeights."""
    check_location(location)
    real = Path(os.path.realpath(model.parent / location))
    if not real.is_relative_to(model.parent):
        raise BadWeights(f"weights {location!r}: expected a file in the model's folder once links are followed")
    if real == model:
        raise BadWeights(f"weights {location!r}: expected another file than the model itself")
    try:
        # Non-blocking, for opening a pipe would wait for its writer; no links, for all of them are resolved.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BadWeights(f"weights {location!r}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadWeights(f"weights {location!r}: expected a regular file")
    return os.fdopen(descriptor, "rb")


def combined_digest(digests: Sequence[tuple[str, str]]) -> str:
    """One SHA-256 for (name, SHA-256) of each file, the model first; that of the file where there is but one."""
    if len(digests) == 1:
        return digests[0][1]
    for name, _ in digests:
        if not _is_plain(name):
            raise BadWeights(f"the file {name[:100]!r}: expected a name without backslash and control characters")
    return hashlib.sha256("".join(f"{sha256}  {name}\n" for name, sha256 in digests).encode()).hexdigest()


def check_location(location: str) -> str:
    """The spelling alone. Raises BadWeights."""
    parts = location.split("/")
    if not _is_plain(location) or len(location) > MAX_NAME or any(part in ("", ".", "..") for part in parts):
        raise BadWeights(
            f"weights {location[:100]!r}: expected a path in the model's folder, with forward slashes, without '.',"
            " '..', backslash and control characters"
        )
    return location


def _is_plain(name: str) -> bool:
    """Whether sha256sum prints the name as it is, so that nothing else can print the same."""
    return "\\" not in name and all(character.isprintable() for character in name)


def _weights(tensor: TensorProto) -> Weights:
    place = _place(tensor)
    try:
        location = check_location(place.get("location", ""))
    except BadWeights as error:
        raise BadWeights(f"tensor {tensor.name[:100]!r}: {error}") from None
    offset = _number(tensor, "offset", place.get("offset", "0"))
    length = _number(tensor, "length", place["length"]) if "length" in place else None
    return Weights(tensor, location, offset, length)


def _place(tensor: TensorProto) -> dict[str, str]:
    place: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in place:
            raise BadWeights(f"tensor {tensor.name[:100]!r}: expected one {entry.key}, got two")
        if entry.key in _PLACE_KEYS:
            place[entry.key] = entry.value
    return place


def _number(tensor: TensorProto, key: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise BadWeights(f"tensor {tensor.name[:100]!r}: {key}: expected a whole number of bytes, got {value[:40]!r}")
    return int(value)


def _tensors(message: Any) -> Iterator[TensorProto]:
    """Every tensor anywhere in a message of ONNX."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        # Tensors hold none, and listing their fields would copy the weights.
        for item in (value,) if hasattr(value, "ListFields") else value:
            if isinstance(item, TensorProto):
                yield item
            else:
                yield from _tensors(item)
