"""Both servers, seen from here: reachable, healthy, of one mind, and with clocks that agree."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from videoai.cli import output
from videoai.cli.findings import Finding
from videoai.errors import Unimplemented, VideoAIError
from videoai.registry.v1 import registry_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.timestamp_pb2 import Timestamp

    from videoai import InferenceClient, RegistryClient
    from videoai.cli.options import Settings
    from videoai.inference.v1 import inference_pb2

REGISTRY, INFERENCE = "registry server", "inference server"

MOST_SKEW_SECONDS = 2.0
"""Clocks that differ by more are told of: histories and logs of the two machines do not fit together then."""


class _Production:
    """What a registry has in production, and which replicas follow it."""

    def __init__(self, client: RegistryClient) -> None:
        production = client.list(status=registry_pb2.MODEL_STATUS_PRODUCTION)
        self.models = {model.model_name: model for model in production}
        self.replicas = {
            name: {replica.instance_id for replica in client.rollout(name).replicas} for name in self.models
        }


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield what is found out about the two servers that the settings name."""
    production = None
    try:
        with settings.registry_client() as registry:
            yield from _registry(registry)
            production = _Production(registry)
    except VideoAIError as error:
        yield _silent(REGISTRY, settings.registry, error, "videoai-registry --root DIR")
    try:
        with settings.inference_client() as inference:
            yield from _inference(inference, production, settings.registry)
    except VideoAIError as error:
        yield _silent(
            INFERENCE, settings.inference, error, f"videoai-inference --root DIR --registry {settings.registry}"
        )


def _registry(client: RegistryClient) -> Iterator[Finding]:
    yield _health(REGISTRY, client.address, client.health(), "see its log")
    asked = time.time()
    state = client.state()
    yield from _clock(REGISTRY, state.current_timestamp, asked, time.time())
    if state.problem:
        advice = "reads go on, changes are refused until it is mended: videoai models edit"
        yield Finding(REGISTRY, "storage", "failed", state.problem, advice)
    else:
        found = f"{state.storage}: revision {state.revision}, {state.versions} versions, {state.watchers} watchers"
        yield Finding(REGISTRY, "storage", "ok", found)


def _inference(client: InferenceClient, production: _Production | None, registry: str) -> Iterator[Finding]:
    advice = "no version runs yet, or it is shutting down: videoai status, and its log"
    yield _health(INFERENCE, client.address, client.health(), advice)
    asked = time.time()
    state = client.serving_state()
    yield from _clock(INFERENCE, state.current_timestamp, asked, time.time())
    yield _follows(state, production, registry)
    if not state.models:
        advice = "activate a version: videoai models activate NAME VERSION"
        yield Finding(INFERENCE, "models", "warning", "it serves none", advice)
    for model in state.models:
        yield _served(model, production.models.get(model.model_name) if production else None)


def _silent(topic: str, address: str, error: VideoAIError, start: str) -> Finding:
    if isinstance(error, Unimplemented):
        return Finding(topic, "answers", "failed", f"{address}: {error.details}", "is it another server's address?")
    flag = "--registry" if topic == REGISTRY else "--inference"
    return Finding(
        topic,
        "answers",
        "unreachable",
        f"{address}: {error.details}",
        f"start it: {start}, or name it with {flag} ADDR",
    )


def _health(topic: str, address: str, health: str, advice: str) -> Finding:
    if health == "SERVING":
        return Finding(topic, "answers", "ok", f"{address} is serving")
    return Finding(topic, "answers", "failed", f"{address} is {output.word(health, '')}", advice)


def _clock(topic: str, told: Timestamp, asked: float, answered: float) -> Iterator[Finding]:
    if not told.seconds:  # a server from before it told its time
        return
    clock = told.seconds + told.nanos / 1e9
    # It looked at its clock at some moment in between: only what lies outside is certain.
    skew = clock - min(max(clock, asked), answered)
    if abs(skew) <= MOST_SKEW_SECONDS:
        yield Finding(topic, "clock", "ok", f"agrees with this machine's to {max(answered - asked, abs(skew)):.1g} s")
    else:
        found = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
        yield Finding(topic, "clock", "warning", found, "keep both machines' clocks by NTP")


def _follows(state: inference_pb2.GetServingStateResponse, production: _Production | None, registry: str) -> Finding:
    """Whether it follows a registry, and the one that is asked here: that one knows all who watch it."""
    if not state.registry_connected:
        found = f"{state.instance_id} is not connected to {state.registry}; it goes on with what it last ran"
        return Finding(
            INFERENCE, "follows", "failed", found, f"is the registry there, and reachable from it as {state.registry}?"
        )
    found = f"{state.instance_id} follows {state.registry}"
    known = [name for name in (model.model_name for model in state.models) if production and name in production.models]
    if production and known and all(state.instance_id not in production.replicas[name] for name in known):
        found += f", which is not the registry at {registry}"
        return Finding(
            INFERENCE, "follows", "failed", found, "give the inference server and this command one --registry"
        )
    return Finding(INFERENCE, "follows", "ok", found)


def _served(model: inference_pb2.ServedModel, production: registry_pb2.Model | None) -> Finding:
    """Whether it answers with what is in production, where that is known."""
    check = f"model {model.model_name}"
    found = (
        f"version {model.running_version} on {model.device} ({model.provider})"
        if model.running_version
        else "none runs"
    )
    if model.last_error:
        advice = "activate a version that works, or mend this one and register it again"
        return Finding(INFERENCE, check, "failed", f"{found}; refused: {model.last_error}", advice)
    if not model.running_version:
        return Finding(INFERENCE, check, "warning", "no version runs yet", "videoai models rollout tells how far it is")
    if production is None:
        return Finding(INFERENCE, check, "ok", found)
    if production.version != model.running_version:
        advice = "if that lasts, see videoai models rollout"
        return Finding(INFERENCE, check, "warning", f"{found}, but {production.version} is in production", advice)
    if production.sha256 and production.sha256 != model.running_sha256:
        advice = "register the file again as a new version"
        return Finding(INFERENCE, check, "failed", f"{found}, of other bytes than the registry has recorded", advice)
    return Finding(INFERENCE, check, "ok", f"{found}, as the registry has it")
