"""Commands that are the servers' own: they need what only a server has installed, and run as its program."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

# For each program a package that only its extra installs, and that extra.
_NEEDS = {"registry_server": ("filelock", "registry"), "inference_server": ("onnxruntime", "inference")}


def become(program: str, arguments: Sequence[str]) -> int:
    """Run a server's program instead of this one, with the same terminal and signals; returns its exit code, if at all.

    Raises click.ClickException where it is not installed.
    """
    if not installed(program):
        raise click.ClickException(f"this command needs more packages: pip install 'videoai[{_NEEDS[program][1]}]'")
    command = _command(program, arguments)
    if os.name == "posix":
        sys.stdout.flush()
        os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted
    return subprocess.run(command, check=False).returncode  # noqa: S603 - our own program


def ask(program: str, arguments: Sequence[str], timeout_seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a server's program and return what it printed. Raises subprocess.TimeoutExpired."""
    return subprocess.run(  # noqa: S603 - our own program
        _command(program, arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def installed(program: str) -> bool:
    """Whether a server's program and what it needs are there."""
    return find_spec(_NEEDS[program][0]) is not None and find_spec(program) is not None


def _command(program: str, arguments: Sequence[str]) -> list[str]:
    # -P: a folder of that name, where the command happens to be run, is not the program.
    return [sys.executable, "-P", "-m", program, *arguments]
