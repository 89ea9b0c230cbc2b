"""Looks at a model file as loading it would, and keeps all that is learnt on the way."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from onnx import ModelProto

from inference_server.detection import Candidate, Description, Family, GraphSignature, choose, consider, read_settings
from inference_server.engine.apart import Apart
from inference_server.engine.device import choose_device
from inference_server.engine.graph import ModelVersion, opset_of, read_model, signature_of
from inference_server.engine.loading import load
from inference_server.engine.prepared import PreparedModels
from inference_server.errors import DeviceUnavailable, ModelRefused


@dataclass(frozen=True, slots=True)
class Trial:
    """How the model ran: on which device ("cpu", "cuda:N", "tensorrt:N") and provider, at most how many frames at once,
    and how many seconds loading and rehearsing took."""

    device: str
    provider: str
    max_batch: int
    seconds: float


@dataclass(slots=True)
class Inspection:
    """What is known of a file. `refusal` says why a server would refuse it, and is empty if it would not."""

    path: Path
    size_bytes: int = 0
    sha256: str = ""
    opset: int = 0
    producer: str = ""
    signature: GraphSignature | None = None
    candidates: list[Candidate] = field(default_factory=list)
    family: Family | None = None
    trial: Trial | None = None
    refusal: str = ""


def inspect(path: Path, attributes: Mapping[str, Any], *, device: str | None) -> Inspection:
    """Look at a file as the entry with these `attributes` would have it served, and run it on `device` unless that is
    None. Never raises for what is wrong with the file."""
    found = Inspection(path)
    version = ModelVersion(path.stem, 1, path, attributes=attributes)
    try:
        _look(found, version)
        if device is not None:
            found.trial = _try(version, device)
    except (ModelRefused, DeviceUnavailable) as error:
        found.refusal = str(error)
    return found


def _look(found: Inspection, version: ModelVersion) -> None:
    model, found.sha256 = read_model(version)
    found.size_bytes = found.path.stat().st_size
    found.opset, found.producer = opset_of(model) or 0, _producer(model)
    found.signature = signature_of(model)
    description = Description(found.signature, read_settings(version.attributes))
    found.candidates = consider(description)
    found.family = choose(found.candidates, description)


def _try(version: ModelVersion, device: str) -> Trial:
    chosen = choose_device(device)
    started = perf_counter()
    with tempfile.TemporaryDirectory(prefix="videoai-") as folder:
        model = load(version, chosen, prepared=PreparedModels(Path(folder), sys.maxsize), apart=Apart())
        seconds = perf_counter() - started
    try:
        return Trial(model.device, model.provider, model.max_batch, seconds)
    finally:
        model.close()


def _producer(model: ModelProto) -> str:
    return f"{model.producer_name} {model.producer_version}".strip()
