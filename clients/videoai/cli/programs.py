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
    package, extra = _NEEDS[program]
    if find_spec(package) is None or find_spec(program) is None:
        raise click.ClickException(f"this command needs more packages: pip install 'videoai[{extra}]'")
    # -P: a folder of that name, where the command happens to be run, is not the program.
    command = [sys.executable, "-P", "-m", program, *arguments]
    if os.name == "posix":
        sys.stdout.flush()
        os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted
    return subprocess.run(command, check=False).returncode  # noqa: S603 - our own program
