"""Messages that come from processes that nobody trusts."""

from __future__ import annotations

from typing import Any

import pytest

from inference_server.video import wire


def test_messages_survive_any_cut() -> None:
    messages = [{"type": "a", "n": 1}, {"type": "b", "text": "ü" * 300}, {}]
    data = b"".join(wire.pack(message) for message in messages)
    for size in (1, 3, 7, 1000):
        unpacker = wire.Unpacker()
        found = [m for at in range(0, len(data), size) for m in unpacker.feed(data[at : at + size])]
        assert found == messages


@pytest.mark.parametrize(
    "data",
    [
        (wire.MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"),
        b"\0\0\0\x02no",
        b"\0\0\0\x02[]",
        b"\0\0\0\x04\xff\xff\xff\xff",
        (60_000).to_bytes(4, "big") + b"[" * 60_000,
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(wire.ProtocolError):
        list(wire.Unpacker().feed(data))


@pytest.mark.parametrize("value", [None, True, 1.0, "1", -1, 11, [1]])
def test_integers_are_integers_in_range(value: Any) -> None:
    with pytest.raises(wire.ProtocolError, match=r"^n: expected 0\.\.10"):
        wire.integer({"n": value}, "n", 0, 10)


@pytest.mark.parametrize("value", [None, True, "1", float("nan"), float("inf")])
def test_numbers_are_finite(value: Any) -> None:
    with pytest.raises(wire.ProtocolError, match=r"^n: expected a number"):
        wire.number({"n": value}, "n")


def test_text_and_flags_are_what_they_say() -> None:
    with pytest.raises(wire.ProtocolError, match=r"^t: expected text"):
        wire.text({"t": 1}, "t")
    with pytest.raises(wire.ProtocolError, match=r"^f: expected true or false"):
        wire.flag({"f": 1}, "f")
