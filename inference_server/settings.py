"""Flags and environment variables of videoai-inference."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from inference_server import video_settings
from inference_server.sources import HostRule
from inference_server.video import DecoderSettings
from server_kit.options import check_address, serve_options

PREFIX = "VIDEOAI_INFERENCE"
DEFAULT_LISTEN = "127.0.0.1:50052"
DEFAULT_REGISTRY = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class Settings:
    """How an inference server is to run; see `videoai-inference --help` for the meaning of each."""

    root: Path
    registry: str
    models: tuple[str, ...]
    device: str
    gpu_memory_limit: int | None
    instance_id: str
    state_file: Path
    cache_folder: Path
    max_cache_bytes: int
    prepared_folder: Path
    max_prepared_bytes: int
    fail_without_model: bool
    unload_cleared: bool
    max_streams: int
    max_batch: int
    max_queue: int
    run_threads: int | None
    decoders: DecoderSettings
    shared_memory: str | None
    allow_folder: tuple[Path, ...]
    allow_host: tuple[HostRule, ...]
    connect_timeout_seconds: float
    read_timeout_seconds: float
    give_up_seconds: float
    grace_seconds: float


def _option(name: str, **attributes: Any) -> Callable[[Any], Any]:
    envvar = attributes.pop("envvar", f"{PREFIX}_{name.removeprefix('--').replace('-', '_').upper()}")
    return click.option(name, envvar=envvar, show_envvar=True, **attributes)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every flag of the inference server to a click command."""
    decorators = (
        _option(
            "--root",
            envvar="VIDEOAI_ROOT",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            default=".",
            show_default="the current folder",
            help="Folder that holds models/.",
        ),
        serve_options(PREFIX, DEFAULT_LISTEN),
        _option(
            "--registry",
            envvar="VIDEOAI_REGISTRY",
            metavar="ADDR",
            default=DEFAULT_REGISTRY,
            show_default=True,
            callback=check_address,
            help="Address of the registry to follow: host:port or unix:path.",
        ),
        _option("--model", metavar="NAME", multiple=True, help="Model to serve; all by default. Repeatable."),
        _option(
            "--device",
            default="auto",
            show_default=True,
            metavar="auto|cuda[:N]|tensorrt[:N]|cpu",
            callback=_check_device,
            help="Where sessions run. cuda and tensorrt refuse to start where they would not; auto takes CUDA where it"
            " works, and never TensorRT.",
        ),
        _option(
            "--gpu-memory-limit",
            type=click.IntRange(1),
            metavar="BYTES",
            help="Most bytes of the device's memory for each loaded version, two of which are there during a swap."
            " [default: as much as there is]",
        ),
        _option(
            "--instance-id", help="Name of this server in rollouts; unique. [default: host name and a random part]"
        ),
        _option(
            "--state-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Where to remember the versions that ran, for a start without the registry."
            " [default: ROOT/.videoai/inference-state.json]",
        ),
        _option(
            "--cache-folder",
            type=click.Path(file_okay=False, path_type=Path),
            help="Where model files are kept that are not under --root and were fetched from the registry; several"
            " servers may share it. [default: model-cache beside the state file]",
        ),
        _option(
            "--max-cache-bytes",
            type=click.IntRange(0),
            default=10 * 2**30,
            show_default=True,
            help="Most bytes of model files to keep there; 0 fetches nothing.",
        ),
        _option(
            "--prepared-folder",
            type=click.Path(file_okay=False, path_type=Path),
            help="Where optimised models and TensorRT's engines are kept, so that loading the same file again is quick;"
            " several servers may share it. [default: prepared-models beside the state file]",
        ),
        _option(
            "--max-prepared-bytes",
            type=click.IntRange(0),
            default=2 * 2**30,
            show_default=True,
            help="Most bytes to keep there; 0 keeps none.",
        ),
        _option("--fail-without-model", is_flag=True, help="Exit if the registry has no version in production."),
        _option(
            "--unload-cleared",
            is_flag=True,
            help="Stop serving a model that has no version in production any more, instead of going on with the last.",
        ),
        _option(
            "--max-streams", type=click.IntRange(1), default=64, show_default=True, help="Videos analysed at a time."
        ),
        _option(
            "--max-batch",
            type=click.IntRange(1, 256),
            default=8,
            show_default=True,
            help="Frames run together, for models with a dynamic batch dimension.",
        ),
        _option(
            "--max-queue",
            type=click.IntRange(1),
            default=1024,
            show_default=True,
            help="Pictures, and rows of tensors, that may wait for a model; more are refused. Frames of videos are not"
            " counted against it: their streams wait.",
        ),
        _option(
            "--run-threads",
            type=click.IntRange(1, 1024),
            metavar="N",
            help="Threads that work on one run of a model on the CPU; as many runs go on at a time as that leaves cores"
            " for. Fewer threads give more answers in all, and each takes longer."
            " [default: one for each core, in up to 4 runs, or one alone where each of up to 4 cores has a run]",
        ),
        *(_option(name, **attributes) for name, attributes in video_settings.OPTIONS.items()),
        _option(
            "--shared-memory",
            metavar="PREFIX",
            help="Let callers on this machine send tensors in POSIX shared memory whose name begins with PREFIX; /"
            " allows any name. Not allowed by default.",
        ),
        _option(
            "--allow-folder",
            multiple=True,
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Folder whose files AnalyzeSource may read, with all below it; none by default. Repeatable.",
        ),
        _option(
            "--allow-host",
            multiple=True,
            metavar="HOST[:PORT]|CIDR[:PORT]",
            callback=_host_rules,
            help="Host whose streams AnalyzeSource may read; none by default. Addresses that are not public must be"
            " listed as such: 192.168.1.0/24. Repeatable.",
        ),
        _option(
            "--connect-timeout-seconds",
            type=click.FloatRange(min=0, min_open=True),
            default=10.0,
            show_default=True,
            help="How long AnalyzeSource waits for a host to answer.",
        ),
        _option(
            "--read-timeout-seconds",
            type=click.FloatRange(min=0, min_open=True),
            default=10.0,
            show_default=True,
            help="A source that sends less than 1 KiB in so long has broken off.",
        ),
        _option(
            "--give-up-seconds",
            type=click.FloatRange(min=0),
            default=300.0,
            show_default=True,
            help="How long AnalyzeSource waits for a live source that has broken off; a call may ask for less.",
        ),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def settings(
    *,
    root: Path,
    model: tuple[str, ...],
    instance_id: str | None,
    state_file: Path | None,
    cache_folder: Path | None,
    prepared_folder: Path | None,
    **rest: Any,
) -> Settings:
    """The settings that the flags and the environment give."""
    state_file = state_file or root.resolve() / ".videoai" / "inference-state.json"
    decoders, rest = video_settings.decoders(rest)
    return Settings(
        decoders=decoders,
        root=root.resolve(),
        models=tuple(dict.fromkeys(model)),
        instance_id=instance_id or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
        state_file=state_file,
        cache_folder=cache_folder or state_file.parent / "model-cache",
        prepared_folder=prepared_folder or state_file.parent / "prepared-models",
        **rest,
    )


def read_object(context: click.Context, parameter: click.Parameter, value: str) -> Mapping[str, Any]:
    """A click callback: a JSON object."""
    try:
        found = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"expected a JSON object: {error}", context, parameter) from None
    if not isinstance(found, dict):
        raise click.BadParameter(f"expected a JSON object, got {value!r}", context, parameter)
    return found


def _host_rules(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[HostRule, ...]:
    try:
        return tuple(HostRule.parse(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def _check_device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    name, _, index = value.partition(":")
    numbered = name in {"cuda", "tensorrt"}
    if value in {"auto", "cpu"} or (numbered and (value == name or (index.isascii() and index.isdigit()))):
        return value
    raise click.BadParameter(f"expected auto, cuda[:N], tensorrt[:N] or cpu, got {value!r}", context, parameter)
