"""A shelf that came about by changes is like one that was filled at once."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from registry_server.entry import Entry, read_entry
from registry_server.shelf import Shelf

names, versions = st.sampled_from("abc"), st.integers(1, 4)
statuses = st.sampled_from(["staging", "archived", "production"])


def entry(name: str, version: int, status: str = "staging", **more: Any) -> Entry:
    raw = {"model_name": name, "version": version, "path": "models/m.onnx", "status": status, **more}
    return read_entry({**raw, "request_id": f"{name}{version}"} if version % 2 else raw)


def filled(entries: list[Entry]) -> Shelf:
    return Shelf.of(enumerate(entries, 1))


def facts(shelf: Shelf) -> dict[str, Any]:
    return {
        "order": shelf.in_order,
        "found": {key: shelf.find(key) for key in shelf.index},
        "production": dict(shelf.production),
        "requests": dict(shelf.requests),
        "counts": {status: count for status, count in shelf.counts.items() if count},
        "seal": shelf.seal,
    }


@given(st.lists(st.tuples(names, versions, statuses, st.booleans()), max_size=40))
def test_changes_lead_where_filling_leads(steps: list[tuple[str, int, str, bool]]) -> None:
    shelf, expected = filled([]), dict[tuple[str, int], Entry]()
    for name, version, status, leaves in steps:
        there = expected.get((name, version))
        others = (e for e in expected.values() if e.model_name == name and e is not there)
        if leaves and there:
            shelf = shelf.without(there.key)
            del expected[there.key]
        elif status != "production" or all(other.status != "production" for other in others):
            new = entry(name, version, status, note=len(expected))
            shelf = shelf.put(new)
            expected[new.key] = new
        assert facts(shelf) == facts(filled(list(expected.values())))


def test_the_seal_knows_content_and_order() -> None:
    one, two, three = entry("a", 1), entry("a", 2), entry("b", 1)
    orders = [[one, two, three], [two, one, three], [three, two, one], [one, two], [two, three], []]
    assert len({filled(order).seal for order in orders}) == len(orders)
    assert filled([one, two]).seal != filled([one, entry("a", 2, note=None)]).seal
