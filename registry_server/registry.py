"""The registry as the servers' doors see it: reads from memory, changes that are durable before they are answered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import structlog

from registry_server import lineage, metrics, steps
from registry_server.artifacts import Evidence
from registry_server.catalog import Catalog
from registry_server.entry import Entry, Status
from registry_server.errors import CommitUncertain, RegistryError, RegistryFileInvalid, StorageUnavailable
from registry_server.lineage import State
from registry_server.steps import Artifacts, Change, Moment, Registration
from registry_server.storage import Storage

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 0.2
"""An editor may write a file in several pieces; what cannot be read is looked at again after this time."""

Apply = Callable[[Catalog, Moment], Change]
Listener = Callable[[State], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """A change as it was made; `demoted` is the version that left production, if any."""

    entry: Entry
    demoted: Entry | None
    revision: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    apply: Apply
    result: asyncio.Future[Result]


class Registry:
    """All reads and changes. Use from one event loop; storage and files are touched in threads.

    One thread does all the storage work, so states follow each other in one order. Changes that wait while it is busy
    are written together.
    """

    def __init__(self, storage: Storage, artifacts: Artifacts, thread: ThreadPoolExecutor, state: State) -> None:
        self._storage = storage
        self._artifacts = artifacts
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._state = state
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._listeners: list[Listener] = []
        self._problem_listeners: list[Callable[[RegistryError | None], None]] = []
        self._news: deque[Callable[[], None]] = deque()
        self.problem: RegistryError | None = None
        """Why the stored registry cannot be read now; reads go on from the last good state, changes fail."""
        self._unreachable = ""
        metrics.show(state)

    @property
    def state(self) -> State:
        """What is served; what this server wrote is durable by then, unless it was called uncertain."""
        return self._state

    @property
    def catalog(self) -> Catalog:
        return self._state.catalog

    def listen(self, listener: Listener) -> None:
        """Have `listener` called, in the event loop, with each new state, before the change is answered."""
        self._listeners.append(listener)

    def listen_for_problems(self, listener: Callable[[RegistryError | None], None]) -> None:
        """Have `listener` called, in the event loop, whenever `problem` comes, changes or goes."""
        self._problem_listeners.append(listener)

    async def register(self, wanted: Registration) -> Result:
        """Add a version as staging."""
        evidence = Evidence(self._artifacts)
        await asyncio.to_thread(evidence.gather, wanted.path, whole=True)
        return await self._change(lambda catalog, moment: steps.register(catalog, wanted, evidence, moment))

    async def activate(
        self,
        model_name: str,
        version: int,
        *,
        expected: int | None = None,
        request_id: str = "",
        requested_by: str = "",
    ) -> Result:
        """Put a version into production. `expected`: the version that must be there now, 0 = none, None = any."""
        evidence = await self._evidence_for(self.catalog.find(model_name, version))
        return await self._change(
            lambda catalog, moment: steps.activate(
                catalog,
                model_name,
                version,
                evidence,
                moment,
                expected=expected,
                request_id=request_id,
                requested_by=requested_by,
            )
        )

    async def rollback(self, model_name: str, *, requested_by: str = "") -> Result:
        """Put the version back into production that was there before the present one."""
        evidence = Evidence(self._artifacts)
        with suppress(RegistryError):  # whether it can be done is decided on the stored state, below
            target = steps.rollback_target(self.catalog, model_name)
            evidence = await self._evidence_for(self.catalog.find(model_name, target))
        return await self._change(
            lambda catalog, moment: steps.rollback(catalog, model_name, evidence, moment, requested_by=requested_by)
        )

    async def archive(self, model_name: str, version: int) -> Result:
        return await self._change(lambda catalog, _: steps.archive(catalog, model_name, version))

    async def update_metadata(self, model_name: str, version: int, parts: Mapping[str, Any]) -> Result:
        """Replace the named parts (description, metrics, attributes)."""
        return await self._change(lambda catalog, _: steps.update_metadata(catalog, model_name, version, parts))

    async def delete(self, model_name: str, version: int) -> Result:
        return await self._change(lambda catalog, _: steps.delete(catalog, model_name, version))

    async def change(self, apply: Apply) -> Result:
        """Make a change of the caller's own. `apply` runs in the storage thread while the storage is locked."""
        return await self._change(apply)

    async def refresh(self) -> None:
        """Take up what others have made of the stored state."""
        if not await self._in_thread(partial(self._look, complain=False)):
            await asyncio.sleep(SETTLE_SECONDS)
            await self._in_thread(partial(self._look, complain=True))

    async def close(self) -> None:
        """Finish the changes that are under way."""
        if self._writer is not None:
            await self._writer

    async def _evidence_for(self, entry: Entry | None) -> Evidence:
        evidence = Evidence(self._artifacts)
        if entry is not None and entry.status is Status.STAGING:
            await asyncio.to_thread(evidence.gather, entry.path, entry.weights_files, whole=not entry.sha256)
        return evidence

    async def _change(self, apply: Apply) -> Result:
        waiting = _Waiting(apply, self._loop.create_future())
        self._waiting.append(waiting)
        if self._writer is None or self._writer.done():
            self._writer = self._loop.create_task(self._write_waiting())
        return await waiting.result

    async def _write_waiting(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            outcomes = await self._in_thread(partial(self._write, [waiting.apply for waiting in group]))
            await asyncio.sleep(0)  # those who watch are woken before those who wait here
            for waiting, outcome in zip(group, outcomes, strict=True):
                if waiting.result.done():  # the caller has gone
                    continue
                if isinstance(outcome, Result):
                    waiting.result.set_result(outcome)
                else:
                    waiting.result.set_exception(outcome)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """The event loop is woken once, for the result and the news that go before it: waking it costs."""
        try:
            return await self._loop.run_in_executor(self._thread, work)
        finally:
            while self._news:
                self._loop.call_soon(self._news.popleft())

    # What follows runs in the storage thread.

    def _write(self, group: Sequence[Apply]) -> Sequence[Result | Exception]:
        """Make the changes in order, write once, publish; a change that is refused leaves the others alone."""
        outcomes: list[Result | Exception] = []
        labels: list[str] = []
        after = self._state

        def step(source: Catalog) -> Catalog:
            nonlocal after
            before = lineage.follow(self._state, source, datetime.now(UTC))
            after = before
            outcomes.clear()  # the storage may ask again, with a newer catalog
            labels.clear()
            for apply in group:
                after, outcome, label = _apply(after, apply)
                outcomes.append(outcome)
                labels.append(label)
            if after is before:
                return source
            after = lineage.written(after)
            return after.source

        try:
            self._storage.transact(step)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must learn of it
            metrics.CHANGES.labels("failed").inc(len(group))
            self._after_failure(error)
            return [error] * len(group)
        for label in labels:
            metrics.CHANGES.labels(label).inc()
        self._publish(after)
        self._mended()
        return outcomes

    def _after_failure(self, error: Exception) -> None:
        if isinstance(error, RegistryFileInvalid):
            self._degrade(error)
        elif isinstance(error, CommitUncertain):
            self._look(complain=True)

    def _look(self, *, complain: bool) -> bool:
        """Load and publish; false if the file cannot be read, which is only remembered if `complain`."""
        try:
            source = self._storage.load()
        except RegistryFileInvalid as error:
            if complain:
                self._degrade(error)
            return self.problem is not None and str(self.problem) == str(error)
        except StorageUnavailable as error:
            if str(error) != self._unreachable:
                log.warning("cannot look at the stored registry; serving the last good state", reason=str(error))
                self._tell(error)
            self._unreachable = str(error)
            return True
        self._unreachable = ""
        self._publish(lineage.follow(self._state, source, datetime.now(UTC)))
        self._mended()
        return True

    def _publish(self, state: State) -> None:
        if state is self._state:
            return
        self._state = state
        metrics.show(state)
        self._news.extend(partial(listener, state) for listener in self._listeners)

    def _degrade(self, problem: RegistryFileInvalid) -> None:
        if str(problem) != str(self.problem):
            log.error(
                "registry file cannot be read; serving the last good state, refusing changes", reason=str(problem)
            )
        self._tell(problem)

    def _mended(self) -> None:
        if self.problem is not None:
            log.info("registry file can be read again")
            self._tell(None)

    def _tell(self, problem: RegistryError | None) -> None:
        self.problem = problem
        metrics.DEGRADED.set(problem is not None)
        self._news.extend(partial(listener, problem) for listener in self._problem_listeners)


@asynccontextmanager
async def open_registry(storage: Storage, artifacts: Artifacts) -> AsyncIterator[Registry]:
    """Load the stored state and serve it; closes the storage. Raises StorageUnavailable or RegistryFileInvalid."""
    with closing(storage), ThreadPoolExecutor(1, thread_name_prefix="registry-storage") as thread:
        state = await asyncio.get_running_loop().run_in_executor(thread, _load_first, storage)
        registry = Registry(storage, artifacts, thread, state)
        try:
            yield registry
        finally:
            await registry.close()


def _load_first(storage: Storage) -> State:
    storage.recover()
    return lineage.first(storage.load(), datetime.now(UTC))


def _apply(state: State, apply: Apply) -> tuple[State, Result | Exception, str]:
    """The state afterwards, what to answer, and what to count it as."""
    moment = Moment(datetime.now(UTC), state.revision + 1)
    try:
        change = apply(state.catalog, moment)
    except Exception as error:  # noqa: BLE001 - a fault in one change must not fail the others
        return state, error, "refused" if isinstance(error, RegistryError) else "failed"
    changed = change.catalog is not state.catalog
    after = lineage.advanced(state, change.catalog) if changed else state
    return (
        after,
        Result(change.entry, change.demoted, change.revision or after.revision),
        "done" if changed else "nothing",
    )
