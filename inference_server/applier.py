"""Brings a version into service: finds its file, loads it beside the running version, swaps it in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Protocol

import structlog

from inference_server import metrics
from inference_server.cache import Held
from inference_server.engine import Apart, LoadedModel, ModelVersion, Standby
from inference_server.errors import PreparationStopped
from inference_server.fetching import ModelFiles
from inference_server.follower import Aim
from inference_server.serving import ServedModel, ServedModels
from inference_server.state import StateFile

log = structlog.get_logger(__name__)

# One that takes long, or is never done, does not hold up the other models.
LOADS_AT_ONCE = 2
# What is superseded while it is prepared may end by itself for so long: it may be wanted again, and is quicker then.
FINISH_SECONDS = 10.0


class Load(Protocol):
    """Brings a version into memory, if need be prepared by `apart`. Raises ModelRefused, PreparationStopped."""

    def __call__(self, version: ModelVersion, *, apart: Apart) -> LoadedModel: ...


class Applier:
    """Does what followers aim at. `on_ready` is told whether any model runs; `standby` prepares what must be."""

    def __init__(
        self,
        models: ServedModels,
        files: ModelFiles,
        load: Load,
        state_file: StateFile,
        on_ready: Callable[[bool], None],
        standby: Standby | None = None,
    ) -> None:
        self._models = models
        self._files = files
        self._load = load
        self._state_file = state_file
        self._on_ready = on_ready
        self._held: dict[str, Held] = {}
        # On a device they would share its memory, and be no quicker.
        self._loader = ThreadPoolExecutor(LOADS_AT_ONCE if standby else 1, thread_name_prefix="load")
        self._standby = standby
        self._renew()

    async def apply(self, model: ServedModel, aim: Aim) -> bool:
        """Bring a version into service, unless another is wanted by then; say whether. Raises ModelRefused."""
        held = await self._files.find(aim.announcement.version, aim.superseded)
        if held is None:
            _say_superseded(aim)
            return False
        try:
            swapped = await self._load_and_swap(model, aim, held)
        except BaseException:
            held.release()
            raise
        if not swapped:
            held.release()
            return False
        # The cache keeps the file of the version that runs: it is what a start without the registry needs.
        self._keep(model.model_name, held)
        await asyncio.to_thread(self._state_file.remember, aim.announcement)
        return True

    def unload(self, model: ServedModel) -> None:
        """Serve the model no more, and do not come back to it after a restart."""
        model.unload()
        self._keep(model.model_name, None)
        self._on_ready(self._models.ready)
        self._state_file.forget(model.model_name)

    async def close(self) -> None:
        """Wait until nothing is being loaded; the followers must have ended."""
        await self._files.close()
        await asyncio.to_thread(self._loader.shutdown)
        if self._standby is not None:
            await asyncio.to_thread(self._standby.close)
        for name in list(self._held):
            self._keep(name, None)

    async def _load_and_swap(self, model: ServedModel, aim: Aim, held: Held) -> bool:
        version = aim.announcement.version
        aim.loading()
        start = perf_counter()
        found = replace(version, path=held.path)
        try:
            loaded = await self._loaded(found, aim.superseded)
        except PreparationStopped:
            _say_superseded(aim)
            return False
        metrics.LOAD_SECONDS.labels(model.model_name).observe(perf_counter() - start)
        if aim.superseded.is_set():
            _say_superseded(aim)
            await asyncio.to_thread(loaded.close)
            return False
        model.swap(loaded)
        self._on_ready(self._models.ready)
        metrics.ACTIVATIONS.labels(model.model_name, "applied").inc()
        log.info(
            "version answers",
            model_name=model.model_name,
            version=version.version,
            device=loaded.device,
            provider=loaded.provider,
            family=loaded.family.name,
            load_seconds=round(perf_counter() - start, 3),
        )
        return True

    async def _loaded(self, version: ModelVersion, superseded: asyncio.Event) -> LoadedModel:
        """The version in memory. Raises ModelRefused, and PreparationStopped where it was superseded for too long."""
        apart = Apart(self._standby)
        load = partial(self._load, version, apart=apart)
        stopping = asyncio.create_task(_stop_once_superseded(apart, superseded))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._loader, load)
        except asyncio.CancelledError:
            apart.stop()
            raise
        finally:
            stopping.cancel()
            self._renew()

    def _renew(self) -> None:
        if self._standby is not None:
            self._loader.submit(self._standby.renew)

    def _keep(self, model_name: str, held: Held | None) -> None:
        before = self._held.pop(model_name, None)
        if before is not None:
            before.release()
        if held is not None:
            self._held[model_name] = held


async def _stop_once_superseded(apart: Apart, superseded: asyncio.Event) -> None:
    """Unless it is wanted again by the end of the time it is given."""
    while not superseded.is_set():
        await superseded.wait()
        await asyncio.sleep(FINISH_SECONDS)
    apart.stop()


def _say_superseded(aim: Aim) -> None:
    version = aim.announcement.version
    log.info("version was superseded before it was loaded", model_name=version.model_name, version=version.version)
