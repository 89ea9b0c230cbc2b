"""Flags and environment variables of videoai-registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from registry_server import locations
from registry_server.locations import Location
from server_kit.options import DEFAULT_GRACE_SECONDS, check_address, serve_options

PREFIX = "VIDEOAI_REGISTRY"
DEFAULT_LISTEN = "127.0.0.1:50051"
DEFAULT_STORAGE = locations.parse(locations.DEFAULT)
DEFAULT_LOCK_TIMEOUT_SECONDS = 5.0
DEFAULT_HEARTBEAT_SECONDS = 15.0
DEFAULT_MAX_WATCHERS = 10_000
DEFAULT_MAX_UPLOAD_BYTES = 2 * 2**30
DEFAULT_MAX_UPLOADS = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """How a registry server is to run; see `videoai-registry --help` for the meaning of each."""

    root: Path
    storage: Location = DEFAULT_STORAGE
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT_SECONDS
    max_watchers: int = DEFAULT_MAX_WATCHERS
    heartbeat_seconds: float = DEFAULT_HEARTBEAT_SECONDS
    max_upload_bytes: int = DEFAULT_MAX_UPLOAD_BYTES
    max_uploads: int = DEFAULT_MAX_UPLOADS
    rest: str | None = None
    grace_seconds: float = DEFAULT_GRACE_SECONDS


class StorageUrl(click.ParamType[Location]):
    """A URL that names a storage."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        if isinstance(value, Location):
            return value
        try:
            return locations.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every flag of the registry server to a click command."""
    decorators = (
        click.option(
            "--root",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            default=".",
            show_default="the current folder",
            envvar="VIDEOAI_ROOT",
            show_envvar=True,
            help="Folder that holds models/; models/ is created if it is missing.",
        ),
        click.option(
            "--storage",
            metavar="URL",
            type=StorageUrl(),
            default=locations.DEFAULT,
            show_default=True,
            envvar=f"{PREFIX}_STORAGE",
            show_envvar=True,
            help="Where the registry is kept: file:///PATH for a JSON file, sqlite:///PATH for a SQLite database; "
            "file:PATH or sqlite:PATH is relative to --root.",
        ),
        serve_options(PREFIX, DEFAULT_LISTEN),
        click.option(
            "--rest",
            metavar="ADDR",
            envvar=f"{PREFIX}_REST",
            show_envvar=True,
            callback=check_address,
            help="Address to answer HTTP on as well: host:port or unix:path; port 0 takes a free one; none by default. "
            "Needs the extra videoai[rest].",
        ),
        click.option(
            "--lock-timeout",
            metavar="SECONDS",
            type=click.FloatRange(min=0, min_open=True, max=3600),
            default=DEFAULT_LOCK_TIMEOUT_SECONDS,
            show_default=True,
            envvar=f"{PREFIX}_LOCK_TIMEOUT",
            show_envvar=True,
            help="How long a change waits for another process that holds the registry.",
        ),
        click.option(
            "--max-watchers",
            type=click.IntRange(min=1),
            default=DEFAULT_MAX_WATCHERS,
            show_default=True,
            envvar=f"{PREFIX}_MAX_WATCHERS",
            show_envvar=True,
            help="Most subscribers of production at a time.",
        ),
        click.option(
            "--heartbeat-seconds",
            type=click.FloatRange(min=0, min_open=True, max=30),
            default=DEFAULT_HEARTBEAT_SECONDS,
            show_default=True,
            envvar=f"{PREFIX}_HEARTBEAT_SECONDS",
            show_envvar=True,
            help="Pause between two signs of life on a watch; clients reconnect after 45 s of silence.",
        ),
        click.option(
            "--max-upload-bytes",
            type=click.IntRange(min=1),
            default=DEFAULT_MAX_UPLOAD_BYTES,
            show_default=True,
            envvar=f"{PREFIX}_MAX_UPLOAD_BYTES",
            show_envvar=True,
            help="Largest model file that is taken by upload.",
        ),
        click.option(
            "--max-uploads",
            type=click.IntRange(min=1),
            default=DEFAULT_MAX_UPLOADS,
            show_default=True,
            envvar=f"{PREFIX}_MAX_UPLOADS",
            show_envvar=True,
            help="Most uploads at a time.",
        ),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command
