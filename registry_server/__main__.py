"""videoai-registry: keep the registry of models and tell every subscriber what is in production."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from videoai.environment import reject_unknown

from registry_server import settings
from registry_server.edit import edit
from registry_server.errors import RegistryError
from registry_server.json_storage import JsonFileStorage
from registry_server.locations import Location
from registry_server.migrate import CannotMigrate, migrate
from registry_server.server import registry_server
from registry_server.service import ERROR_CODES, SERVICE
from server_kit import logs
from server_kit.app import ServeOptions, run


@click.group(
    invoke_without_command=True,
    subcommand_metavar="[COMMAND ...]",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(package_name="videoai")
@settings.options
@click.pass_context
def main(
    context: click.Context,
    /,
    listen: tuple[str, ...],
    metrics: str | None,
    grace_seconds: float,
    log_level: str,
    log_format: str,
    **flags: Any,
) -> None:
    """Keep the registry of models: one file that a person can read and edit, models/registry.json.

    Tells every subscriber the moment production changes, whether through a call or by an edit of the file. Without a
    command, the server starts.
    """
    if context.invoked_subcommand != doctor_command.name:  # which tells of them among the rest
        reject_unknown(main, (settings.PREFIX,))
    chosen = settings.Settings(grace_seconds=grace_seconds, **flags)
    if context.invoked_subcommand is not None:
        context.obj = chosen
        return
    logs.configure(log_level, log_format)
    run(
        ServeOptions(listen, metrics, grace_seconds),
        services=[SERVICE],
        error_codes=ERROR_CODES,
        setup=partial(registry_server, chosen),
    )


@main.command("migrate")
@click.argument("source", metavar="FROM", type=settings.StorageUrl())
@click.argument("target", metavar="TO", type=settings.StorageUrl())
@click.option("--force", is_flag=True, help="Replace what TO holds.")
@click.pass_obj
def migrate_command(chosen: settings.Settings, source: Location, target: Location, *, force: bool) -> None:
    """Copy the registry at FROM to TO, with its history, unknown keys, uid and revision; both are URLs as of --storage.

    Stop the servers over FROM first: what they change later is not copied. A TO that holds a registry is left alone and
    the exit code is 1, unless --force is given.
    """
    paths = source.under(chosen.root), target.under(chosen.root)
    try:
        catalog = migrate(*paths, force=force, lock_timeout_seconds=chosen.lock_timeout)
    except (CannotMigrate, RegistryError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"copied {len(catalog.entries)} versions from {paths[0].path} to {paths[1].path}")


@main.command("edit")
@click.pass_obj
def edit_command(chosen: settings.Settings) -> None:
    """Open the registry file in $VISUAL or $EDITOR, and put it in place once it can be read.

    What is wrong is told with its line and column, and can be edited again. Servers go on meanwhile: if one changes the
    registry before you are done, nothing is overwritten, and your text is kept.
    """
    storage = chosen.storage.under(chosen.root).open(chosen.lock_timeout)
    if not isinstance(storage, JsonFileStorage):
        raise click.UsageError(
            f"edit: {chosen.storage} is no file of text; migrate it to one, edit that, and migrate it back with --force"
        )
    try:
        click.echo(edit(storage))
    except RegistryError as error:
        raise click.ClickException(str(error)) from error


@main.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor_command(context: click.Context, *, as_json: bool) -> None:
    """Examine the folder, the registry and the files of its models, and say what to do about what is wrong.

    May be run beside a server. Exits with 0 if nothing failed, with 1 otherwise. `videoai doctor` includes it.
    """
    # What only a command needs would make every start of the server longer.
    from videoai.cli.findings import exit_code, tell
    from videoai.cli.machine import variables

    from registry_server import doctor

    logs.configure("error", "console")
    found = [variables(doctor.TOPIC, main, (settings.PREFIX,)), *doctor.examine(context.obj)]
    tell(found, json=as_json)
    context.exit(exit_code(found))


if __name__ == "__main__":
    main()
