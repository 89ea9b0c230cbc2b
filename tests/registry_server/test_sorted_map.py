"""Against a dict that is sorted whenever it is asked, with chunks so small that a few items need many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server import sorted_map
from registry_server.sorted_map import SortedMap

keys = st.integers(0, 40)
changes = st.lists(st.tuples(keys, st.sampled_from(["put", "without"])), max_size=80)


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_map, "MOST", 3)
        yield


def check(found: SortedMap[int, object], expected: dict[int, object]) -> None:
    assert list(found.items()) == sorted(expected.items())
    assert list(found.in_order()) == [value for _, value in sorted(expected.items())]
    assert len(found) == len(expected)
    assert found.last() == max(expected.items(), default=None)
    for key in range(-1, 42):
        assert found.get(key) is expected.get(key)
        assert [item[0] for item in found.after(key)] == sorted(other for other in expected if other > key)
        before = found.before(key)
        assert (before and before[0]) == max((other for other in expected if other < key), default=None)


@given(st.dictionaries(keys, st.integers()), changes)
def test_it_is_a_sorted_dict_and_changes_only_copies(start: dict[int, int], steps: list[tuple[int, str]]) -> None:
    expected: dict[int, object] = dict(start)
    found: SortedMap[int, object] = SortedMap.of(expected.items())
    check(found, expected)
    for key, action in steps:
        before, known = found, dict(expected)
        if action == "put":
            expected[key] = object()
            found = found.put(key, expected[key])
        elif key in expected:
            del expected[key]
            found = found.without(key)
        else:
            with pytest.raises(KeyError):
                found.without(key)
        check(before, known)
        touched = {key} if found is not before else set()
        assert before.differences(found) == found.differences(before) == touched
    check(found, expected)
    fresh: SortedMap[int, object] = SortedMap.of(start.items())
    assert fresh.differences(found) == {
        key for key in start.keys() | expected.keys() if start.get(key) is not expected.get(key)
    }


def test_a_change_copies_one_chunk() -> None:
    before = SortedMap.of((key, str(key)) for key in range(1000))
    after = before.put(500, "other")
    unlike = [chunk for chunk in after._chunks if not any(chunk is other for other in before._chunks)]
    assert len(unlike) == 1
