"""videoai doctor: what is wrong with this machine and its set-up, and what to do about it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import click

from videoai.cli import findings, machine, peers, programs
from videoai.cli.findings import Finding
from videoai.cli.options import Settings, global_options, pass_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

# A server looks around in seconds, but CUDA compiles for the device at hand when it is first used.
PATIENCE_SECONDS = 180.0

# How the tables call what each server found.
TOPICS = {"registry_server": "the registry's folder", "inference_server": "devices and decoders"}


@click.command()
@click.option(
    "--root",
    type=click.Path(),
    envvar="VIDEOAI_ROOT",
    default=".",
    help="Folder that holds models/, where a server runs on this machine.  [default: the current one; VIDEOAI_ROOT]",
)
@click.option(
    "--device",
    metavar="auto|cuda[:N]|tensorrt[:N]|cpu",
    help="Where models are to run on this machine.  [default: auto; VIDEOAI_INFERENCE_DEVICE]",
)
@global_options
@pass_settings
@click.pass_context
def doctor(context: click.Context, settings: Settings, root: str, device: str | None) -> None:
    """Examine this machine and its set-up, and say what to do about what is wrong.

    Looks at Python and the packages of each extra, the environment, the registry's folder and file, the devices that
    models can run on, proven by running one, and both servers: reachable, healthy, with clocks and versions that
    agree. What only a server can look at is left out where its packages are not installed.

    Exits with 0 if nothing failed, 4 if all that failed is that a server cannot be reached, 1 otherwise.
    """
    group = context.find_root().command
    found = list(machine.examine(group))
    found += _ask("registry_server", ["--root", root])
    found += _ask("inference_server", ["--root", root, *(["--device", device] if device else [])])
    found += peers.examine(settings)
    findings.tell(found, json=settings.json)
    context.exit(findings.exit_code(found))


def _ask(program: str, arguments: Sequence[str]) -> list[Finding]:
    """What a server finds on its own machine, this one, whether or not it runs; how that failed, if it did."""
    topic = TOPICS[program]
    if not programs.installed(program):
        return [Finding(topic, "looked at", "not installed", f"only what {program} needs can look at it")]
    try:
        answer = programs.ask(program, [*arguments, "doctor", "--json"], PATIENCE_SECONDS)
        return findings.from_dict(json.loads(answer.stdout))
    except subprocess.TimeoutExpired:
        return [Finding(topic, "looked at", "failed", f"{program} had not looked at it after {PATIENCE_SECONDS:.0f} s")]
    except (ValueError, KeyError, TypeError):
        last = (answer.stderr.strip().splitlines() or [f"it ended with {answer.returncode}"])[-1]
        return [
            Finding(topic, "looked at", "failed", last.removeprefix("Error: "), "its flags and variables must be right")
        ]
