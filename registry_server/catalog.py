"""The registry's whole content as one immutable value, built over the document that a person may edit.

Every entry keeps its raw object, so unknown keys, at every level, and the order of keys survive each change.
"""

# ruff: noqa: N818 - each name says what happened.

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from registry_server.document import Raw, Where, fingerprint
from registry_server.entry import Entry, InvalidEntry, Status, read_entry
from registry_server.errors import ModelNotFound, NoProduction
from registry_server.history import History, read_activation

Key = tuple[str, int]
STAMP = "videoai"
"""The top-level key under which the server keeps its own notes."""


class InvalidDocument(Exception):
    """The document is not a registry; `where` leads to the value that is wrong."""

    def __init__(self, where: Where, reason: str) -> None:
        super().__init__(reason)
        self.where, self.reason = where, reason


class Catalog:
    """All versions of all models, with at most one in production per model. Never changes; steps make new ones."""

    def __init__(
        self,
        rest: Raw,
        entries: tuple[Entry, ...],
        history: History,
        index: Mapping[Key, int] | None = None,
        production: Mapping[str, Entry] | None = None,
    ) -> None:
        """`index` and `production` are those of `entries`, where they are known already."""
        self._rest = rest
        self.entries = entries
        self.history = history
        self._index = {e.key: n for n, e in enumerate(entries)} if index is None else index
        self._production = _in_production(entries) if production is None else production

    @classmethod
    def empty(cls) -> Catalog:
        return cls({"models": []}, (), ())

    @classmethod
    def read(cls, document: Raw) -> Catalog:
        """Check a whole document. Raises InvalidDocument."""
        entries = tuple(_read_all(document, "models", read_entry))
        history = tuple(_read_all(document, "history", read_activation)) if "history" in document else ()
        return cls.assemble(document, entries, history)

    @classmethod
    def assemble(cls, rest: Raw, entries: tuple[Entry, ...], history: History) -> Self:
        """Put checked parts together. Raises InvalidDocument where they do not go together."""
        catalog = cls(rest, entries, history)
        catalog._check_unique()
        return catalog

    @property
    def document(self) -> dict[str, Any]:
        """The document that holds this catalog; top-level keys keep their order."""
        document = self.head
        document["models"] = [entry.raw for entry in self.entries]
        if "history" in document:
            document["history"] = [record.raw for record in self.history]
        return document

    @property
    def head(self) -> dict[str, Any]:
        """The document with empty lists in the places of its entries and its history."""
        head = {**self._rest, "models": []}
        if self.history or "history" in head:
            head["history"] = []
        return head

    @cached_property
    def content_digest(self) -> str:
        """SHA-256 of everything but the server's own notes; blanks and line breaks do not count."""
        head = {key: value for key, value in self.head.items() if key != STAMP}
        digest = hashlib.sha256(fingerprint(head))
        for part in (self.entries, self.history):
            digest.update(hashlib.sha256(b"".join([item.fingerprint for item in part])).digest())
        return digest.hexdigest()

    @property
    def rest(self) -> Raw:
        """The document as far as its top-level keys beside `models` and `history` go."""
        return self._rest

    def get(self, model_name: str, version: int) -> Entry:
        """Raises ModelNotFound."""
        position = self._index.get((model_name, version))
        if position is None:
            raise ModelNotFound(model_name, version)
        return self.entries[position]

    def find(self, model_name: str, version: int) -> Entry | None:
        position = self._index.get((model_name, version))
        return None if position is None else self.entries[position]

    def production(self, model_name: str) -> Entry:
        """Raises ModelNotFound or NoProduction."""
        entry = self._production.get(model_name)
        if entry is None:
            raise NoProduction(model_name) if model_name in self.names else ModelNotFound(model_name)
        return entry

    @property
    def in_production(self) -> Mapping[str, Entry]:
        """The entry in production of each model that has one."""
        return self._production

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(entry.model_name for entry in self.entries)

    @cached_property
    def keys(self) -> Sequence[Key]:
        """All (name, version), in order."""
        return sorted(self._index)

    def after(self, key: Key | None, model_name: str | None = None) -> Iterator[Entry]:
        """Entries in order of (name, version) that come after `key`, of one model or of all."""
        start = bisect_right(self.keys, key) if key else 0
        if model_name is not None:
            start = max(start, bisect_right(self.keys, (model_name, 0)))
        for position in range(start, len(self.keys)):
            if model_name is not None and self.keys[position][0] != model_name:
                return
            yield self.entries[self._index[self.keys[position]]]

    def highest_version(self, model_name: str) -> int:
        """0 if the model is unknown."""
        position = bisect_right(self.keys, (model_name, 2**31)) - 1
        found = position >= 0 and self.keys[position][0] == model_name
        return self.keys[position][1] if found else 0

    def registered_by(self, request_id: str) -> Entry | None:
        """The entry that was registered with this request_id."""
        return next((entry for entry in self.entries if entry.request_id == request_id), None)

    # Building the next one.

    def with_entry(self, entry: Entry) -> Catalog:
        """With this entry in the place of the one with its key, or at the end."""
        position = self._index.get(entry.key)
        if position is None:
            return Catalog(self._rest, (*self.entries, entry), self.history)
        entries = (*self.entries[:position], entry, *self.entries[position + 1 :])
        production = {name: other for name, other in self._production.items() if other is not self.entries[position]}
        if entry.status is Status.PRODUCTION:
            production[entry.model_name] = entry
        return Catalog(self._rest, entries, self.history, self._index, production)

    def without(self, model_name: str, version: int) -> Catalog:
        key = (model_name, version)
        return Catalog(self._rest, tuple(entry for entry in self.entries if entry.key != key), self.history)

    def with_history(self, history: History) -> Catalog:
        return Catalog(self._rest, self.entries, history, self._index, self._production)

    def with_rest(self, key: str, value: Any) -> Catalog:
        """With one of the other top-level keys replaced or added."""
        return Catalog({**self._rest, key: value}, self.entries, self.history, self._index, self._production)

    def _check_unique(self) -> None:
        places: dict[Key, int] = {}
        in_production: dict[str, int] = {}
        for position, entry in enumerate(self.entries):
            name, version = entry.key
            if entry.key in places:
                raise InvalidDocument(
                    ("models", position, "version"), f"version: model {name!r} has version {version} twice"
                )
            places[entry.key] = position
            if entry.status is not Status.PRODUCTION:
                continue
            if name in in_production:
                other = self.entries[in_production[name]].version
                raise InvalidDocument(
                    ("models", position, "status"),
                    f"status: model {name!r} has two versions in production, {other} and {version}",
                )
            in_production[name] = position


def _in_production(entries: Sequence[Entry]) -> dict[str, Entry]:
    return {entry.model_name: entry for entry in entries if entry.status is Status.PRODUCTION}


def _read_all(document: Raw, key: str, read: Any) -> Iterator[Any]:
    items = document.get(key)
    if not isinstance(items, list):
        reason = f'the key "{key}" is missing' if key not in document else f"{key}: expected a list"
        raise InvalidDocument((key,) if key in document else (), reason)
    for position, item in enumerate(items):
        try:
            yield read(item)
        except InvalidEntry as error:
            raise InvalidDocument((key, position, *error.where), error.reason) from None
