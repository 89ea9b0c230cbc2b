"""The flags that say which videos are taken, and how much of one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from inference_server.video import DecoderSettings
from inference_server.video.codecs import CODECS, DEFAULT_CODECS
from inference_server.video.containers import CONTAINERS, DEFAULT_CONTAINERS

DEFAULT = "default"
_DEFAULTS = DecoderSettings()


def _names(known: Iterable[str], default: tuple[str, ...]) -> Callable[..., tuple[str, ...]]:
    """A click callback: names out of `known`, of which "default" stands for those of `default`."""

    def check(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
        names = dict.fromkeys(name for given in value for name in (default if given == DEFAULT else (given,)))
        unknown = ", ".join(repr(name) for name in names if name not in known)
        if unknown:
            raise click.BadParameter(f"expected default, {', '.join(sorted(known))}; got {unknown}", context, parameter)
        return tuple(names)

    return check


def _limit(name: str, least: int, text: str, shown: str | None = None) -> dict[str, Any]:
    default = getattr(_DEFAULTS, name)
    range_ = click.FloatRange if isinstance(default, float) else click.IntRange
    return {"type": range_(least), "default": default, "show_default": shown or True, "help": text}


# What click is told of each flag.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--allow-container": {
        "multiple": True,
        "metavar": "NAME",
        "default": (DEFAULT,),
        "callback": _names(CONTAINERS, DEFAULT_CONTAINERS),
        "help": "Container to take; if given, no others. Repeatable; default stands for "
        + ", ".join(DEFAULT_CONTAINERS)
        + ".",
    },
    "--allow-codec": {
        "multiple": True,
        "metavar": "NAME",
        "default": (DEFAULT,),
        "callback": _names(CODECS, DEFAULT_CODECS),
        "help": "Codec to take; if given, no others. Repeatable; default stands for " + ", ".join(DEFAULT_CODECS) + ".",
    },
    "--max-pixels": _limit("max_pixels", 1, "Largest picture, width x height."),
    "--max-tracks": _limit("max_tracks", 1, "Streams of pictures, sound and text in one container."),
    "--max-video-frames": _limit("max_video_frames", 0, "Frames after which a video is ended; 0: never."),
    "--max-video-seconds": _limit(
        "max_video_seconds", 0, "Time after which a video is ended, by its timestamps; 0: never."
    ),
    "--max-video-bytes": _limit("max_video_bytes", 0, "Encoded bytes after which a video is ended; 0: never."),
    "--max-frame-cpu-seconds": _limit(
        "max_frame_cpu_seconds", 0, "Processor time that one frame, or picture, may need before its video is ended."
    ),
    "--corrupt-packet-budget": _limit(
        "corrupt_packet_budget", 0, "Packets that may fail to decode before a video is ended."
    ),
    "--decode-threads": _limit(
        "threads", 1, "Threads that decode all videos together; each has one at least.", "one for each core"
    ),
    "--spool-folder": {
        "type": click.Path(exists=True, file_okay=False, path_type=Path),
        "default": tempfile.gettempdir(),
        "show_default": "the system's folder for temporary files",
        "help": "Where videos wait whose index is at their end.",
    },
    "--max-spool-bytes": _limit("max_spool_bytes", 1, "Largest such video, in bytes."),
}
_FIELDS = {"allow_container": "containers", "allow_codec": "codecs", "decode_threads": "threads"}


def decoders(flags: Mapping[str, Any]) -> tuple[DecoderSettings, dict[str, Any]]:
    """What the flags above say, and the other flags."""
    mine = {name.removeprefix("--").replace("-", "_") for name in OPTIONS}
    fields = {_FIELDS.get(name, name): value for name, value in flags.items() if name in mine}
    try:
        settings = DecoderSettings(**fields)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return settings, {name: value for name, value in flags.items() if name not in mine}
