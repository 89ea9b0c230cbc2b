"""videoai-inference: serve what the registry has in production."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from videoai.environment import reject_unknown

from inference_server import settings
from inference_server.engine import inspect
from inference_server.server import inference_server
from inference_server.service import ERROR_CODES, SERVICE
from inference_server.tensors import SERVICE as TENSOR_SERVICE
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
    """Serve the models that the registry has in production: video in, boxes out.

    Follows the registry and swaps to every version it activates without failing a request. Without a command, the
    server starts.
    """
    if context.invoked_subcommand != doctor_command.name:  # which tells of them among the rest
        reject_unknown(main, (settings.PREFIX,))
    chosen = settings.settings(grace_seconds=grace_seconds, **flags)
    if context.invoked_subcommand is not None:
        context.obj = chosen
        return
    logs.configure(log_level, log_format)
    run(
        ServeOptions(listen, metrics, grace_seconds),
        services=[SERVICE, TENSOR_SERVICE],
        error_codes=ERROR_CODES,
        setup=partial(inference_server, chosen),
    )


@main.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--attributes",
    metavar="JSON",
    default="{}",
    callback=settings.read_object,
    help='What metadata.attributes of its entry would say: \'{"videoai": {"family": "yolox"}}\'.',
)
@click.option("--run/--no-run", default=True, help="Load and rehearse it on --device, too.  [default: --run]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def inspect_command(
    context: click.Context, file: Path, attributes: Mapping[str, Any], *, run: bool, as_json: bool
) -> None:
    """Look at a model FILE as the server would: what it is taken for and why, and whether it runs here.

    --device goes before the command. Exits with 0 if the file would be served, with 1 if it would be refused.
    """
    # What only a command needs would make every start of the server longer.
    from videoai.cli.output import print_json

    from inference_server import inspecting

    logs.configure("error", "console")
    found = inspect(file, attributes, device=context.obj.device if run else None)
    if as_json:
        print_json(inspecting.as_dict(found))
    else:
        inspecting.tell(found)
    context.exit(1 if found.refusal else 0)


@main.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor_command(context: click.Context, *, as_json: bool) -> None:
    """Examine the devices that models can run on, the decoders and the folders, and say what to do about what is wrong.

    --device goes before the command. May be run beside a server. Exits with 0 if nothing failed, with 1 otherwise.
    `videoai doctor` includes it.
    """
    # What only a command needs would make every start of the server longer.
    from videoai.cli.findings import exit_code, tell
    from videoai.cli.machine import variables

    from inference_server import doctor

    logs.configure("error", "console")
    found = [variables(doctor.TOPIC, main, (settings.PREFIX,)), *doctor.examine(context.obj)]
    tell(found, json=as_json)
    context.exit(exit_code(found))


if __name__ == "__main__":
    main()
