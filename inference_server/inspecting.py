"""An inspected model file in words, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from videoai.cli import output

from inference_server.detection import Family, GraphSignature, PictureInput
from inference_server.detection.signature import LISTED, listed
from inference_server.engine import Inspection

CLASSES_SHOWN = 10
TEXT_SHOWN = 100


def tell(found: Inspection) -> None:
    """Print what was found, section by section, and the verdict last."""
    output.print_pairs((name, output.plain(value)) for name, value in _pairs(found))
    if found.signature is not None:
        output.print_pairs(_parts(found.signature))
    if found.candidates:
        families = [(item.kind.name, "fits" if item.family else output.plain(item.reason)) for item in found.candidates]
        output.print_table(None, ("FAMILY", "WHY NOT"), families)
    verdict = f"would be refused: {output.plain(found.refusal)}" if found.refusal else "would be served"
    output.print_pairs([("verdict", verdict)])


def as_dict(found: Inspection) -> dict[str, Any]:
    """The same as one JSON object; what is not known is null."""
    family, trial, signature = found.family, found.trial, found.signature
    return {
        "file": str(found.path),
        "served": not found.refusal,
        "refusal": found.refusal or None,
        "sha256": found.sha256 or None,
        "size_bytes": found.size_bytes or None,
        "opset": found.opset or None,
        "producer": found.producer[:TEXT_SHOWN] or None,
        "inputs": listed(signature.inputs) if signature else None,
        "outputs": listed(signature.outputs) if signature else None,
        "metadata": _metadata(signature) if signature else None,
        "considered": {item.kind.name: item.reason or None for item in found.candidates},
        "family": family.name if family else None,
        "class_names": list(family.class_names) if family else None,
        "picture": _picture(family.picture) if family and family.picture else None,
        "run": None
        if trial is None
        else {
            "device": trial.device,
            "provider": trial.provider,
            "max_batch": trial.max_batch,
            "seconds": round(trial.seconds, 3),
        },
    }


def short(text: str) -> str:
    """The beginning of a long text."""
    return output.plain(text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}… ({len(text)} characters)")


def _pairs(found: Inspection) -> Iterator[tuple[str, object]]:
    yield "file", found.path
    if found.signature is not None:
        yield "size", output.size(found.size_bytes)
        yield "sha256", found.sha256
        yield "opset", found.opset
        yield "producer", short(found.producer)
    if found.family is not None:
        yield "family", found.family.name
        yield "classes", _classes(found.family)
        picture = found.family.picture
        yield "pictures", _sentence(picture) if picture else "none: it takes tensors"
    if found.trial is not None:
        trial = found.trial
        yield "runs on", f"{trial.device} ({trial.provider}), up to {trial.max_batch} frames at once"
        yield "loads in", f"{trial.seconds:.2f} s, rehearsal included"


def _classes(family: Family) -> str:
    names = family.class_names
    if not names:
        return "the file names none; set class_names in the entry's metadata.attributes.videoai to name them"
    more = f", … ({len(names)} in all)" if len(names) > CLASSES_SHOWN else ""
    return ", ".join(short(name) for name in names[:CLASSES_SHOWN]) + more


def _picture(picture: PictureInput) -> dict[str, Any]:
    layout, pixels = picture.layout, picture.pixels
    return {
        "input": picture.name,
        "width": layout.width,
        "height": layout.height,
        "batch": picture.batch,
        "resize": layout.resize.value,
        "fill": layout.fill,
        "color_order": pixels.colors.value,
        "scale": pixels.scale,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
    }


def _sentence(picture: PictureInput) -> str:
    layout, pixels = picture.layout, picture.pixels
    numbers = f"{pixels.colors.value} x {pixels.scale:.6g}"
    if any(pixels.mean) or any(value != 1 for value in pixels.std):
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (pixels.mean, pixels.std))
        numbers += f", less {mean}, by {std}"
    batch = "any number of frames" if picture.batch is None else f"{picture.batch} at a time"
    return f"{layout.width}x{layout.height} pixels, {layout.resize.value}, {numbers}, {batch}"


def _parts(signature: GraphSignature) -> Iterator[tuple[str, str]]:
    yield from (("input", output.plain(tensor)) for tensor in listed(signature.inputs))
    yield from (("output", output.plain(tensor)) for tensor in listed(signature.outputs))
    pairs = (f"{short(key)} = {short(value)}" for key, value in sorted(signature.metadata.items()))
    yield from (("metadata", text) for text in listed(pairs))


def _metadata(signature: GraphSignature) -> dict[str, str]:
    some = sorted(signature.metadata.items())[:LISTED]
    return {key[:TEXT_SHOWN]: value[:TEXT_SHOWN] for key, value in some}
