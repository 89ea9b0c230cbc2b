"""One version of one model: a checked view over the entry as it stands in the registry file."""

# ruff: noqa: N818 - each name says what happened.

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NoReturn, TypeGuard, TypeVar

from registry_server.document import Raw, Where, fingerprint
from registry_server.errors import InvalidField

MAX_VERSION = 2**31 - 1
MAX_TEXT = 128

T = TypeVar("T")

NAME = r"[a-z0-9][a-z0-9._-]{0,127}"
"""What a model may be called, as a regular expression."""

_NAME = re.compile(NAME)
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


class Status(StrEnum):
    """Where a version stands, spelt as in the file."""

    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, element type (Open Inference Protocol spelling) and shape (-1 = dynamic) of one input or output."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def as_raw(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Entry:
    """One version of one model. `raw` is the entry with all its keys, known or not; never changed in place.

    `fingerprint` is that of `raw`, taken once so that a digest of many entries does not read them all again.
    """

    raw: Raw = field(hash=False)  # of which the fingerprint tells
    model_name: str
    version: int
    path: str
    status: Status
    creation_timestamp: datetime | None
    activation_timestamp: datetime | None
    sha256: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    weights_files: tuple[str, ...]
    request_id: str
    fingerprint: bytes

    @property
    def key(self) -> tuple[str, int]:
        return self.model_name, self.version

    @property
    def metadata(self) -> Raw:
        """`description`, `metrics`, `attributes` and whatever else a person put there."""
        metadata: Raw = self.raw.get("metadata", {})
        return metadata


class InvalidEntry(Exception):
    """An entry cannot be read; `where` leads to the value within it."""

    def __init__(self, where: Where, reason: str) -> None:
        super().__init__(reason)
        self.where, self.reason = where, reason

    @property
    def field(self) -> str:
        """The value, as messages name it."""
        return _spelt(self.where)


def read_entry(raw: object) -> Entry:
    """Check an entry of the file and return the view of it. Raises InvalidEntry."""
    entry = _mapping(raw, (), "an object that describes one version")
    check_metadata(entry.get("metadata", {}))
    return Entry(
        raw=entry,
        model_name=_required(entry, "model_name", check_name),
        version=_required(entry, "version", check_version),
        path=_required(entry, "path", check_path),
        status=_required(entry, "status", check_status),
        creation_timestamp=read_timestamp(entry, "creation_timestamp"),
        activation_timestamp=read_timestamp(entry, "activation_timestamp"),
        sha256=_read_digest(entry),
        size_bytes=_read_count(entry, "size_bytes"),
        inputs=_read_specs(entry, "inputs"),
        outputs=_read_specs(entry, "outputs"),
        opset=_read_count(entry, "opset", below=2**32),
        weights_files=_read_names(entry, "weights_files"),
        request_id=_read_text(entry, "request_id"),
        fingerprint=fingerprint(entry),
    )


def check_metadata(raw: object) -> Raw:
    """The `metadata` of an entry or of a request. Raises InvalidEntry."""
    metadata = _mapping(raw, ("metadata",), "an object")
    if not isinstance(metadata.get("description", ""), str):
        _refuse(("metadata", "description"), "a string", metadata["description"])
    metrics = _mapping(metadata.get("metrics", {}), ("metadata", "metrics"), "an object of numbers")
    for name, value in metrics.items():
        if not is_number(value):
            _refuse(("metadata", "metrics", name), "a number", value)
    where = ("metadata", "attributes")
    _check_numbers(_mapping(metadata.get("attributes", {}), where, "an object"), where)
    return metadata


# Checks that requests and the file share. They raise InvalidField.


def check_name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidField("model_name", "1 to 128 of a-z 0-9 . _ - beginning with a letter or digit", value)
    return value


def check_version(value: object) -> int:
    if not is_integer(value) or not 1 <= value <= MAX_VERSION:
        raise InvalidField("version", f"a whole number of 1..{MAX_VERSION}", value)
    return value


