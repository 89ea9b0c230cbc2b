"""The watch of production: every subscriber learns the latest state, by level.

A subscriber holds only the names of the models it has yet to be told about; what it is told is read from the present
state when its turn comes. So a slow or stopped one costs one slot per model and holds up nobody.

The revision of a message is the one in which its model last changed, and messages go out in that order; where several
models changed in one revision, all but the last carry the revision before it. Whoever has a message of revision R thus
has everything up to R, and can come back with R at any point without missing or repeating anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import structlog

from registry_server import history, metrics
from registry_server.document import same
from registry_server.entry import Entry
from registry_server.errors import TooManyWatchers
from registry_server.lineage import State

log = structlog.get_logger(__name__)

Names = frozenset[str] | None
"""The models that a watcher follows; None for all."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is in production of a model; None for nothing."""

    model_name: str
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the watch; see WatchProductionResponse."""

    registry_uid: str
    revision: int
    reset: bool
    event: Told | Literal["synced", "heartbeat"]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a watcher that comes back left off."""

    registry_uid: str
    revision: int


class WatchHub:
    """Knows what changed when, and wakes the watchers. Lives in one event loop."""

    def __init__(self, state: State, *, max_watchers: int, heartbeat_seconds: float) -> None:
        self.heartbeat_seconds = heartbeat_seconds
        self.closed = False
        self._max_watchers = max_watchers
        self._watchers: set[Watcher] = set()
        self._state: State
        self._begin(state)

    @property
    def state(self) -> State:
        return self._state

    @contextmanager
    def watch(self, names: Names, position: Position | None = None) -> Iterator[Watcher]:
        """Subscribe. Raises TooManyWatchers."""
        if len(self._watchers) >= self._max_watchers:
            raise TooManyWatchers(self._max_watchers)
        watcher = Watcher(self, names, position)
        self._watchers.add(watcher)
        metrics.WATCHERS.set(len(self._watchers))
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            metrics.WATCHERS.set(len(self._watchers))

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    def publish(self, state: State) -> None:
        """Tell everyone of a new state."""
        names: frozenset[str] = frozenset()
        if state.registry_uid != self._state.registry_uid:
            self._begin(state)
            log.warning(
                "not a later state; watchers start anew", registry_uid=state.registry_uid, revision=state.revision
            )
        else:
            names = frozenset(_changed(self._state, state))
            self._changed_in.update(dict.fromkeys(names, state.revision))
            _log(names, self._state, state)
            self._state = state
        for watcher in self._watchers:
            watcher.touch(names)

    def close(self) -> None:
        """End every watch."""
        self.closed = True
        for watcher in self._watchers:
            watcher.touch(frozenset())

    def changed_in(self, name: str) -> int:
        """The revision in which a model's production last changed, as far as is known."""
        return self._changed_in.get(name, self._floor)

    def since(self, position: Position | None) -> frozenset[str] | None:
        """The models that changed after `position`; None if that cannot be told, so that all must be told anew."""
        state = self._state
        if position is None or position.registry_uid != state.registry_uid:
            return None
        if not self._floor <= position.revision <= state.revision:
            return None
        return frozenset(name for name, revision in self._changed_in.items() if revision > position.revision)

    def _begin(self, state: State) -> None:
        """Start with a state whose past is unknown, but for what its history says."""
        self._state = state
        self._floor = state.revision
        self._changed_in: dict[str, int] = {}
        newest = history.newest(state.catalog.history)
        for name, entry in state.catalog.in_production.items():
            last = newest.get(name)
            known = last is not None and last.version == entry.version and last.revision <= state.revision
            self._changed_in[name] = last.revision if last and known else self._floor


class Watcher:
    """One subscriber."""

    def __init__(self, hub: WatchHub, names: Names, position: Position | None) -> None:
        self._hub = hub
        self._names = names
        self._dirty: set[str] = set()
        self._touched = asyncio.Event()
        self._uid: str
        self._synced: bool
        self._begin(position)

    def touch(self, names: frozenset[str]) -> None:
        """There is news of these models, or of the hub itself."""
        news = names if self._names is None else names & self._names
        self._dirty |= news
        if news or self._hub.closed or self._uid != self._hub.state.registry_uid:
            self._touched.set()

    async def messages(self) -> AsyncIterator[Message]:
        """Everything asked for, then `synced`, then changes and heartbeats; ends when the hub is closed."""
        loop = asyncio.get_running_loop()
        next_heartbeat = loop.time() + self._hub.heartbeat_seconds
        while not self._hub.closed:
            self._touched.clear()
            if self._uid != self._hub.state.registry_uid:
                self._begin(None)
            for message in self._news():
                yield message
            if self._dirty or self._uid != self._hub.state.registry_uid:
                continue
            if not self._synced:
                self._synced = True
                yield self._message("synced")
                self._reset = False
                continue
            if loop.time() >= next_heartbeat:
                next_heartbeat = loop.time() + self._hub.heartbeat_seconds
                yield self._message("heartbeat")
                continue
            await self._wait(next_heartbeat)

    def _begin(self, position: Position | None) -> None:
        since = self._hub.since(position)
        everything = self._hub.state.catalog.names if self._names is None else self._names
        self._uid = self._hub.state.registry_uid
        self._reset = since is None
        self._synced = False
        if since is None:
            self._dirty = set(everything)
        else:
            self._dirty = set(since if self._names is None else since & self._names)

    def _news(self) -> Iterator[Message]:
        order = sorted((self._hub.changed_in(name), name) for name in self._dirty)
        self._dirty.clear()
        for index, (revision, name) in enumerate(order):
            if self._hub.closed or self._uid != self._hub.state.registry_uid:
                return
            if name in self._dirty:  # changed again: it is told later, in its new place
                continue
            more = index + 1 < len(order) and order[index + 1][0] == revision
            entry = self._hub.state.catalog.in_production.get(name)
            yield Message(self._uid, revision - more, self._reset, Told(name, entry))

    def _message(self, event: Literal["synced", "heartbeat"]) -> Message:
        return Message(self._uid, self._hub.state.revision, self._reset, event)

    async def _wait(self, until: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._touched.wait()


def _log(names: frozenset[str], old: State, new: State) -> None:
    for name in sorted(names):
        before, after = (
            entry.version if entry else 0 for entry in (s.catalog.in_production.get(name) for s in (old, new))
        )
        if before != after:
            log.info("production changed", model_name=name, previous=before, version=after, revision=new.revision)


def _changed(old: State, new: State) -> Iterator[str]:
    """Names whose entry in production differs."""
    before, after = old.catalog.in_production, new.catalog.in_production
    for name in before.differences(after):
        left, right = before.get(name), after.get(name)
        if left is None or right is None or not same(left.raw, right.raw):
            yield name
