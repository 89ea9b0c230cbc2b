"""Follows the registry: every version it puts into production is loaded beside the running one, then swapped in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from google.protobuf.json_format import MessageToDict
from videoai.aio import RegistryClient
from videoai.errors import VideoAIError
from videoai.registry.v1 import registry_pb2
from videoai.watching import Activated, Cleared, Disconnected, Synced

from inference_server import metrics
from inference_server.applier import Applier
from inference_server.engine import ModelVersion
from inference_server.errors import ModelNotReady
from inference_server.follower import Follower
from inference_server.reporter import Report, Reporter
from inference_server.serving import ServedModel, ServedModels, State
from inference_server.state import Announcement, StateFile
from server_kit import background

log = structlog.get_logger(__name__)

REFUSED_RETRY_SECONDS = 30.0
REGISTRY_ANSWER_SECONDS = 5.0  # before the server starts with what it ran last


class Watcher:
    """Turns the registry's watch into running versions, and tells the registry how it went."""

    def __init__(
        self,
        client: RegistryClient,
        models: ServedModels,
        applier: Applier,
        state_file: StateFile,
        *,
        instance_id: str,
        root: Path,
        names: tuple[str, ...],
        unload_cleared: bool,
    ) -> None:
        self._client = client
        self._models = models
        self._applier = applier
        self._state_file = state_file
        self._instance_id = instance_id
        self._root = root
        self._names = names
        self._unload_cleared = unload_cleared
        self._followers: dict[str, Follower] = {}
        self._reporter = Reporter(client, instance_id)
        self.connected = False
        self.synced = asyncio.Event()
        self.unreachable = asyncio.Event()
        self._announced: dict[str, Announcement] = {}
        self._unloaded: dict[str, Announcement] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch until left."""
        async with background.running(self._keep_watching(), self._reporter.run(), self._start_from_state()):
            try:
                yield
            finally:
                await background.stop(*(follower.task for follower in self._followers.values()))
                await self._applier.close()

    async def _keep_watching(self) -> None:
        """Watch, and where the registry refuses for good reason, ask again later: someone may mend it."""
        while True:
            try:
                await self._watch()
            except VideoAIError as error:
                log.error("the registry refuses to be watched", reason=str(error), retry_seconds=REFUSED_RETRY_SECONDS)
                self._out_of_step(str(error), REFUSED_RETRY_SECONDS)
            await asyncio.sleep(REFUSED_RETRY_SECONDS)

    async def _watch(self) -> None:
        told: set[str] = set()
        async for event in self._client.watch(self._names, instance_id=self._instance_id):
            match event:
                case Activated(model=model, revision=revision):
                    told.add(model.model_name)
                    self._announce(self._announcement(model, revision))
                case Cleared(model_name=name):
                    told.add(name)
                    self._cleared(name)
                case Synced(reset=reset):
                    for gone in self._followers.keys() - told if reset else ():
                        self._cleared(gone)
                    told.clear()
                    self._in_step()
                case Disconnected(reason=reason, retry_seconds=seconds):
                    told.clear()
                    self._out_of_step(reason, seconds)

    def _in_step(self) -> None:
        self.connected = True
        metrics.REGISTRY_CONNECTED.set(1)
        self.synced.set()
        log.info("in step with the registry")
        # A registry that was restarted has forgotten what was reported.
        self._reporter.repeat()

    def _out_of_step(self, reason: str, retry_seconds: float) -> None:
        say = log.warning if self.connected or not self.unreachable.is_set() else log.debug
        say("registry cannot be reached, trying again", reason=reason, retry_seconds=round(retry_seconds, 1))
        self.connected = False
        metrics.REGISTRY_CONNECTED.set(0)
        self.unreachable.set()

    async def _start_from_state(self) -> None:
        """If the registry does not answer at once, run what ran before."""
        remembered = await asyncio.to_thread(self._state_file.load)
        answers = [asyncio.ensure_future(event.wait()) for event in (self.synced, self.unreachable)]
        await asyncio.wait(answers, timeout=REGISTRY_ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for answer in answers:
            answer.cancel()
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

    async def load(self, model: ServedModel) -> None:
        """Serve the version that is in production, if it is not served; wait for it. Raises ModelNotReady."""
        announced = self._announced.get(model.model_name)
        if announced is None or model.cleared:
            raise ModelNotReady(model.model_name, "the registry has none in production")
        follower = self._followers[model.model_name]
        if self._unloaded.pop(model.model_name, None) is not None or model.state is State.REJECTED:
            follower.forget()  # so that a version that was refused is tried again
            follower.announce(announced)
        await follower.settled()
        if model.running is None or model.running.model.version.version != announced.version.version:
            raise ModelNotReady(model.model_name, model.last_error)

    def unload(self, model: ServedModel) -> None:
        """Serve the model no more, until it is loaded again or the registry announces another version."""
        announced = self._announced.get(model.model_name)
        if announced is None:
            return
        log.warning("unloaded, as a caller asked", model_name=model.model_name)
        self._unloaded[model.model_name] = announced
        self._followers[model.model_name].forget()
        self._applier.unload(model)
        model.last_error = "unloaded, as a caller asked"
        self._reporter.tell(Report(announced, "REJECTED", 0, model.last_error))

    def _announce(self, announcement: Announcement) -> None:
        name = announcement.version.model_name
        model = self._models.announced(name)
        if model is None:
            return
        self._announced[name] = announcement
        if (unloaded := self._unloaded.get(name)) is not None and unloaded.version == announcement.version:
            model.cleared = False
            return
        self._unloaded.pop(name, None)
        if name not in self._followers:
            self._followers[name] = Follower(model, self._applier.apply, self._reporter)
        self._followers[name].announce(announcement)

    def _cleared(self, name: str) -> None:
        model = self._models.announced(name) if name in self._followers else None
        if model is None or model.cleared:
            return
        model.cleared = True
        if self._unload_cleared:
            log.warning("no version is in production any more, unloading", model_name=name)
            self._followers[name].forget()
            self._applier.unload(model)
        else:
            running = model.running.model.version.version if model.running else 0
            log.warning(
                "no version is in production any more, going on with the last", model_name=name, version=running
            )
