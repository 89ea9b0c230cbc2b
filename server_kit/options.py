"""The flags that every server has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from server_kit import logs
from server_kit.addresses import parse_address

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_GRACE_SECONDS = 30.0


def check_address(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """A click callback: refuse what is not an address, whether given once, several times or not at all."""
    try:
        for text in (value,) if isinstance(value, str) else value or ():
            parse_address(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error
    return value


def serve_options(prefix: str, default_listen: str) -> Callable[[F], F]:
    """Add --listen, --metrics, --grace-seconds, --log-level and --log-format, with variables `<prefix>_...`."""
    options = (
        click.option(
            "--listen",
            metavar="ADDR",
            multiple=True,
            default=(default_listen,),
            show_default=True,
            envvar=f"{prefix}_LISTEN",
            show_envvar=True,
            callback=check_address,
            help="Address to serve on: host:port or unix:path; port 0 takes a free one. Repeatable.",
        ),
        click.option(
            "--metrics",
            metavar="ADDR",
            envvar=f"{prefix}_METRICS",
            show_envvar=True,
            callback=check_address,
            help="Address (host:port) to serve Prometheus metrics on; none by default.",
        ),
        click.option(
            "--grace-seconds",
            type=click.FloatRange(min=0),
            default=DEFAULT_GRACE_SECONDS,
            show_default=True,
            envvar=f"{prefix}_GRACE_SECONDS",
            show_envvar=True,
            help="How long running calls may go on after SIGTERM.",
        ),
        click.option(
            "--log-level",
            type=click.Choice(logs.LEVELS),
            default="info",
            show_default=True,
            envvar=f"{prefix}_LOG_LEVEL",
            show_envvar=True,
            help="Least severe logs to write.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(logs.FORMATS),
            default="console",
            show_default=True,
            envvar=f"{prefix}_LOG_FORMAT",
            show_envvar=True,
            help="How logs are written to standard error.",
        ),
    )

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
