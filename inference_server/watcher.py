"""Follows the registry: every version it puts into production is loaded beside the running one, then swapped in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import structlog
from google.protobuf.json_format import MessageToDict
from videoai.aio import RegistryClient
from videoai.errors import VideoAIError
from videoai.registry.v1 import registry_pb2

from inference_server import metrics
from inference_server.engine import LoadedModel, ModelVersion
from inference_server.errors import ModelRefused
from inference_server.serving import ServedModel, ServedModels, State
from inference_server.state import Announcement, StateFile

log = structlog.get_logger(__name__)

Load = Callable[[ModelVersion], LoadedModel]
ReportState = Literal["RECEIVED", "LOADING", "APPLIED", "REJECTED"]


@dataclass(frozen=True, slots=True)
class Report:
    """How far this server has come with an announcement."""

    announcement: Announcement
    state: ReportState
    running_version: int
    error: str = ""


class Watcher:
    """Turns the registry's watch into running versions, and tells the registry how it went."""

    def __init__(
        self,
        client: RegistryClient,
        models: ServedModels,
        load: Load,
        state_file: StateFile,
        *,
        instance_id: str,
        root: Path,
        names: tuple[str, ...],
        unload_cleared: bool,
        on_ready: Callable[[bool], None],
    ) -> None:
        self._client = client
        self._models = models
        self._load = load
        self._state_file = state_file
        self._instance_id = instance_id
        self._root = root
        self._names = names
        self._unload_cleared = unload_cleared
        self._on_ready = on_ready
        self._followers: dict[str, _Follower] = {}
        self._reporter = _Reporter(client, instance_id)
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self.connected = False
        self.synced = asyncio.Event()
        self.unreachable = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch until left."""
        tasks = [asyncio.create_task(part) for part in (self._watch(), self._reporter.run(), self._start_from_state())]
        for task in tasks:
            task.add_done_callback(_log_failure)
        try:
            yield
        finally:
            followers = [follower.task for follower in self._followers.values()]
            for task in (*tasks, *followers):
                task.cancel()
            await asyncio.gather(*tasks, *followers, return_exceptions=True)
            await asyncio.to_thread(self._loader.shutdown)

    async def _watch(self) -> None:
        watch = self._client.watch(self._names, instance_id=self._instance_id, on_connection=self._on_connection)
        async for event in watch:
            match event.WhichOneof("event"):
                case "activated":
                    self._announce(self._announcement(event.activated.model, event.revision))
                case "cleared":
                    self._cleared(event.cleared.model_name)
                case "synced":
                    self._on_synced()

    def _on_connection(self, connected: bool) -> None:  # noqa: FBT001 - the client's callback
        if not connected:
            self.connected = False
            metrics.REGISTRY_CONNECTED.set(0)
            self.unreachable.set()

    def _on_synced(self) -> None:
        self.connected = True
        metrics.REGISTRY_CONNECTED.set(1)
        self.synced.set()
        log.info("in step with the registry")
        # A registry that was restarted has forgotten what was reported.
        self._reporter.repeat()

    async def _start_from_state(self) -> None:
        """If the registry does not answer at once, run what ran before."""
        remembered = await asyncio.to_thread(self._state_file.load)
        await asyncio.wait(
            [asyncio.ensure_future(event.wait()) for event in (self.synced, self.unreachable)],
            timeout=5,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self.synced.is_set():
            return
        for known in remembered:
            model = self._models.announced(known.version.model_name)
            if model is not None and not model.seen_version:
                log.warning(
                    "registry does not answer, starting with the last version known",
                    model_name=known.version.model_name,
                    version=known.version.version,
                )
                self._announce(known)

    def _announcement(self, model: registry_pb2.Model, revision: int) -> Announcement:
        attributes: dict[str, Any] = MessageToDict(model.metadata.attributes)
        version = ModelVersion(model.model_name, model.version, self._root / model.path, model.sha256, attributes)
        return Announcement(version, revision)

    def _announce(self, announcement: Announcement) -> None:
        name = announcement.version.model_name
        model = self._models.announced(name)
        if model is None:
            return
        if name not in self._followers:
            self._followers[name] = _Follower(model, self._apply, self._reporter)
        self._followers[name].announce(announcement)

    async def _apply(self, model: ServedModel, announcement: Announcement, wanted: Callable[[], bool]) -> None:
        """Load a version and swap it in, unless another is `wanted` by then. Raises ModelRefused."""
        name, number = model.model_name, announcement.version.version
        start = perf_counter()
        loaded = await asyncio.get_running_loop().run_in_executor(self._loader, self._load, announcement.version)
        metrics.LOAD_SECONDS.labels(name).observe(perf_counter() - start)
        if not wanted():
            log.info("version was superseded while it was loaded", model_name=name, version=number)
            await asyncio.to_thread(loaded.close)
            return
        model.swap(loaded)
        self._on_ready(self._models.ready)
        metrics.ACTIVATIONS.labels(name, "applied").inc()
        log.info(
            "version answers",
            model_name=name,
            version=number,
            device=loaded.device,
            provider=loaded.provider,
            family=loaded.family.name,
            load_seconds=round(perf_counter() - start, 3),
        )
        await asyncio.to_thread(self._state_file.remember, announcement)

    def _cleared(self, name: str) -> None:
        model = self._models.announced(name) if name in self._followers else None
        if model is None or model.cleared:
            return
        model.cleared = True
        if self._unload_cleared:
            log.warning("no version is in production any more, unloading", model_name=name)
            self._followers[name].forget()
            model.unload()
            self._on_ready(self._models.ready)
            self._state_file.forget(name)
        else:
            running = model.running.model.version.version if model.running else 0
            log.warning("no version is in production any more, going on with the last", model_name=name, version=running)


Apply = Callable[[ServedModel, Announcement, Callable[[], bool]], Any]


class _Follower:
    """Brings one model to the version announced last; what was announced in between may be skipped."""

    def __init__(self, model: ServedModel, apply: Apply, reporter: _Reporter) -> None:
        self._model = model
        self._apply = apply
        self._reporter = reporter
        self._wanted: Announcement | None = None
        self._refused: ModelVersion | None = None
        self._wake = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"follow {model.model_name}")
        self.task.add_done_callback(_log_failure)

    def announce(self, announcement: Announcement) -> None:
        """Let this be the version to run."""
        self._model.cleared = False
        if announcement != self._wanted:
            self._wanted = announcement
            self._wake.set()

    def forget(self) -> None:
        """Let no version be the one to run."""
        self._wanted = self._refused = None

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._wanted is not None:
                await self._bring_about(self._wanted)

    async def _bring_about(self, wanted: Announcement) -> None:
        model, version = self._model, wanted.version
        model.seen_version, model.revision = version.version, wanted.revision
        if version == self._refused:  # the same file, announced again: it was refused for good reason
            self._report(wanted, "REJECTED")
            return
        self._refused = None
        if self._runs(version):
            self._settle(wanted, State.SERVING, "APPLIED")
            return
        self._settle(wanted, State.LOADING, "LOADING")
        try:
            await self._apply(model, wanted, lambda: self._wanted is wanted)
        except ModelRefused as error:
            self._refuse(wanted, str(error))
        except Exception:  # noqa: BLE001 - whatever a model file does, the version that runs goes on
            log.exception("version failed to load", model_name=model.model_name, version=version.version)
            self._refuse(wanted, "it failed to load for a reason that is not its own, see the server's log")
        else:
            if self._runs(version):
                self._settle(wanted, State.SERVING, "APPLIED")

    def _runs(self, version: ModelVersion) -> bool:
        return self._model.running is not None and self._model.running.model.version == version

    def _refuse(self, wanted: Announcement, reason: str) -> None:
        if self._wanted is wanted:
            self._refused = wanted.version
        self._settle(wanted, State.REJECTED, "REJECTED", reason)
        metrics.ACTIVATIONS.labels(self._model.model_name, "rejected").inc()
        log.error(
            "version refused, going on with the one before",
            model_name=self._model.model_name,
            version=wanted.version.version,
            running_version=self._running_version(),
            reason=reason,
        )

    def _settle(self, wanted: Announcement, state: State, reported: ReportState, error: str = "") -> None:
        self._model.state, self._model.last_error = state, error
        self._report(wanted, reported)

    def _report(self, wanted: Announcement, reported: ReportState) -> None:
        self._reporter.tell(Report(wanted, reported, self._running_version(), self._model.last_error))

    def _running_version(self) -> int:
        return self._model.running.model.version.version if self._model.running else 0


class _Reporter:
    """Tells the registry the latest report on each model; what it could not tell it tells again."""

    def __init__(self, client: RegistryClient, instance_id: str) -> None:
        self._client = client
        self._instance_id = instance_id
        self._latest: dict[str, Report] = {}
        self._untold: set[str] = set()
        self._wake = asyncio.Event()

    def tell(self, report: Report) -> None:
        self._latest[report.announcement.version.model_name] = report
        self._untold.add(report.announcement.version.model_name)
        self._wake.set()

    def repeat(self) -> None:
        """Tell everything again."""
        self._untold.update(self._latest)
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._untold:
                name = self._untold.pop()
                try:
                    await self._send(self._latest[name])
                except VideoAIError as error:
                    # Repeated when the watch is in step again, or with the next report.
                    log.debug("report did not reach the registry", model_name=name, reason=str(error))
                    self._untold.add(name)
                    break

    async def _send(self, report: Report) -> None:
        version = report.announcement.version
        await self._client.report(
            instance_id=self._instance_id,
            model_name=version.model_name,
            version=version.version,
            revision=report.announcement.revision,
            state=registry_pb2.ModelState.Value(f"MODEL_STATE_{report.state}"),
            running_version=report.running_version,
            error=report.error,
        )


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a background task failed", task=task.get_name(), exc_info=task.exception())
