"""All entries in the order of the file, and what is looked up among them. Never changes; a changed copy costs little.

Each entry has a place, a number that grows along the file and may leave gaps; a database keeps it between two starts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from registry_server.entry import Entry, Status
from registry_server.sorted_map import SortedMap

Key = tuple[str, int]


@dataclass(frozen=True)
class Shelf:
    """`places`: entry by place. `index`: place by key. `production`: entry in production, by model name.

    `requests`: key by the request_id of the registration. `counts`: how many there are of each status. `seal`: differs
    with any entry and with their order; a sum of one term for each, so that one of them can be exchanged alone.
    """

    places: SortedMap[int, Entry]
    index: SortedMap[Key, int]
    production: SortedMap[str, Entry]
    requests: SortedMap[str, Key]
    counts: Mapping[Status, int]
    seal: int

    @classmethod
    def of(cls, placed: Iterable[tuple[int, Entry]]) -> Shelf:
        """Of entries whose keys differ, at most one of each model in production."""
        places = SortedMap.of(placed)
        entries = list(places.in_order())
        return cls(
            places,
            SortedMap.of((entry.key, place) for place, entry in zip(places, entries, strict=True)),
            SortedMap.of((entry.model_name, entry) for entry in entries if entry.status is Status.PRODUCTION),
            SortedMap.of((entry.request_id, entry.key) for entry in reversed(entries) if entry.request_id),
            Counter(entry.status for entry in entries),
            sum(map(_term, [None, *entries], entries)) % 2**256,
        )

    @cached_property
    def in_order(self) -> tuple[Entry, ...]:
        """In the order of the file."""
        return tuple(self.places.in_order())

    def find(self, key: Key) -> Entry | None:
        place = self.index.get(key)
        return None if place is None else self.places[place]

    def put(self, entry: Entry) -> Shelf:
        """With this entry in the place of the one with its key, or at the end."""
        place = self.index.get(entry.key)
        if place is None:
            place, last = self.places.last() or (0, None)
            return self._with(place + 1, None, entry, _term(last, entry))
        old, before = self.places[place], self._before(place)
        return self._with(place, old, entry, _term(before, entry) - _term(before, old))

    def without(self, key: Key) -> Shelf:
        """Raises KeyError."""
        place = self.index[key]
        old, before = self.places[place], self._before(place)
        _, after = next(self.places.after(place), (0, None))
        moved = _term(before, after) - _term(old, after) if after else 0
        return self._with(place, old, None, moved - _term(before, old))

    def _before(self, place: int) -> Entry | None:
        found = self.places.before(place)
        return found[1] if found else None

    def _with(self, place: int, old: Entry | None, new: Entry | None, seal: int) -> Shelf:
        """With `new` where `old` was; None for nothing. `seal` is what that adds to the seal."""
        places, index, production, requests = self.places, self.index, self.production, self.requests
        counts = dict(self.counts)
        if old is not None:
            production = production.without(old.model_name) if old.status is Status.PRODUCTION else production
            requests = requests.without(old.request_id) if requests.get(old.request_id) == old.key else requests
            counts[old.status] -= 1
        if new is not None:
            production = production.put(new.model_name, new) if new.status is Status.PRODUCTION else production
            if new.request_id and new.request_id not in requests:
                requests = requests.put(new.request_id, new.key)
            counts[new.status] = counts.get(new.status, 0) + 1
            places = places.put(place, new)
            index = index if old else index.put(new.key, place)
        elif old is not None:
            places, index = places.without(place), index.without(old.key)
        return Shelf(places, index, production, requests, counts, (self.seal + seal) % 2**256)


def _term(before: Entry | None, entry: Entry) -> int:
    """An entry's part in the seal. It names the entry before it, for a sum knows no order."""
    place = f"{before.model_name} {before.version} " if before else ""
    return int.from_bytes(hashlib.sha256(place.encode() + entry.fingerprint).digest())
