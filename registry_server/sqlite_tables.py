"""The catalog as rows: one for the top-level keys, one for each entry, one for each record of the history.

A row holds its object as JSON text, so every key survives, known or not, in its order. What is read from a row knows
the fingerprint of its text; so reading again parses, and writing again touches, only the rows that differ.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from registry_server import document, lineage
from registry_server.catalog import STAMP, Catalog, InvalidDocument
from registry_server.entry import Entry, InvalidEntry, read_entry
from registry_server.history import Activation, read_activation
from registry_server.sorted_map import SortedMap

APPLICATION_ID = 0x56414952
FORMAT = 1

# The indexes keep the two rules of a catalog even where another program writes into the tables.
SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
    *(
        f"CREATE TABLE {table} (position INTEGER PRIMARY KEY, object TEXT NOT NULL)"
        for table in ("head", "models", "history")
    ),
    """
    CREATE UNIQUE INDEX one_of_each_version
    ON models (json_extract(object, '$.model_name'), json_extract(object, '$.version'))
    """,
    """
    CREATE UNIQUE INDEX one_in_production
    ON models (json_extract(object, '$.model_name')) WHERE json_extract(object, '$.status') = 'production'
    """,
)


class InvalidRow(Exception):  # noqa: N818 - says what happened
    """A row cannot be read; the text says which and why."""


T = TypeVar("T", bound=document.Item)


@dataclass(frozen=True, slots=True)
class Content:
    """A catalog and the rows that hold it: an entry's position is its place in the catalog."""

    head: str
    history: Mapping[int, Activation]
    catalog: Catalog

    @property
    def entries(self) -> SortedMap[int, Entry]:
        return self.catalog.shelf.places


EMPTY = Content("", {}, Catalog.empty())


def read(connection: sqlite3.Connection, known: Content) -> Content:
    """All that is stored; `known` itself if that is the same. Raises InvalidRow."""
    heads = [text for (text,) in connection.execute("SELECT object FROM head")]
    if len(heads) != 1:
        raise InvalidRow(f"table head: expected one row, found {len(heads)}")
    entries = _read(connection, "models", known.entries, read_entry)
    history = _read(connection, "history", known.history, read_activation)
    if heads[0] == known.head and entries is known.entries and history is known.history:
        return known
    head = _parse("head", 1, heads[0])
    try:
        catalog = Catalog.assemble(head, entries.items(), tuple(history.values()))
        lineage.read_stamp(catalog)
    except InvalidDocument as error:
        table = "head" if error.where[0] == STAMP else error.where[0]
        raise InvalidRow(f"table {table}: {error.reason}") from None
    return Content(heads[0], history, catalog)


def write(connection: sqlite3.Connection, known: Content, catalog: Catalog) -> Content:
    """Replace `known`, which is stored now, by a catalog; rows of what is the same object as before are left alone."""
    content = Content(document.compact(catalog.head), _placed(known.history, catalog.history), catalog)
    if content.head != known.head:
        connection.execute("INSERT OR REPLACE INTO head VALUES (1, ?)", (content.head,))
    _write(connection, "models", known.entries, content.entries, known.entries.differences(content.entries))
    changed = known.history.keys() ^ content.history.keys()  # a position is never another record's
    _write(connection, "history", known.history, content.history, changed)
    return content


def _read(
    connection: sqlite3.Connection, table: str, known: Mapping[int, T], check: Callable[[object], T]
) -> Mapping[int, T]:
    """What a table holds, by position; `known` itself if that is the same."""
    found: dict[int, T] = {}
    same = True
    for position, text in connection.execute(f"SELECT position, object FROM {table} ORDER BY position"):  # noqa: S608
        value = known.get(position)
        if value is None or not isinstance(text, str) or document.fingerprint_of(text) != value.fingerprint:
            same = False
            value = _checked(table, position, text, check)
        found[position] = value
    return known if same and len(found) == len(known) else found


def _write(
    connection: sqlite3.Connection, table: str, known: Mapping[int, T], wanted: Mapping[int, T], changed: set[int]
) -> None:
    # Whatever is in the way goes first: no row meets one that it replaces in a unique index.
    gone = [(position,) for position in sorted(changed) if position in known]
    new = [(position, document.compact(wanted[position].raw)) for position in sorted(changed) if position in wanted]
    connection.executemany(f"DELETE FROM {table} WHERE position = ?", gone)  # noqa: S608
    connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", new)  # noqa: S608


def _placed(known: Mapping[int, Activation], history: Sequence[Activation]) -> Mapping[int, Activation]:
    """Each record in the position that it has, or in one at the end if it is new or has moved."""
    records = tuple(known.values())
    end = max(known, default=0)
    start = records.index(history[0]) if history and history[0] in records else 0
    there = len(records) - start
    if records[start:] == history[:there]:  # as ever: old ones go at the front, new ones come at the end
        positions = [*islice(known, start, None), *range(end + 1, end + 1 + len(history) - there)]
        return dict(zip(positions, history, strict=True))
    places = {id(record): position for position, record in known.items()}
    placed: dict[int, Activation] = {}
    last = 0
    for record in history:
        last = place if (place := places.get(id(record), 0)) > last else max(last, end) + 1
        placed[last] = record
    return placed


def _checked(table: str, position: int, text: object, check: Callable[[object], T]) -> T:
    try:
        return check(_parse(table, position, text))
    except InvalidEntry as error:
        raise InvalidRow(f"table {table}, position {position}: {error.reason}") from None


def _parse(table: str, position: int, text: object) -> dict[str, Any]:
    if not isinstance(text, str):
        raise InvalidRow(f"table {table}, position {position}: expected text")
    try:
        return document.parse(text.encode())
    except (document.MalformedText, UnicodeEncodeError) as error:
        raise InvalidRow(f"table {table}, position {position}: {error}") from None
