"""The registry file as text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from registry_server import document


@pytest.mark.parametrize(
    ("data", "place", "reason"),
    [
        (b'{"models": [}', (1, 13), "Expecting value"),
        (b'{\n  "models": [],}', (2, None), "not valid JSON"),
        (b'{"models": []', (1, None), "not valid JSON"),
        (b"", (1, 1), "Expecting value"),
        (b"[]", (1, 1), "expected an object"),
        (b'{\n "a": 1,\n "a": 2}', (3, 2), 'the key "a" occurs twice'),
        (b'{"a":\n NaN}', (2, 2), "NaN"),
        (b'{"a": 1e999}', (1, 7), "too large"),
        (b'{"a": "\\ud800"}', (1, 1), "surrogate"),
        (b'{"a": "\xff"}', (1, 8), "UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", (1, 1), "not valid JSON"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", (1, 1), "nested too deeply"),
    ],
)
def test_text_that_cannot_be_kept_is_refused_with_its_place(
    data: bytes, place: tuple[int, int | None], reason: str
) -> None:
    with pytest.raises(document.MalformedText, match=reason) as caught:
        document.parse(data)
    # Where exactly a missing or surplus comma is reported differs between versions of Python.
    assert caught.value.line == place[0]
    if place[1] is not None:
        assert caught.value.column == place[1]


def test_what_is_written_reads_back_the_same() -> None:
    value = {"z": [1, 2.5, None, True, "ü\n\U0001f3a5"], "a": {"models": {}}, "": 10**30}
    assert json.dumps(document.parse(document.dump(value))) == json.dumps(value)
    assert "ü".encode() in document.dump(value)


def test_a_byte_order_mark_is_accepted() -> None:
    assert document.parse(b'\xef\xbb\xbf{"models": []}') == {"models": []}


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ((), (1, 1)),
        (("models",), (2, 13)),
        (("models", 0), (3, 5)),
        (("models", 1, "b c"), (4, 13)),
        (("models", 1, "none"), (4, 5)),
        (("models", 9), (2, 13)),
        (("x", 0, 1), (6, 13)),
    ],
)
def test_a_value_is_located(where: document.Where, place: tuple[int, int]) -> None:
    text = '{\n  "models": [\n    {"a": {"b": [1, 2]}, "c": "x\\"}"},\n    {"b c": 1}\n  ]\n, "x": [[1, 2]]}'
    assert document.locate(text, where) == place


@dataclass(frozen=True)
class Item:
    raw: dict[str, Any]

    @property
    def fingerprint(self) -> bytes:
        return document.fingerprint(self.raw)


def test_what_stays_is_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[object] = []
    lay_out = document._laid_out
    monkeypatch.setattr(document, "_laid_out", lambda value, *rest: laid_out.append(value) or lay_out(value, *rest))
    layout, items = document.Layout(), [Item({"number": number}) for number in range(10)]
    layout.dump({"models": []}, {"models": items})
    laid_out.clear()
    items[3:5] = [Item({"number": "other"})]
    text = layout.dump({"models": []}, {"models": items})
    assert [value for value in laid_out if value != "models"] == [{"number": "other"}]
    assert json.loads(text) == {"models": [item.raw for item in items]}
    laid_out.clear()
    layout.dump({"models": []}, {"models": [Item({"number": 4})]})
    assert {"number": 4} in laid_out, "what has gone is forgotten"
