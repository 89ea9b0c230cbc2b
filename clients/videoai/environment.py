"""The environment variables of the programs, and the refusal of names that nobody knows."""

from __future__ import annotations

import difflib
import os
import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

START = "VIDEOAI_"

# Names without a program's prefix. Every program knows all of them, so that one environment can serve several programs.
SHARED = frozenset(
    {"VIDEOAI_ROOT", "VIDEOAI_REGISTRY", "VIDEOAI_INFERENCE", "VIDEOAI_OUTPUT", "VIDEOAI_TIMEOUT"},
)

# Each program's own names begin with its prefix.
PREFIXES = ("VIDEOAI_REGISTRY_", "VIDEOAI_INFERENCE_")

# Kubernetes sets these for every service of a namespace: a service named "videoai-registry" makes
# VIDEOAI_REGISTRY_SERVICE_HOST, VIDEOAI_REGISTRY_PORT=tcp://... and VIDEOAI_REGISTRY_PORT_50051_TCP_ADDR.
_SERVICE_LINK = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_SERVICE_LINK_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def reject_unknown(command: click.Command, prefixes: Iterable[str], environ: Mapping[str, str] = os.environ) -> None:
    """Raise click.UsageError that tells what `unknown` does, if that is anything."""
    if complaints := unknown(command, prefixes, environ):
        raise click.UsageError("; ".join(complaints))


def unknown(command: click.Command, prefixes: Iterable[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return a sentence on each VIDEOAI_* variable that is neither shared nor an option of `command`.

    `prefixes` are the program's own, for instance ("VIDEOAI_REGISTRY_",): names with another program's prefix are left
    to that program. Each sentence names the variable and the known one that is nearest to it.
    """
    own = tuple(f"{prefix.rstrip('_')}_" for prefix in prefixes)
    others = tuple(prefix for prefix in PREFIXES if prefix not in own)
    known = SHARED | frozenset(_variables(command))
    names = sorted(
        name
        for name, value in environ.items()
        if name.startswith(START) and name not in known and not name.startswith(others) and not _is_link(name, value)
    )
    return [_complaint(name, known) for name in names]


def _variables(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter.envvar, str):
            yield parameter.envvar
        elif parameter.envvar:
            yield from parameter.envvar
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from _variables(child)


def _is_link(name: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(name):
        return True
    return name.endswith("_PORT") and _SERVICE_LINK_ADDRESS.match(value) is not None


def _complaint(name: str, known: frozenset[str]) -> str:
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
    return f"unknown environment variable {name}, did you mean {nearest}?"
