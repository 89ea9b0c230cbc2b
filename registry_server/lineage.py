"""Which state follows which: the uid and revision that let a watcher tell "later" from "other".

The file carries them in its `videoai` object, with a digest of the rest. Where the digest does not match, a person has
edited the file since the server last wrote it. Revisions of one uid only ever go up; whatever cannot be placed after
what was served before gets a new uid, which makes watchers start anew.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from registry_server import history
from registry_server.catalog import STAMP, Catalog, InvalidDocument
from registry_server.entry import is_integer


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the file says of itself. `intact`: nobody edited it since it was written."""

    registry_uid: str
    revision: int
    intact: bool


@dataclass(frozen=True, slots=True)
class State:
    """A catalog and its place in time.

    `source` is the catalog as the storage holds it. `past` are the uids that were given up and must not come back.
    """

    registry_uid: str
    revision: int
    catalog: Catalog
    source: Catalog
    past: frozenset[str] = frozenset()


def first(source: Catalog, now: datetime) -> State:
    """The state to begin with when the server starts."""
    stamp = read_stamp(source)
    if stamp is not None and stamp.intact:
        return State(stamp.registry_uid, stamp.revision, source, source)
    state = _new_uid(source, stamp)
    if records := list(_unrecorded_at_start(source, state.revision, now)):
        return replace(state, catalog=source.with_history(history.extend(source.history, records)))
    return state


def follow(state: State, source: Catalog, now: datetime) -> State:
    """The state after the storage was found to hold `source`; `state` itself if that is nothing new."""
    if source is state.source or source.content_digest == state.source.content_digest:
        return state
    stamp, seen = read_stamp(source), read_stamp(state.source)
    if stamp is not None and stamp.registry_uid != state.registry_uid:
        return _other(state, source, stamp, now)
    if stamp is None or (not stamp.intact and stamp.revision == (seen.revision if seen else None)):
        return _edited(state, source, state.revision + 1, now)
    if stamp.revision <= state.revision:  # an older copy was put back
        return _leave(state, _new_uid(source, stamp))
    return _edited(state, source, stamp.revision + (not stamp.intact), now)


def advanced(state: State, catalog: Catalog) -> State:
    """The state after one more change, not yet written."""
    return replace(state, revision=state.revision + 1, catalog=catalog)


def written(state: State) -> State:
    """The same state with its catalog stamped, as it is to be stored."""
    stamp = {
        **_mapping(state.catalog.rest.get(STAMP)),
        "registry_uid": state.registry_uid,
        "revision": state.revision,
        "digest": state.catalog.content_digest,
    }
    stamped = state.catalog.with_rest(STAMP, stamp)
    return replace(state, catalog=stamped, source=stamped)


def read_stamp(catalog: Catalog) -> Stamp | None:
    """None if the file was never written by the server. Raises InvalidDocument."""
    if STAMP not in catalog.rest:
        return None
    raw = _mapping(catalog.rest[STAMP])
    uid, revision = raw.get("registry_uid"), raw.get("revision")
    if not isinstance(uid, str) or not uid:
        raise InvalidDocument((STAMP,), "videoai: expected an object with a registry_uid; delete it to begin anew")
    if not is_integer(revision) or not 1 <= revision < 2**62:
        raise InvalidDocument((STAMP, "revision"), "revision: expected a whole number >= 1")
    return Stamp(uid, revision, raw.get("digest") == catalog.content_digest)


def _other(state: State, source: Catalog, stamp: Stamp, now: datetime) -> State:
    """The file tells of another uid: that of another server over the same folder, or of a copy put back."""
    return _leave(state, _new_uid(source, stamp) if stamp.registry_uid in state.past else first(source, now))


def _leave(old: State, new: State) -> State:
    return replace(new, past=old.past | {old.registry_uid})


def _edited(state: State, source: Catalog, revision: int, now: datetime) -> State:
    """Someone else's change; what it did to production and did not record itself goes into the history."""
    untouched = [record.raw for record in source.history] == [record.raw for record in state.source.history]
    known = state.catalog.history if untouched else source.history
    records = _unrecorded(state.catalog, source, revision, now)
    catalog = source.with_history(history.extend(known, records))
    return replace(state, revision=revision, catalog=catalog, source=source)


def _unrecorded(old: Catalog, new: Catalog, revision: int, now: datetime) -> Iterator[history.Activation]:
    newest = history.newest(new.history)
    for name in sorted(old.in_production.differences(new.in_production)):
        before, after = (
            entry.version if entry else 0 for entry in (old.in_production.get(name), new.in_production.get(name))
        )
        last = newest.get(name)
        if before != after and (last is None or last.version != after):
            yield history.activation(name, before, after, moment=now, revision=revision, edited=True)


def _unrecorded_at_start(source: Catalog, revision: int, now: datetime) -> Iterator[history.Activation]:
    """What an edit did to production that nobody has written down yet, as the last record of each model shows."""
    for name, last in history.newest(source.history).items():
        entry = source.in_production.get(name)
        version = entry.version if entry else 0
        if version != last.version:
            yield history.activation(name, last.version, version, moment=now, revision=revision, edited=True)


def _new_uid(source: Catalog, stamp: Stamp | None) -> State:
    return State(str(uuid.uuid4()), stamp.revision if stamp else 1, source, source)


def _mapping(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}
