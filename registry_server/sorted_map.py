"""An immutable mapping in the order of its keys, of which a changed copy costs little however large it is."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Generic, NamedTuple, Self, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST = 128
"""Items in a chunk. A change copies one chunk and the list of chunks, so both should be short."""


class _Chunk(NamedTuple):
    keys: Sequence[Any]
    values: Sequence[Any]


class SortedMap(Mapping[K, V], Generic[K, V]):
    """Keys have an order. The items lie in chunks; a changed copy shares all of them but the one that it changed."""

    __slots__ = ("_chunks", "_firsts", "_length")

    def __init__(self, chunks: Sequence[_Chunk] = (), firsts: Sequence[Any] = (), length: int = 0) -> None:
        """Without arguments, an empty one; see `of`. `firsts` are the first keys of the chunks."""
        self._chunks = chunks
        self._firsts = firsts
        self._length = length

    @classmethod
    def of(cls, items: Iterable[tuple[K, V]]) -> Self:
        """Items of any order; of those with the same key the last one counts."""
        known = dict(items)
        keys: list[Any] = sorted(known)
        pieces = [keys[start : start + MOST] for start in range(0, len(keys), MOST)]
        chunks = [_Chunk(piece, [known[key] for key in piece]) for piece in pieces]
        return cls(chunks, [piece[0] for piece in pieces], len(keys))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[K]:
        return chain.from_iterable(chunk.keys for chunk in self._chunks)

    def __getitem__(self, key: K) -> V:
        if self._chunks:
            chunk = self._chunks[self._chunk_of(key)]
            position = bisect_left(chunk.keys, key)
            if position < len(chunk.keys) and chunk.keys[position] == key:
                value: V = chunk.values[position]
                return value
        raise KeyError(key)

    def in_order(self) -> Iterator[V]:
        """The values, in the order of their keys."""
        return chain.from_iterable(chunk.values for chunk in self._chunks)

    def after(self, key: K) -> Iterator[tuple[K, V]]:
        """The items whose keys come after `key`."""
        start = self._chunk_of(key)
        for number in range(start, len(self._chunks)):
            chunk = self._chunks[number]
            position = bisect_right(chunk.keys, key) if number == start else 0
            yield from zip(chunk.keys[position:], chunk.values[position:], strict=True)

    def before(self, key: K) -> tuple[K, V] | None:
        """The last item whose key comes before `key`."""
        number = max(bisect_left(self._firsts, key) - 1, 0)
        for chunk in self._chunks[number : number + 1]:
            position = bisect_left(chunk.keys, key) - 1
            return (chunk.keys[position], chunk.values[position]) if position >= 0 else None
        return None

    def last(self) -> tuple[K, V] | None:
        """The item with the greatest key."""
        return (self._chunks[-1].keys[-1], self._chunks[-1].values[-1]) if self._chunks else None

    def put(self, key: K, value: V) -> Self:
        """A copy with this item added, or in the place of the one with its key."""
        if not self._chunks:
            return self.of([(key, value)])
        number = self._chunk_of(key)
        keys, values = (list(part) for part in self._chunks[number])
        position = bisect_left(keys, key)
        there = position < len(keys) and keys[position] == key
        keys[position : position + there] = [key]
        values[position : position + there] = [value]
        chunks = [_Chunk(keys, values)]
        if len(keys) > MOST:
            middle = len(keys) // 2
            chunks = [_Chunk(keys[:middle], values[:middle]), _Chunk(keys[middle:], values[middle:])]
        return self._with(number, chunks, self._length + (not there))

    def without(self, key: K) -> Self:
        """A copy without this item. Raises KeyError."""
        self[key]
        number = self._chunk_of(key)
        items = [item for item in zip(*self._chunks[number], strict=True) if item[0] != key]
        chunk = _Chunk([item[0] for item in items], [item[1] for item in items])
        return self._with(number, [chunk] if items else [], self._length - 1)

    def differences(self, other: SortedMap[K, V]) -> set[K]:
        """The keys that only one of the two has, or whose values are not the same object.

        Quick where one was made from the other by few changes.
        """
        mine, others = _unlike(self._chunks, other._chunks), _unlike(other._chunks, self._chunks)
        return {key for key in mine.keys() | others.keys() if mine.get(key) is not others.get(key)}

    def _chunk_of(self, key: K) -> int:
        """The number of the chunk in which the key is, or would be."""
        return max(bisect_right(self._firsts, key) - 1, 0)

    def _with(self, number: int, chunks: Sequence[_Chunk], length: int) -> Self:
        """A copy with other chunks in the place of one."""
        all_chunks, firsts = list(self._chunks), list(self._firsts)
        all_chunks[number : number + 1] = chunks
        firsts[number : number + 1] = [chunk.keys[0] for chunk in chunks]
        return type(self)(all_chunks, firsts, length)


def _unlike(chunks: Sequence[_Chunk], others: Sequence[_Chunk]) -> dict[Any, Any]:
    """The items of the chunks that are not among the others as well."""
    if len(chunks) == len(others):  # mostly, so that each lies where it lay
        unlike = [chunk for chunk, other in zip(chunks, others, strict=True) if chunk is not other]
    else:
        shared = set(map(id, others))
        unlike = [chunk for chunk in chunks if id(chunk) not in shared]
    return {key: value for chunk in unlike for key, value in zip(*chunk, strict=True)}
