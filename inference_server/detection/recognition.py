"""Which family a model belongs to: what its registry entry declares, else what its file says; never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference_server.detection.families import KINDS
from inference_server.detection.family import Family, FamilyKind
from inference_server.detection.signature import GraphSignature
from inference_server.errors import ModelRefused

SECTION = "metadata.attributes.videoai"


def recognise(signature: GraphSignature, attributes: Mapping[str, Any]) -> Family:
    """The family that reads this model's outputs.

    `attributes` are those of the model's registry entry; its key `videoai.family` overrides what the file says. Raises
    ModelRefused, with what was seen and what to set, where the model fits no family or more than one.
    """
    declared = _declared_kind(attributes)
    if declared is not None:
        return _declared_family(declared, signature)
    families, reasons = _fitting(signature)
    if len(families) == 1:
        return families[0]
    if families:
        fits = " and ".join(family.name for family in families)
        raise ModelRefused(f"the model fits {fits} alike: set {SECTION}.family to one of them. Seen: {signature}")
    raise ModelRefused(
        f"the model fits no family that is recognised by itself ({'; '.join(reasons)}). Set {SECTION}.family to one of"
        f" {_names()}, or export it as one of them. Seen: {signature}"
    )


def _declared_kind(attributes: Mapping[str, Any]) -> FamilyKind | None:
    section = attributes.get("videoai", {})
    if not isinstance(section, Mapping):
        raise ModelRefused(f"{SECTION}: expected an object, got {section!r}")
    unknown = sorted(set(section) - {"family"})
    if unknown:
        raise ModelRefused(f"{SECTION}.{unknown[0]}: no such key; known: family")
    if "family" not in section:
        return None
    for kind in KINDS:
        if kind.name == section["family"]:
            return kind
    raise ModelRefused(f"{SECTION}.family: expected one of {_names()}, got {section['family']!r}")


def _declared_family(kind: FamilyKind, signature: GraphSignature) -> Family:
    try:
        return kind.build(signature, declared=True)
    except ModelRefused as error:
        raise ModelRefused(f"not a {kind.name} model, as {SECTION}.family says: {error}. Seen: {signature}") from None


def _fitting(signature: GraphSignature) -> tuple[list[Family], list[str]]:
    families: list[Family] = []
    reasons: list[str] = []
    for kind in KINDS:
        if not kind.by_itself:
            continue
        try:
            families.append(kind.build(signature, declared=False))
        except ModelRefused as error:
            reasons.append(f"{kind.name}: {error}")
    return families, reasons


def _names() -> str:
    return ", ".join(kind.name for kind in KINDS)
