"""The inference server put together: one tree of what lives as long as what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import grpc
import structlog
from videoai import RegistryClient as BlockingClient
from videoai.aio import RegistryClient
from videoai.inference.v1 import inference_pb2_grpc

from inference_server import metrics
from inference_server.applier import Applier
from inference_server.cache import ModelCache
from inference_server.engine import PreparedModels, Standby, choose_device, load, pinning
from inference_server.errors import DeviceUnavailable
from inference_server.fetching import ModelFiles
from inference_server.pipeline import Pipeline
from inference_server.service import SERVICE, Identity, InferenceService
from inference_server.serving import ServedModels
from inference_server.settings import Settings
from inference_server.sources import AllowedHosts, Network, SourcePolicy
from inference_server.state import StateFile
from inference_server.tensors import SERVICE as TENSOR_SERVICE
from inference_server.tensors import Regions, TensorService, add_to
from inference_server.video import LAYERS, DecoderPool
from inference_server.watcher import Watcher
from server_kit import background
from server_kit.health import Health
from server_kit.startup import StartupError

log = structlog.get_logger(__name__)


@asynccontextmanager
async def inference_server(settings: Settings, server: grpc.aio.Server, health: Health) -> AsyncIterator[None]:
    """Serve what the registry has in production until left. Raises StartupError where the device is not to be had."""
    try:
        device = await asyncio.to_thread(choose_device, settings.device, settings.gpu_memory_limit)
    except DeviceUnavailable as error:
        raise StartupError(f"--device {settings.device}: {error}") from error
    device = replace(device, run_threads=settings.run_threads)
    async with AsyncExitStack() as stack:
        models = ServedModels(settings.models, max_queue=settings.max_queue, runs_at_once=device.runs_at_once)
        stack.push_async_callback(models.close)
        client = await stack.enter_async_context(RegistryClient(settings.registry))
        state_file = StateFile(settings.state_file)
        applier = Applier(
            models,
            _model_files(settings),
            partial(load, device=device, max_batch=settings.max_batch, prepared=_prepared_models(settings)),
            state_file,
            on_ready=lambda ready: health.set(serving=ready),
            standby=Standby() if device.kind == "cpu" else None,
        )
        watcher = Watcher(
            client,
            models,
            applier,
            state_file,
            instance_id=settings.instance_id,
            root=settings.root,
            names=settings.models,
            unload_cleared=settings.unload_cleared,
        )
        sandbox = _Sandbox()
        pool = await stack.enter_async_context(DecoderPool(settings.decoders, sandbox.show, pinning(device)))
        pipeline = Pipeline(models, pool, settings.max_streams)
        sources = _source_policy(settings)
        services = (SERVICE, TENSOR_SERVICE)
        identity = Identity(
            settings.instance_id, settings.registry, lambda: watcher.connected, services, sandbox.active
        )
        regions = Regions(settings.shared_memory)
        stack.callback(regions.close)
        add_to(server, TensorService(models, regions, watcher))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(
            InferenceService(pipeline, models, sources, identity), server
        )
        await stack.enter_async_context(watcher.running())
        await stack.enter_async_context(background.running(_end_streams(pipeline, health, settings.grace_seconds)))
        if settings.fail_without_model:
            await stack.enter_async_context(background.running(_require_model(models, watcher, health)))
        yield


def _model_files(settings: Settings) -> ModelFiles:
    limit = settings.max_cache_bytes
    cache = ModelCache(settings.cache_folder, limit) if limit else None
    return ModelFiles(partial(BlockingClient, settings.registry), cache)


def _prepared_models(settings: Settings) -> PreparedModels:
    return PreparedModels(settings.prepared_folder, settings.max_prepared_bytes)


def _source_policy(settings: Settings) -> SourcePolicy:
    try:
        network = Network(
            AllowedHosts(settings.allow_host), settings.connect_timeout_seconds, settings.read_timeout_seconds
        )
        return SourcePolicy(settings.allow_folder, network, settings.give_up_seconds)
    except OSError as error:
        raise StartupError(f"--allow-folder {error.filename}: {error.strerror}") from error


class _Sandbox:
    """Shows what decoders are confined by: in metrics always, in the log when it changes."""

    def __init__(self) -> None:
        self._layers: Collection[str] | None = None

    def active(self) -> Collection[str]:
        """The layers that decoders are in; none until the first process to fork from is ready."""
        return self._layers or ()

    def show(self, layers: Collection[str]) -> None:
        for layer in LAYERS:
            metrics.DECODER_SANDBOX.labels(layer).set(layer in layers)
        if layers == self._layers:
            return
        self._layers = layers
        if missing := sorted(set(LAYERS) - set(layers)):
            log.warning("decoders are confined less than they could be", missing=missing, active=[*layers])
        else:
            log.info("decoders are confined", active=[*layers])


async def _end_streams(pipeline: Pipeline, health: Health, grace_seconds: float) -> None:
    """Give running streams most of the grace period to finish, then end them with a status of their own."""
    await health.draining.wait()
    await asyncio.sleep(grace_seconds * 0.8)
    pipeline.stop()


async def _require_model(models: ServedModels, watcher: Watcher, health: Health) -> None:
    await watcher.synced.wait()
    missing = [model.model_name for model in models if not model.seen_version or model.cleared]
    if missing or not list(models):
        of = f" for {', '.join(missing)}" if missing else ""
        health.fail(StartupError(f"No production model found in registry{of}"))
