"""The registry server put together: one tree of what lives as long as what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import ModuleType

import grpc
import structlog
from videoai.registry.v1 import registry_pb2_grpc

from registry_server.artifacts import MODELS_FOLDER, ArtifactFolder
from registry_server.errors import RegistryError
from registry_server.follow import follow_files
from registry_server.registry import open_registry
from registry_server.rollout import Rollouts
from registry_server.service import WRITES, RegistryService
from registry_server.settings import Settings
from registry_server.staging import StagingFolder
from registry_server.transfers import Limits, clear_uploads, open_transfers
from registry_server.watch import WatchHub
from server_kit import background
from server_kit.health import Health
from server_kit.startup import StartupError

log = structlog.get_logger(__name__)


@asynccontextmanager
async def registry_server(
    settings: Settings, server: grpc.aio.Server, health: Health
) -> AsyncIterator[Mapping[str, str]]:
    """Serve the registry of `settings.root` until left; yields the addresses of doors beside gRPC.

    Raises StartupError where the registry cannot be read or a door cannot be opened.
    """
    folder = settings.root / MODELS_FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StartupError(f"--root {settings.root}: cannot create {MODELS_FOLDER}/: {error.strerror}") from error
    location = settings.storage.under(settings.root)
    storage = location.open(settings.lock_timeout)
    artifacts, staging = ArtifactFolder(settings.root), StagingFolder(settings.root)
    async with AsyncExitStack() as stack:
        try:
            registry = await stack.enter_async_context(open_registry(storage, artifacts))
            await asyncio.to_thread(clear_uploads, staging, storage)
        except RegistryError as error:
            raise StartupError(str(error)) from error
        hub = WatchHub(registry.state, max_watchers=settings.max_watchers, heartbeat_seconds=settings.heartbeat_seconds)
        registry.listen(hub.publish)
        registry.listen_for_problems(lambda problem: health.set(serving=problem is None, service=WRITES))
        works = follow_files(registry, storage.files), _close_when_draining(hub, health)
        await stack.enter_async_context(background.running(*works))
        limits = Limits(settings.max_upload_bytes, settings.max_uploads)
        transfers = await stack.enter_async_context(open_transfers(registry, artifacts, staging, limits))
        service = RegistryService(registry, hub, Rollouts(), transfers, str(location))
        registry_pb2_grpc.add_ModelRegistryServiceServicer_to_server(service, server)
        doors = {}
        if settings.rest is not None:
            door = _rest().serving(registry, settings.rest, health, settings.grace_seconds)
            doors["rest"] = await stack.enter_async_context(door)
        health.set(serving=True)
        health.set(serving=registry.problem is None, service=WRITES)
        log.info("registry loaded", file=str(location.path), versions=len(registry.catalog.entries))
        yield doors


def _rest() -> ModuleType:
    """The package that serves HTTP, which stands on packages of its own. Raises StartupError."""
    try:
        from registry_server import rest
    except ImportError as error:
        raise StartupError(f"--rest needs more packages: pip install 'videoai[rest]' ({error})") from error
    return rest


async def _close_when_draining(hub: WatchHub, health: Health) -> None:
    """A watch has no end of its own; it must not use up the grace period."""
    await health.draining.wait()
    hub.close()
