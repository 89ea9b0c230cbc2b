"""Which family a model belongs to: what its registry entry declares, else what its file says; never a guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference_server.detection.description import Description
from inference_server.detection.families import KINDS
from inference_server.detection.family import Family, FamilyKind
from inference_server.detection.settings import NOTHING_SAID, SECTION, Settings
from inference_server.detection.signature import GraphSignature
from inference_server.errors import ModelRefused


@dataclass(frozen=True, slots=True)
class Candidate:
    """A family that was tried: as it was built, or the reason why the model cannot be one."""

    kind: FamilyKind
    family: Family | None = None
    reason: str = ""


def recognise(signature: GraphSignature, settings: Settings = NOTHING_SAID) -> Family:
    """The family that reads this model's outputs; what `settings` say overrides what the file says.

    Raises ModelRefused, with what was seen and what to set, where the model fits no family or more than one.
    """
    description = Description(signature, settings)
    return choose(consider(description), description)


def consider(description: Description) -> list[Candidate]:
    """Try the family that is declared, or all that may be recognised by themselves. Raises ModelRefused for a wrong
    declaration."""
    settings = description.settings
    if settings.family is not None:
        return [_try(_kind(settings.family), description)]
    task = settings.task or description.signature.metadata.get("task")
    return [_try(kind, description, task) for kind in KINDS if kind.task is not None]


def choose(candidates: Sequence[Candidate], description: Description) -> Family:
    """The one candidate that fits. Raises ModelRefused where there is none, or more than one."""
    signature = description.signature
    fitting = [candidate.family for candidate in candidates if candidate.family is not None]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        fits = " and ".join(family.name for family in fitting)
        raise ModelRefused(f"the model fits {fits} alike: set {SECTION}.family to one of them. Seen: {signature}")
    if description.declared:
        (only,) = candidates
        raise ModelRefused(f"not a {only.kind.name} model, as {SECTION}.family says: {only.reason}. Seen: {signature}")
    raise ModelRefused(
        "the model fits no family that is recognised by itself: export it as one of them, or set"
        f" {SECTION}.family to one of them or to {_others()}. Why not: {_reasons(candidates)}. Seen: {signature}"
    )


def _reasons(candidates: Sequence[Candidate]) -> str:
    """Why each of them does not fit, those with the same reason together."""
    families: dict[str, list[str]] = {}
    for candidate in candidates:
        families.setdefault(candidate.reason, []).append(candidate.kind.name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in families.items())


def _kind(name: str) -> FamilyKind:
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise ModelRefused(f"{SECTION}.family: expected one of {_names()}, got {name!r}")


def _try(kind: FamilyKind, description: Description, task: str | None = None) -> Candidate:
    if task is not None and task != kind.task:
        return Candidate(kind, reason=f"for another task than {task[:100]}")
    try:
        return Candidate(kind, family=kind.build(description))
    except ModelRefused as error:
        return Candidate(kind, reason=str(error))


def _names() -> str:
    return ", ".join(kind.name for kind in KINDS)


def _others() -> str:
    """Families that are never tried where none is declared."""
    return ", ".join(kind.name for kind in KINDS if kind.task is None)
