"""videoai status: both servers at a glance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import click

from videoai.cli import output, show
from videoai.cli.options import Settings, global_options, pass_settings
from videoai.errors import VideoAIError
from videoai.inference.v1 import inference_pb2
from videoai.registry.v1 import registry_pb2

UNREACHABLE = "unreachable"
DEGRADED = "DEGRADED"


@dataclass
class Registry:
    """What the registry says, or why it does not."""

    address: str
    health: str = UNREACHABLE
    error: str = ""
    models: list[registry_pb2.Model] = field(default_factory=list)
    rollouts: list[registry_pb2.GetRolloutResponse] = field(default_factory=list)


@dataclass
class Inference:
    """What the inference server says, or why it does not."""

    address: str
    health: str = UNREACHABLE
    error: str = ""
    state: inference_pb2.GetServingStateResponse | None = None


@click.command()
@global_options
@pass_settings
@click.pass_context
def status(context: click.Context, settings: Settings) -> None:
    """Show both servers: health, what is in production, how far each replica is, and what runs on which device.

    The registry is degraded while what it stores cannot be read, after an edit for instance: it goes on with what it
    last read, and refuses changes. Exits with 0 only if both servers are serving, 4 if one cannot be reached, 1
    otherwise.
    """
    registry, inference = _ask_registry(settings), _ask_inference(settings)
    if settings.json:
        output.print_json(_as_dict(registry, inference))
    else:
        _print(registry, inference)
    health = {registry.health, inference.health}
    context.exit(0 if health == {"SERVING"} else 4 if UNREACHABLE in health else 1)


def _ask_registry(settings: Settings) -> Registry:
    answer = Registry(settings.registry)
    try:
        with settings.registry_client() as client:
            answer.health = client.health()
            answer.error = client.state().problem
            if answer.error and answer.health == "SERVING":
                answer.health = DEGRADED
            answer.models = list(client.list(status=registry_pb2.MODEL_STATUS_PRODUCTION))
            answer.rollouts = [client.rollout(model.model_name) for model in answer.models]
    except VideoAIError as error:
        answer.error = error.details
    return answer


def _ask_inference(settings: Settings) -> Inference:
    answer = Inference(settings.inference)
    try:
        with settings.inference_client() as client:
            answer.health = client.health()
            answer.state = client.serving_state()
    except VideoAIError as error:
        answer.error = error.details
    return answer


def _as_dict(registry: Registry, inference: Inference) -> dict[str, Any]:
    return {
        "registry": {
            "address": registry.address,
            "health": registry.health,
            "error": registry.error,
            "production": [output.to_dict(model) for model in registry.models],
            "rollouts": [output.to_dict(rollout) for rollout in registry.rollouts],
        },
        "inference": {
            "address": inference.address,
            "health": inference.health,
            "error": inference.error,
            "state": output.to_dict(inference.state) if inference.state else None,
        },
    }


def _print(registry: Registry, inference: Inference) -> None:
    servers = [
        ("registry", registry.address, _health(registry.health), registry.error),
        ("inference", inference.address, _health(inference.health), inference.error),
    ]
    output.print_table(None, ("SERVER", "ADDRESS", "HEALTH", "ERROR"), servers)
    for rollout in registry.rollouts:
        show.replicas(rollout)
    if inference.state:
        _print_state(inference.state)


def _print_state(state: inference_pb2.GetServingStateResponse) -> None:
    link = "connected" if state.registry_connected else "not connected"
    title = f"{state.instance_id}: {link} to {state.registry}, {state.active_streams} streams"
    rows = [
        (
            model.model_name,
            output.word(inference_pb2.ServingState.Name(model.state), "SERVING_STATE_"),
            output.version(model.seen_version),
            output.version(model.running_version),
            model.device,
            model.provider,
            model.frames_answered,
            model.frames_failed,
            model.last_error,
        )
        for model in state.models
    ]
    columns = ("MODEL", "STATE", "SEEN", "RUNNING", "DEVICE", "PROVIDER", "ANSWERED", "FAILED", "ERROR")
    output.print_table(title, columns, rows)


def _health(value: str) -> str:
    return value.lower().replace("_", " ")
