"""The registry's whole content as one immutable value, built over the document that a person may edit.

Every entry keeps its raw object, so unknown keys, at every level, and the order of keys survive each change.
"""

# ruff: noqa: N818 - each name says what happened.

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

from registry_server.document import Raw, Where, fingerprint
from registry_server.entry import MAX_VERSION, Entry, InvalidEntry, Status, read_entry
from registry_server.errors import ModelNotFound, NoProduction
from registry_server.history import History, read_activation
from registry_server.shelf import Key, Shelf
from registry_server.sorted_map import SortedMap

STAMP = "videoai"
"""The top-level key under which the server keeps its own notes."""


class InvalidDocument(Exception):
    """The document is not a registry; `where` leads to the value that is wrong."""

    def __init__(self, where: Where, reason: str) -> None:
        super().__init__(reason)
        self.where, self.reason = where, reason


class Catalog:
    """All versions of all models, with at most one in production per model. Never changes; steps make new ones."""

    def __init__(self, rest: Raw, shelf: Shelf, history: History) -> None:
        self._rest = rest
        self.shelf = shelf
        self.history = history

    @classmethod
    def empty(cls) -> Catalog:
        return cls({"models": []}, Shelf.of(()), ())

    @classmethod
    def read(cls, document: Raw) -> Catalog:
        """Check a whole document. Raises InvalidDocument."""
        entries = list(_read_all(document, "models", read_entry))
        history = tuple(_read_all(document, "history", read_activation)) if "history" in document else ()
        return cls.assemble(document, enumerate(entries, 1), history)

    @classmethod
    def assemble(cls, rest: Raw, placed: Iterable[tuple[int, Entry]], history: History) -> Catalog:
        """Put checked parts together, entries by their places. Raises InvalidDocument where they do not go together."""
        placed = sorted(placed, key=itemgetter(0))
        _check_unique([entry for _, entry in placed])
        return cls(rest, Shelf.of(placed), history)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """In the order of the file."""
        return self.shelf.in_order

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
        digest.update(self.shelf.seal.to_bytes(32))
        digest.update(hashlib.sha256(b"".join([record.fingerprint for record in self.history])).digest())
        return digest.hexdigest()

    @property
    def rest(self) -> Raw:
        """The document as far as its top-level keys beside `models` and `history` go."""
        return self._rest

    def get(self, model_name: str, version: int) -> Entry:
        """Raises ModelNotFound."""
        entry = self.find(model_name, version)
        if entry is None:
            raise ModelNotFound(model_name, version)
        return entry

    def find(self, model_name: str, version: int) -> Entry | None:
        return self.shelf.find((model_name, version))

    def production(self, model_name: str) -> Entry:
        """Raises ModelNotFound or NoProduction."""
        entry = self.in_production.get(model_name)
        if entry is None:
            raise NoProduction(model_name) if self.knows(model_name) else ModelNotFound(model_name)
        return entry

    @property
    def in_production(self) -> SortedMap[str, Entry]:
        """The entry in production of each model that has one."""
        return self.shelf.production

    @property
    def counts(self) -> Mapping[Status, int]:
        """How many entries there are of each status."""
        return self.shelf.counts

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.shelf.index)

    def knows(self, model_name: str) -> bool:
        """Whether there is a version of this model."""
        return self.highest_version(model_name) > 0

    def after(self, key: Key | None, model_name: str | None = None) -> Iterator[Entry]:
        """Entries in order of (name, version) that come after `key`, of one model or of all."""
        start = max(key or ("", 0), (model_name or "", 0))
        for found, place in self.shelf.index.after(start):
            if model_name is not None and found[0] != model_name:
                return
            yield self.shelf.places[place]

    def highest_version(self, model_name: str) -> int:
        """0 if the model is unknown."""
        last = self.shelf.index.before((model_name, MAX_VERSION + 1))
        return last[0][1] if last and last[0][0] == model_name else 0

    def registered_by(self, request_id: str) -> Entry | None:
        """The entry that was registered with this request_id."""
        key = self.shelf.requests.get(request_id)
        return None if key is None else self.shelf.find(key)

    # Building the next one.

    def with_entry(self, entry: Entry) -> Catalog:
        """With this entry in the place of the one with its key, or at the end."""
        return Catalog(self._rest, self.shelf.put(entry), self.history)

    def without(self, model_name: str, version: int) -> Catalog:
        return Catalog(self._rest, self.shelf.without((model_name, version)), self.history)

    def with_history(self, history: History) -> Catalog:
        return Catalog(self._rest, self.shelf, history)

    def with_rest(self, key: str, value: Any) -> Catalog:
        """With one of the other top-level keys replaced or added."""
        return Catalog({**self._rest, key: value}, self.shelf, self.history)


def _check_unique(entries: Sequence[Entry]) -> None:
    places: dict[Key, int] = {}
    in_production: dict[str, int] = {}
    for position, entry in enumerate(entries):
        name, version = entry.key
        if entry.key in places:
            raise InvalidDocument(
                ("models", position, "version"), f"version: model {name!r} has version {version} twice"
            )
        places[entry.key] = position
        if entry.status is not Status.PRODUCTION:
            continue
        if name in in_production:
            other = entries[in_production[name]].version
            raise InvalidDocument(
                ("models", position, "status"),
                f"status: model {name!r} has two versions in production, {other} and {version}",
            )
        in_production[name] = position


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