def check_status(value: object) -> Status:
    if not isinstance(value, str) or value not in tuple(Status):
        raise InvalidField("status", f"one of {', '.join(Status)}", value)
    return Status(value)


def check_path(value: object) -> str:
    """The spelling alone; where the path leads on disk is looked up when the file is read."""
    expected = 'a path like "models/NAME/v1/model.onnx", with forward slashes, without "." or ".."'
    if not isinstance(value, str) or not value.startswith("models/") or "\\" in value or "\0" in value:
        raise InvalidField("path", expected, value)
    if any(part in ("", ".", "..") for part in value.split("/")):
        raise InvalidField("path", expected, value)
    return value


def check_digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise InvalidField("sha256", "64 hexadecimal digits", value)
    return value.lower()


def check_request_id(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        raise InvalidField("request_id", f"1 to {MAX_TEXT} characters", value)
    return value


def is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """A JSON number that a double can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:
        return False


def as_text(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Reading the parts of an entry. They raise InvalidEntry.


def read_timestamp(raw: Raw, key: str) -> datetime | None:
    """An RFC 3339 date and time; one without an offset is taken as UTC. None if the key is absent."""
    value = raw.get(key)
    if value is None and key not in raw:
        return None
    text = value if isinstance(value, str) and _TIMESTAMP.fullmatch(value) else ""
    try:
        moment = datetime.fromisoformat(text.upper())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        _refuse((key,), "a date and time like 2025-06-25T12:00:00Z", value)


def _read_digest(raw: Raw) -> str:
    return "" if raw.get("sha256", "") == "" else _required(raw, "sha256", check_digest)


def _read_count(raw: Raw, key: str, *, below: int = 2**63) -> int:
    value = raw.get(key, 0)
    if not is_integer(value) or not 0 <= value < below:
        _refuse((key,), f"a whole number >= 0 and < {below}", value)
    return value


def _read_names(raw: Raw, key: str) -> tuple[str, ...]:
    value = raw.get(key, [])
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        _refuse((key,), "a list of file names", value)
    return tuple(value)


def _read_text(raw: Raw, key: str) -> str:
    value = raw.get(key, "")
    if not isinstance(value, str):
        _refuse((key,), "a string", value)
    return value


def _read_specs(raw: Raw, key: str) -> tuple[TensorSpec, ...]:
    value = raw.get(key, [])
    if not isinstance(value, list):
        _refuse((key,), "a list", value)
    return tuple(_read_spec(item, (key, index)) for index, item in enumerate(value))


def _read_spec(raw: object, where: Where) -> TensorSpec:
    spec = _mapping(raw, where, "an object with name, datatype and shape")
    name, datatype, shape = spec.get("name"), spec.get("datatype"), spec.get("shape")
    if not isinstance(name, str) or not isinstance(datatype, str):
        _refuse(where, "a name and a datatype", raw)
    if not isinstance(shape, list) or not all(is_integer(length) and -1 <= length < 2**63 for length in shape):
        _refuse(where, "a shape: a list of whole numbers, -1 where dynamic", shape)
    return TensorSpec(name, datatype, tuple(shape))


def _check_numbers(value: object, where: Where) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_numbers(item, (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_numbers(item, (*where, index))
    elif is_integer(value) and not is_number(value):
        _refuse(where, "a number that a double can hold", value)


def _mapping(value: object, where: Where, expected: str) -> Raw:
    if not isinstance(value, Mapping):
        _refuse(where, expected, value)
    return value


def _required(raw: Raw, key: str, check: Callable[[object], T]) -> T:
    if key not in raw:
        raise InvalidEntry((), f'the key "{key}" is missing')
    try:
        return check(raw[key])
    except InvalidField as error:
        raise InvalidEntry((key,), str(error)) from None


def _refuse(where: Where, expected: str, value: object) -> NoReturn:
    raise InvalidEntry(where, str(InvalidField(_spelt(where), expected, value)))


def _spelt(where: Where) -> str:
    return ".".join(str(step) for step in where) or "entry"
