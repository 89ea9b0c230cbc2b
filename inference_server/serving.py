"""What this server serves: for each model the version that answers, and how far it has come with the one announced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Semaphore

from inference_server import metrics
from inference_server.batcher import MAX_QUEUE, Batcher
from inference_server.engine import LoadedModel
from inference_server.errors import InvalidField, ModelNotReady, ModelNotServed


class State(StrEnum):
    """How far the server has come with the last version announced."""

    WAITING = "WAITING"
    LOADING = "LOADING"
    SERVING = "SERVING"
    REJECTED = "REJECTED"


class Sessions:
    """Where the versions of one model run: `runs` batches at a time of all of them; at most `max_queue` rows wait.

    There is one thread more so that what one batch gave is read while the next ones run.
    """

    def __init__(self, model_name: str, max_queue: int, runs: int) -> None:
        self._executor = ThreadPoolExecutor(runs + 1, thread_name_prefix=f"session {model_name}")
        self._turns = Semaphore(runs)
        self._max_queue = max_queue
        self._runs = runs

    def batcher(self, model: LoadedModel) -> Batcher:
        """The queue of one version."""
        return Batcher(model, self._executor, self._turns, runs=self._runs, max_queue=self._max_queue)

    def close(self) -> None:
        """No version runs any more."""
        self._executor.shutdown(wait=False)


class Running:
    """A loaded version in service. It is freed when it has been retired and the last lease on it is released."""

    def __init__(self, model: LoadedModel, sessions: Sessions) -> None:
        self.model = model
        self.batcher = sessions.batcher(model)
        self.freed = asyncio.Event()
        self._leases = 0
        self._retired = False
        self._freeing: asyncio.Task[None] | None = None

    def lease(self) -> Lease:
        """Keep the version loaded until the lease is released."""
        self._leases += 1
        return Lease(self)

    def retire(self) -> None:
        """No new work is coming: free the version as soon as nobody holds it."""
        self._retired = True
        self._free_if_unused()

    def release(self) -> None:
        """Give one lease back; for `Lease`."""
        self._leases -= 1
        self._free_if_unused()

    def _free_if_unused(self) -> None:
        if self._retired and not self._leases and self._freeing is None:
            self._freeing = asyncio.create_task(self._free())

    async def _free(self) -> None:
        await asyncio.to_thread(self.model.close)
        self.freed.set()


class Lease:
    """A hold on a running version; releasing it twice is the same as once."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self.running.release()

    def __enter__(self) -> Running:
        return self.running

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(slots=True)
class ServedModel:
    """One model name: its running version, if any, and what is known about the one announced last."""

    model_name: str
    seen_version: int = 0
    revision: int = 0
    state: State = State.WAITING
    last_error: str = ""
    cleared: bool = False
    frames_answered: int = 0
    frames_failed: int = 0
    requests_answered: int = 0
    requests_failed: int = 0
    swaps: int = 0
    running: Running | None = None
    max_queue: int = MAX_QUEUE
    runs_at_once: int = 1
    _sessions: Sessions = field(init=False)
    _swapped: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._sessions = Sessions(self.model_name, self.max_queue, self.runs_at_once)

    def lease(self) -> Lease:
        """Hold the running version. Raises ModelNotReady where there is none."""
        if self.running is None:
            raise ModelNotReady(self.model_name, self.last_error)
        return self.running.lease()

    def swap(self, model: LoadedModel) -> None:
        """Let `model` answer from now on; the version before it is freed once its last frame is answered."""
        before, self.running = self.running, Running(model, self._sessions)
        self.swaps += before is not None
        _show_running(before, value=0)
        _show_running(self.running, value=1)
        swapped, self._swapped = self._swapped, asyncio.Event()
        swapped.set()
        if before is not None:
            before.retire()

    def unload(self) -> None:
        """Stop answering; the version that ran is freed once its last frame is answered."""
        before, self.running = self.running, None
        self.state = State.WAITING
        _show_running(before, value=0)
        if before is not None:
            before.retire()

    async def successor(self, of: Running) -> Running:
        """Wait until another version than `of` runs, and return it."""
        while self.running is None or self.running is of:
            await self._swapped.wait()
        return self.running

    async def close(self) -> None:
        """Stop serving and free the running version; nothing may hold it any more."""
        running = self.running
        self.unload()
        if running is not None:
            await running.freed.wait()
        self._sessions.close()


class ServedModels:
    """All model names that this server serves. With `names` only those; with none, whatever is announced.

    Of each `runs_at_once` batches run at a time, and at most `max_queue` rows wait.
    """

    def __init__(self, names: Sequence[str] = (), *, max_queue: int = MAX_QUEUE, runs_at_once: int = 1) -> None:
        self._max_queue = max_queue
        self._runs_at_once = runs_at_once
        self._models = {name: self._new(name) for name in names}
        self._open = not names

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(sorted(self._models.values(), key=lambda model: model.model_name))

    @property
    def ready(self) -> bool:
        """Whether any model runs."""
        return any(model.running for model in self._models.values())

    def find(self, model_name: str) -> ServedModel:
        """The model that a request names; an empty name is the only one served. Raises ModelNotServed, InvalidField."""
        if not model_name:
            if len(self._models) != 1:
                raise InvalidField("model_name", f"a name, since this server serves {self._listing()}")
            return next(iter(self._models.values()))
        if model_name not in self._models:
            raise ModelNotServed(model_name, self._listing())
        return self._models[model_name]

    def announced(self, model_name: str) -> ServedModel | None:
        """The model that the registry speaks of; None where this server was not asked to serve it."""
        if self._open and model_name not in self._models:
            self._models[model_name] = self._new(model_name)
        return self._models.get(model_name)

    async def close(self) -> None:
        for model in self._models.values():
            await model.close()

    def _new(self, model_name: str) -> ServedModel:
        return ServedModel(model_name, max_queue=self._max_queue, runs_at_once=self._runs_at_once)

    def _listing(self) -> str:
        return ", ".join(sorted(self._models)) or "no model yet"


def _show_running(running: Running | None, *, value: int) -> None:
    if running is not None:
        model = running.model
        labels: Mapping[str, str] = {
            "model_name": model.version.model_name,
            "version": str(model.version.version),
            "device": model.device,
            "provider": model.provider,
        }
        if value:
            metrics.RUNNING.labels(**labels).set(value)
        else:
            metrics.RUNNING.remove(*labels.values())
