"""videoai models: the registry from the command line."""

from __future__ import annotations

import getpass
import json
import platform
from typing import TYPE_CHECKING, Any

import click

from videoai.cli import output, programs, show
from videoai.cli.options import COUNT, VERSION, VERSION_OR_NONE, Settings, global_options, pass_settings
from videoai.cli.waiting import until_applied, wait_options
from videoai.registry.v1 import registry_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence


def who() -> str:
    """Name whoever runs this, and where; as much of it as the system knows."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number that nobody gave a name
        user = ""
    return "@".join(filter(None, (user, platform.node())))[:128]


by_option = click.option(
    "--by",
    metavar="TEXT",
    envvar="VIDEOAI_BY",
    default=who,
    help="Who asks, for the history.  [default: you, at this machine; VIDEOAI_BY]",
)


@click.group()
@global_options
def models() -> None:
    """Register models, put them into production and follow them there."""


def pairs(_context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
    """Read key=value pairs; the value is a number for --metric and JSON for --attribute."""
    read = float if parameter.name == "metrics" else json.loads
    result = {}
    for text in values:
        key, _, value = text.partition("=")
        try:
            result[key] = read(value)
        except (ValueError, RecursionError):
            raise click.BadParameter(f"expected {parameter.metavar}, got {text[:200]!r}") from None
    return result


@models.command()
@click.argument("name")
@click.argument("path")
@click.option("--version", type=VERSION_OR_NONE, default=0, help="Version; 0, the default, takes the next.")
@click.option("--description", default="", help="Free text.")
@click.option("--metric", "metrics", multiple=True, metavar="KEY=NUMBER", callback=pairs, help="Repeatable.")
@click.option("--attribute", "attributes", multiple=True, metavar="KEY=JSON", callback=pairs, help="Repeatable.")
@click.option("--sha256", metavar="HEX", help="Refuse the file unless it has this digest.")
@global_options
@pass_settings
def register(settings: Settings, /, name: str, path: str, **given: Any) -> None:
    """Add a version of the model NAME, as staging.

    PATH is the ONNX file as the registry sees it: relative to the folder that holds models/, and inside models/.
    """
    with settings.registry_client() as registry:
        model = registry.register(name, path, **given)
    show.model(settings, model, f"registered {name} version {model.version}")


@models.command("list")
@click.argument("name", required=False)
@click.option("--status", type=click.Choice(["staging", "production", "archived"]), help="Only these.")
@global_options
@pass_settings
def list_(settings: Settings, name: str | None, status: str | None) -> None:
    """List versions, of all models or of NAME."""
    value = registry_pb2.ModelStatus.Value(f"MODEL_STATUS_{status.upper()}") if status else None
    with settings.registry_client() as registry:
        show.model_list(settings, list(registry.list(name, status=value)))


@models.command("show")
@click.argument("name")
@click.argument("version", type=VERSION, required=False)
@global_options
@pass_settings
def show_(settings: Settings, name: str, version: int | None) -> None:
    """Show one version of NAME in full: VERSION, or the one in production."""
    with settings.registry_client() as registry:
        show.model(settings, registry.get(name, version) if version else registry.production(name))


@models.command()
@click.argument("name")
@click.argument("version", type=VERSION)
@click.option(
    "--expect",
    type=VERSION_OR_NONE,
    metavar="N",
    help="Refuse unless version N is in production now; 0: unless none is.",
)
@by_option
@wait_options
@click.option("--rollback-on-failure", is_flag=True, help="With --wait: go back if a replica rejects it.")
@global_options
@pass_settings
def activate(
    settings: Settings,
    /,
    name: str,
    version: int,
    expect: int | None,
    by: str,
    wait_timeout: float,
    replicas: int | None,
    *,
    wait: bool,
    rollback_on_failure: bool,
) -> None:
    """Put VERSION of NAME into production."""
    for flag, given in (("--rollback-on-failure", rollback_on_failure), ("--replicas", replicas)):
        if given and not wait:
            raise click.UsageError(f"{flag} needs --wait")
    with settings.registry_client() as registry:
        answer = registry.activate(name, version, expected_production_version=expect, requested_by=by)
        if wait:
            until_applied(settings, registry, answer, wait_timeout, replicas, go_back=rollback_on_failure, by=by)
        else:
            show.change(settings, answer)


@models.command()
@click.argument("name")
@by_option
@wait_options
@global_options
@pass_settings
def rollback(
    settings: Settings, /, name: str, by: str, wait_timeout: float, replicas: int | None, *, wait: bool
) -> None:
    """Put the version back into production that was there before."""
    if replicas and not wait:
        raise click.UsageError("--replicas needs --wait")
    with settings.registry_client() as registry:
        answer = registry.rollback(name, requested_by=by)
        if wait:
            until_applied(settings, registry, answer, wait_timeout, replicas)
        else:
            show.change(settings, answer)


@models.command()
@click.argument("name")
@click.argument("version", type=VERSION)
@global_options
@pass_settings
def archive(settings: Settings, name: str, version: int) -> None:
    """Keep VERSION of NAME for the record only."""
    with settings.registry_client() as registry:
        show.model(settings, registry.archive(name, version), f"archived {name} version {version}")


@models.command()
@click.option("--root", metavar="DIR", envvar="VIDEOAI_ROOT", help="Folder that holds models/.  [VIDEOAI_ROOT]")
@click.option("--storage", metavar="URL", envvar="VIDEOAI_REGISTRY_STORAGE", help="Where it is, if not there.")
@click.pass_context
def edit(context: click.Context, root: str | None, storage: str | None) -> None:
    """Open the registry file in $VISUAL or $EDITOR, and put it in place once it can be read.

    For the machine that has the file; it needs videoai[registry] and no server. Servers over the same file take the
    edit up within a second.
    """
    flags = [part for name, value in (("--root", root), ("--storage", storage)) if value for part in (name, value)]
    context.exit(programs.become("registry_server", [*flags, "edit"]))


@models.command()
@click.argument("file", type=click.Path())
@click.option("--attributes", metavar="JSON", help="What metadata.attributes of its entry would say.")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda[:N] or tensorrt[:N].  [default: auto]")
@click.option("--no-run", is_flag=True, help="Only read the file.")
@global_options
@pass_settings
@click.pass_context
def inspect(
    context: click.Context,
    settings: Settings,
    /,
    file: str,
    attributes: str | None,
    device: str | None,
    *,
    no_run: bool,
) -> None:
    """Explain an ONNX FILE of this machine before it is registered.

    What it is taken for and why, what it holds and what it lacks, how pictures are prepared for it, and whether this
    machine can run it. Needs videoai[inference] and no server. Exits with 1 if a server would refuse the file.
    """
    arguments = [*(["--device", device] if device else []), "inspect", file]
    arguments += [*(["--attributes", attributes] if attributes else []), *(["--no-run"] if no_run else [])]
    arguments += ["--json"] if settings.json else []
    context.exit(programs.become("inference_server", arguments))


@models.command()
@click.argument("name")
@click.option("--limit", type=COUNT, metavar="N", help="Only the newest N.")
@global_options
@pass_settings
def history(settings: Settings, name: str, limit: int | None) -> None:
    """Show what of NAME was in production when, newest first, and who asked for it."""
    with settings.registry_client() as registry:
        show.history(settings, registry.activations(name, limit=limit or 0))


@models.command()
@click.argument("name")
@global_options
@pass_settings
def rollout(settings: Settings, name: str) -> None:
    """Show what each live replica has made of NAME."""
    with settings.registry_client() as registry:
        answer = registry.rollout(name)
    if settings.json:
        output.print_json(answer)
    else:
        show.replicas(answer)


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@global_options
@pass_settings
def watch(settings: Settings, names: tuple[str, ...]) -> None:
    """Follow what goes into production, of all models or of the NAMEs, until Ctrl-C."""
    with settings.registry_client() as registry:
        for event in registry.watch(names):
            show.event(settings, event)
