"""Which state follows which."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from registry_server import lineage
from registry_server.catalog import Catalog
from registry_server.lineage import State

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(version: int, status: str = "staging") -> dict[str, Any]:
    return {"model_name": "m", "version": version, "path": f"models/m/v{version}.onnx", "status": status}


def read(document: dict[str, Any]) -> Catalog:
    return Catalog.read(json.loads(json.dumps(document)))


def example(production: int = 1) -> Catalog:
    statuses = {production: "production"}
    return read({"models": [entry(version, statuses.get(version, "staging")) for version in (1, 2, 3)]})


def write(state: State, note: str) -> State:
    """A change through the server."""
    return lineage.written(lineage.advanced(state, state.catalog.with_rest("note", note)))


def edit(state: State, **changes: Any) -> Catalog:
    """A person's edit of the stored file that leaves the stamp as it is."""
    return read({**state.source.document, **changes})


def follow(state: State, source: Catalog) -> State:
    return lineage.follow(state, source, NOW)


def first(source: Catalog) -> State:
    return lineage.first(source, NOW)


def place(state: State) -> tuple[str, int]:
    return state.registry_uid, state.revision


def test_a_written_state_is_found_again() -> None:
    state = write(first(example()), "a")
    assert place(first(read(state.source.document))) == place(state)


def test_what_is_not_new_is_the_same_state() -> None:
    state = write(first(example()), "a")
    assert follow(state, state.source) is state
    assert follow(state, read(state.source.document)) is state


def test_an_edit_makes_a_revision_that_the_next_write_passes() -> None:
    state = write(first(example()), "a")
    edited = follow(state, edit(state, by="hand"))
    assert place(edited) == (state.registry_uid, state.revision + 1)
    again = follow(edited, edit(edited, by="another hand"))
    assert place(again) == (state.registry_uid, state.revision + 2)
    written = write(again, "b")
    assert place(written) == (state.registry_uid, state.revision + 3)
    assert written.source.rest["by"] == "another hand"


def test_a_file_that_was_never_written_can_be_edited() -> None:
    state = first(example())
    edited = follow(state, example(production=2))
    assert place(edited) == (state.registry_uid, state.revision + 1)


def test_an_edit_while_the_server_was_down_gets_a_new_uid() -> None:
    state = write(first(example()), "a")
    assert first(edit(state, by="hand")).registry_uid != state.registry_uid


def test_what_an_edit_did_to_production_is_found_at_the_next_start() -> None:
    state = write(follow(first(example(production=1)), example(production=2)), "a")
    assert [(r.previous, r.version) for r in state.source.history] == [(1, 2)]
    document = {**example(production=3).document, "history": state.source.document["history"]}
    edited = first(edit(state, **document))
    assert [(r.previous, r.version, r.edited) for r in edited.catalog.history] == [(1, 2, True), (2, 3, True)]
    assert edited.source.history == state.source.history  # it is written with the next change
    assert [r.version for r in write(edited, "b").source.history] == [2, 3]
    assert first(edit(state, **{**document, "models": []})).catalog.history[-1].version == 0
    assert first(edit(state, by="hand")).catalog.history == state.source.history


def test_an_older_copy_gets_a_new_uid() -> None:
    old = write(first(example()), "a")
    new = write(write(old, "b"), "c")
    restored = follow(new, read(old.source.document))
    assert restored.registry_uid != new.registry_uid
    assert restored.catalog.rest["note"] == "a"
    edited = follow(new, edit(old, by="hand"))
    assert edited.registry_uid != new.registry_uid
    written = write(restored, "d")
    back = follow(written, read(new.source.document))
    assert back.registry_uid not in {written.registry_uid, new.registry_uid}


def test_another_server_over_the_same_file_is_followed() -> None:
    here = write(first(example()), "a")
    there = write(write(first(read(here.source.document)), "b"), "c")
    assert place(follow(here, read(there.source.document))) == place(there)


def test_the_uid_of_another_server_is_taken_over() -> None:
    here, there = first(example()), write(first(example()), "a")
    assert place(follow(here, read(there.source.document))) == place(there)


def test_an_edit_of_production_goes_into_the_history() -> None:
    state = first(example(production=1))
    second = follow(state, example(production=2))
    third = follow(second, example(production=3))
    assert [(r.previous, r.version, r.revision) for r in third.catalog.history] == [(1, 2, 2), (2, 3, 3)]
    written = write(third, "a")
    assert len(written.source.document["history"]) == 2
    gone = follow(written, edit(written, models=[entry(1), entry(2)]))
    assert [(r.previous, r.version) for r in gone.catalog.history[2:]] == [(3, 0)]
