"""What the client itself stands on: Python, the packages of each extra, the environment."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import TYPE_CHECKING

import google.protobuf
import grpc
from google.protobuf.internal import api_implementation
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from videoai import environment
from videoai.cli.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import click

TOPIC = "this machine"

MISMATCH = " is installed"

# What each extra is for; the rest of the extras are parts of these, or for developers.
EXTRAS = {
    "registry": "videoai-registry",
    "rest": "videoai-registry --rest",
    "inference": "videoai-inference",
    "cuda": "NVIDIA's libraries, where the machine has none",
    "video": "videoai analyze --save-video",
}


def examine(command: click.Command) -> Iterator[Finding]:
    """Yield what is found out about Python, packages and variables; `command` is the one whose variables are known."""
    yield _python()
    yield _packages()
    yield _protobuf()
    for extra, purpose in EXTRAS.items():
        yield _extra(extra, purpose)
    yield variables(TOPIC, command, ())


def variables(
    topic: str, command: click.Command, prefixes: tuple[str, ...], environ: Mapping[str, str] = os.environ
) -> Finding:
    """Return whether every VIDEOAI_* variable is known; see videoai.environment.unknown for the arguments."""
    if complaints := environment.unknown(command, prefixes, environ):
        return Finding(topic, "environment", "failed", "; ".join(complaints), "unset or rename what nobody reads")
    names = sorted(name for name in environ if name.startswith(environment.START))
    return Finding(topic, "environment", "ok", ", ".join(names) or f"no {environment.START}* variable is set")


def _python() -> Finding:
    found = f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}"
    needed = importlib.metadata.metadata("videoai")["Requires-Python"]
    if not SpecifierSet(needed).contains(platform.python_version(), prereleases=True):
        return Finding(TOPIC, "python", "failed", found, f"videoai needs Python {needed}")
    return Finding(TOPIC, "python", "ok", found)


def _packages() -> Finding:
    version = importlib.metadata.version("videoai")
    wrong = list(unmet(Requirement("videoai")))
    found = f"videoai {version}, grpcio {grpc.__version__}"
    if wrong:
        return Finding(TOPIC, "client", "failed", f"{found}; {', '.join(wrong)}", "pip install --upgrade videoai")
    return Finding(TOPIC, "client", "ok", found)


def _protobuf() -> Finding:
    """The stubs refuse a version that is too old by themselves; what they cannot see is how it is implemented."""
    kind = api_implementation.Type()
    found = f"{google.protobuf.__version__} ({kind}), which the stubs accept"
    if kind == "python":
        advice = "every message is slow: unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or reinstall protobuf"
        return Finding(TOPIC, "protobuf", "warning", found, advice)
    return Finding(TOPIC, "protobuf", "ok", found)


def _extra(extra: str, purpose: str) -> Finding:
    requirement = Requirement(f"videoai[{extra}]")
    wrong = list(unmet(requirement))
    if not wrong:
        return Finding(TOPIC, f"extra {extra}", "ok", purpose)
    install = f"pip install '{requirement}'"
    if all(complaint.endswith(MISMATCH) for complaint in wrong):
        return Finding(TOPIC, f"extra {extra}", "failed", ", ".join(wrong), install)
    missing = f"{purpose}; missing: {', '.join(wrong)}"
    return Finding(TOPIC, f"extra {extra}", "not installed", missing, f"if it is wanted here: {install}")


def unmet(requirement: Requirement) -> Iterator[str]:
    """Yield what is missing, or of another version than asked for, of a package and the extras named with it."""
    try:
        found = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        yield str(requirement.name)
        return
    if not requirement.specifier.contains(found.version, prereleases=True):
        yield f"{requirement.name}{requirement.specifier}, but {found.version}{MISMATCH}"
    for text in found.requires or ():
        needed = Requirement(text)
        if _applies(needed, requirement):
            yield from unmet(needed)


def _applies(needed: Requirement, requirement: Requirement) -> bool:
    """Whether a requirement of a package belongs to the extras that were asked for; the client's own, to none."""
    if needed.marker is None:
        return requirement.name == "videoai" and not requirement.extras
    if not requirement.extras:
        return False
    plain = needed.marker.evaluate({"extra": ""})
    return not plain and any(needed.marker.evaluate({"extra": extra}) for extra in requirement.extras)
