"""The catalog as rows: one for the top-level keys, one for each entry, one for each record of the history.

A row holds its object as JSON text, so every key survives, known or not, in its order. What is read from rows remembers
their texts; so reading again parses, and writing again touches, only the rows that differ.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from registry_server import document, lineage
from registry_server.catalog import STAMP, Catalog, InvalidDocument
from registry_server.entry import Entry, InvalidEntry, read_entry
from registry_server.history import Activation, read_activation

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


class _Stored(Protocol):
    @property
    def raw(self) -> document.Raw: ...


T = TypeVar("T", bound=_Stored)


@dataclass(frozen=True, slots=True)
class Row(Generic[T]):
    """What a row holds, as text and as it was read."""

    text: str
    value: T


Rows = Mapping[int, Row[T]]
"""The rows of a table, in the order of their positions."""


@dataclass(frozen=True, slots=True)
class Content:
    """A catalog and the rows that hold it."""

    head: str
    models: Rows[Entry]
    history: Rows[Activation]
    catalog: Catalog


EMPTY = Content("", {}, {}, Catalog.empty())


def read(connection: sqlite3.Connection, known: Content) -> Content:
    """All that is stored; `known` itself if that is the same. Raises InvalidRow."""
    heads = [text for (text,) in connection.execute("SELECT object FROM head")]
    if len(heads) != 1:
        raise InvalidRow(f"table head: expected one row, found {len(heads)}")
    models = _read(connection, "models", known.models, read_entry)
    history = _read(connection, "history", known.history, read_activation)
    if heads[0] == known.head and models is known.models and history is known.history:
        return known
    head = _parse("head", 1, heads[0])
    try:
        catalog = Catalog.assemble(
            head,
            tuple([row.value for row in models.values()]),
            tuple([row.value for row in history.values()]),
        )
        lineage.read_stamp(catalog)
    except InvalidDocument as error:
        table = "head" if error.where[0] == STAMP else error.where[0]
        raise InvalidRow(f"table {table}: {error.reason}") from None
    return Content(heads[0], models, history, catalog)


def write(connection: sqlite3.Connection, known: Content, catalog: Catalog) -> Content:
    """Replace `known`, which is stored now, by a catalog; rows of what is the same object as before are left alone."""
    head = _text(catalog.head)
    if head != known.head:
        connection.execute("INSERT OR REPLACE INTO head VALUES (1, ?)", (head,))
    models = _write(connection, "models", known.models, catalog.entries, lambda entry: entry.key)
    history = _write(connection, "history", known.history, catalog.history, id)
    return Content(head, models, history, catalog)


def _read(connection: sqlite3.Connection, table: str, known: Rows[T], check: Callable[[object], T]) -> Rows[T]:
    rows: dict[int, Row[T]] = {}
    same = True
    for position, text in connection.execute(f"SELECT position, object FROM {table} ORDER BY position"):  # noqa: S608
        row = known.get(position)
        if row is None or row.text != text:
            same = False
            try:
                row = Row(text, check(_parse(table, position, text)))
            except InvalidEntry as error:
                raise InvalidRow(f"table {table}, position {position}: {error.reason}") from None
        rows[position] = row
    return known if same and len(rows) == len(known) else rows


def _write(
    connection: sqlite3.Connection, table: str, known: Rows[T], values: Sequence[T], key: Callable[[T], Hashable]
) -> Rows[T]:
    rows = _in_place(known, values, key)
    if rows is None:
        rows = _placed_anew(known, values, key)
    new = [(position, row.text) for position, row in rows.items() if known.get(position) is not row]
    # Whatever is in the way goes first: no row meets one that it replaces in a unique index.
    gone = {*(known.keys() - rows.keys()), *(position for position, _ in new if position in known)}
    connection.executemany(f"DELETE FROM {table} WHERE position = ?", [(position,) for position in gone])  # noqa: S608
    connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", new)  # noqa: S608
    return rows


def _in_place(known: Rows[T], values: Sequence[T], key: Callable[[T], Hashable]) -> Rows[T] | None:
    """The usual case, told quickly: some values are others of the same key, or come at the end. Else None."""
    if len(values) < len(known):
        return None
    rows = dict(known)
    for (position, row), value in zip(known.items(), values, strict=False):
        if row.value is not value:
            if key(row.value) != key(value):
                return None
            rows[position] = Row(_text(value.raw), value)
    for position, value in enumerate(values[len(known) :], max(known, default=0) + 1):
        rows[position] = Row(_text(value.raw), value)
    return rows


def _placed_anew(known: Rows[T], values: Sequence[T], key: Callable[[T], Hashable]) -> Rows[T]:
    """Each value in the row that it has, or in one at the end if it is new or has moved."""
    places = {key(row.value): position for position, row in known.items()}
    rows: dict[int, Row[T]] = {}
    last, end = 0, max(known, default=0)
    for value in values:
        last = place if (place := places.get(key(value), 0)) > last else max(last, end) + 1
        row = known.get(last)
        rows[last] = row if row is not None and row.value is value else Row(_text(value.raw), value)
    return rows


def _text(raw: document.Raw) -> str:
    return json.dumps(raw, ensure_ascii=False, allow_nan=False)


def _parse(table: str, position: int, text: object) -> dict[str, Any]:
    if not isinstance(text, str):
        raise InvalidRow(f"table {table}, position {position}: expected text")
    try:
        return document.parse(text.encode())
    except (document.MalformedText, UnicodeEncodeError) as error:
        raise InvalidRow(f"table {table}, position {position}: {error}") from None
