"""The registry file as text: strict JSON in, readable JSON out, and where in the text a value stands."""

# ruff: noqa: N818 - each name says what happened.

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed leaves it out
from typing import Any, Protocol

Raw = Mapping[str, Any]
Where = tuple[str | int, ...]
"""Path to a value: keys and list positions from the top, for instance ("models", 3, "version")."""


class Item(Protocol):
    """A value of a document that knows its fingerprint."""

    @property
    def raw(self) -> Raw: ...

    @property
    def fingerprint(self) -> bytes: ...


class MalformedText(ValueError):
    """The bytes are not the JSON that a registry file may hold. `position` is a character offset into `text`."""

    def __init__(self, reason: str, text: str = "", position: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line, self.column = line_and_column(text, position)


def parse(data: bytes) -> dict[str, Any]:
    """Read a registry file. Raises MalformedText for anything that could not be written back without loss."""
    document = read(data)
    if not isinstance(document, dict):
        raise MalformedText('expected an object with the key "models"', decode(data), 0)
    return document


def read(data: bytes) -> Any:
    """Read any JSON, as strictly as a registry file. Raises MalformedText."""
    text = decode(data)
    try:
        document = json.loads(
            text, object_pairs_hook=_unique_pairs, parse_constant=_no_constant, parse_float=_finite_float
        )
        if "\\ud" in text.lower():  # escapes may spell half a surrogate pair, which is not text
            json.dumps(document, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise MalformedText(f"not valid JSON: {error.msg}", text, error.pos) from None
    except RecursionError:
        raise MalformedText("not readable: nested too deeply") from None
    except UnicodeEncodeError:
        raise MalformedText("not valid JSON: a string holds half a surrogate pair") from None
    except _Unacceptable as error:
        raise MalformedText(f"not valid JSON: {error}", text, max(text.rfind(error.token), 0)) from None
    except ValueError as error:  # an integer of thousands of digits
        raise MalformedText(f"not valid JSON: {error}") from None
    return document


def decode(data: bytes) -> str:
    """The file's text; a byte order mark is accepted and dropped."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        readable = data[: error.start].decode("utf-8-sig")
        raise MalformedText("not valid UTF-8", readable, len(readable)) from None


def dump(document: Raw) -> bytes:
    """Write a document as this project lays it out: two spaces of indent, UTF-8, one final newline."""
    return _laid_out(document) + b"\n"


class Layout:
    """Writes documents as `dump` does, but each item of the lists only once for as long as it stays.

    Of a large registry a change writes little that is new; laying out all of it again takes most of the time.
    """

    def __init__(self) -> None:
        self._texts: dict[bytes, bytes] = {}

    def dump(self, head: Raw, lists: Mapping[str, Sequence[Item]]) -> bytes:
        """The document that `head` is with these lists in the places of its own."""
        texts: dict[bytes, bytes] = {}
        pieces: list[bytes] = []  # joined once, for they may be many megabytes
        for key, value in head.items():
            pieces += [b",\n  " if pieces else b"{\n  ", _laid_out(key), b": "]
            pieces += self._list(lists[key], texts) if lists.get(key) else [_laid_out(value, "  ")]
        self._texts = texts
        return b"".join([*pieces, b"\n}\n"])

    def _list(self, items: Sequence[Item], texts: dict[bytes, bytes]) -> list[bytes]:
        """The pieces of a list. An item's text begins with the comma that parts it from the one before."""
        known = self._texts
        pieces = [known.get(item.fingerprint) or b",\n    " + _laid_out(item.raw, "    ") for item in items]
        texts.update(zip([item.fingerprint for item in items], pieces, strict=True))
        pieces[0] = pieces[0].removeprefix(b",")
        return [b"[", *pieces, b"\n  ]"]


def compact(value: object) -> str:
    """A value of a document on one line, the same however it was laid out; key order counts."""
    return _compact(value)


def fingerprint(value: object) -> bytes:
    """SHA-256 of a value of a document as `compact` writes it."""
    return fingerprint_of(_compact(value))


def fingerprint_of(text: str) -> bytes:
    """The fingerprint of the value that `compact` writes like this."""
    return hashlib.sha256(text.encode()).digest()


def line_and_column(text: str, position: int) -> tuple[int, int]:
    """Line and column, both from 1, of a character offset."""
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def locate(text: str, where: Where) -> tuple[int, int]:
    """Line and column of the value that `where` leads to, or of the nearest value around it that exists."""
    position = _skip_space(text, 0)
    for step in where:
        found = next((start for key, start in _members(text, position) if key == step), None)
        if found is None:
            break
        position = found
    return line_and_column(text, position)


def same(left: object, right: object) -> bool:
    """Whether two values are equal as JSON: key order does not count, and true is not 1, as it is to Python."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def _laid_out(value: object, margin: str = "") -> bytes:
    """Strings hold no line breaks as JSON writes them, so every one is of the layout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return text.replace("\n", f"\n{margin}").encode()


_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def _members(text: str, position: int) -> Iterator[tuple[str | int, int]]:
    """Keys (or list positions) of the object or list that starts at `position`, with where each value starts."""
    kind, position = text[position], _skip_space(text, position + 1)
    index = 0
    while kind in "{[" and text[position] not in "}]":
        key: str | int = index
        if kind == "{":
            key, position = scanstring(text, position + 1, True)  # noqa: FBT003 - positional only
            position = _skip_space(text, _skip_space(text, position) + 1)
        yield key, position
        position = _skip_space(text, _DECODER.raw_decode(text, position)[1])
        if text[position] == ",":
            position = _skip_space(text, position + 1)
        index += 1


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


class _Unacceptable(ValueError):
    """Valid to the JSON reader, but not to be accepted; `token` is how it is spelt in the text."""

    def __init__(self, reason: str, token: str) -> None:
        super().__init__(reason)
        self.token = token


def _unique_pairs(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = json.dumps(next(key for key, count in counts.items() if count > 1), ensure_ascii=False)
        raise _Unacceptable(f"the key {twice} occurs twice in one object", twice)
    return result


def _no_constant(text: str) -> float:
    raise _Unacceptable(f"{text} is not a JSON number", text)


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Unacceptable(f"{text} is too large for a number", text)
    return value
