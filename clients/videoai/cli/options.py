"""Options that every command takes, before or after its name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from videoai import InferenceClient, RegistryClient, channels

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")


# What the fields of the protos hold; anything else is a mistake of the command line.
VERSION = click.IntRange(1, 2**31 - 1)
VERSION_OR_NONE = click.IntRange(0, 2**31 - 1)
COUNT = click.IntRange(1, 2**31 - 1)


class Number(click.FloatRange):
    """A number within a range, of which click takes nan to be a part."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is not a finite number.", param, ctx)


LONGEST_SECONDS = 366 * 24 * 3600
SOME_SECONDS = Number(min=0, min_open=True, max=LONGEST_SECONDS)


@dataclass
class Settings:
    """Where the servers are and how to answer."""

    registry: str = "127.0.0.1:50051"
    inference: str = "127.0.0.1:50052"
    output: str = "table"
    timeout: float = 10.0

    @property
    def json(self) -> bool:
        return self.output == "json"

    def registry_client(self) -> RegistryClient:
        return RegistryClient(self.registry, timeout_seconds=self.timeout)

    def inference_client(self) -> InferenceClient:
        return InferenceClient(self.inference, timeout_seconds=self.timeout)


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def global_options(function: Function) -> Function:
    """Add --registry, --inference, --output and --timeout; what is not given leaves the settings as they are."""
    for decorate in reversed(_OPTIONS):
        function = decorate(function)
    return function


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name is not None:
        # A variable must not win over the same option given before the command's name.
        chosen = context.meta.setdefault("videoai.options", set())
        source = context.get_parameter_source(parameter.name)
        if source is click.core.ParameterSource.COMMANDLINE:
            chosen.add(parameter.name)
        elif parameter.name in chosen:
            return
        setattr(context.ensure_object(Settings), parameter.name, value)


def _address(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        try:
            channels.target(value)
        except ValueError as error:
            raise click.BadParameter(str(error).removeprefix("address: "), context, parameter) from None
    _store(context, parameter, value)


_OPTIONS = [
    click.option(
        "--registry",
        metavar="ADDR",
        envvar="VIDEOAI_REGISTRY",
        expose_value=False,
        callback=_address,
        help="Registry server, host:port or unix:path.  [default: 127.0.0.1:50051; VIDEOAI_REGISTRY]",
    ),
    click.option(
        "--inference",
        metavar="ADDR",
        envvar="VIDEOAI_INFERENCE",
        expose_value=False,
        callback=_address,
        help="Inference server, host:port or unix:path.  [default: 127.0.0.1:50052; VIDEOAI_INFERENCE]",
    ),
    click.option(
        "--output",
        type=click.Choice(["table", "json"]),
        envvar="VIDEOAI_OUTPUT",
        expose_value=False,
        callback=_store,
        help="What to print: tables for people, or proto3 JSON.  [default: table; VIDEOAI_OUTPUT]",
    ),
    click.option(
        "--timeout",
        type=SOME_SECONDS,
        metavar="SECONDS",
        envvar="VIDEOAI_TIMEOUT",
        expose_value=False,
        callback=_store,
        help="How long to wait for a single answer.  [default: 10; VIDEOAI_TIMEOUT]",
    ),
]
