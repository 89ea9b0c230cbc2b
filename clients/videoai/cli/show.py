"""How models, changes, replicas and events look on the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from videoai.cli import output
from videoai.registry.v1 import registry_pb2
from videoai.watching import Activated, Cleared, Disconnected, Synced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from videoai.cli.options import Settings
    from videoai.rollout import Change
    from videoai.watching import WatchEvent


def model(settings: Settings, item: registry_pb2.Model, done: str | None = None) -> None:
    """Print one version in full, or only what was done to it."""
    if settings.json:
        output.print_json(item)
    elif done:
        click.echo(done)
    else:
        output.print_pairs(_details(item))


def model_list(settings: Settings, items: Sequence[registry_pb2.Model]) -> None:
    """Print versions, one a line."""
    if settings.json:
        # Of several pages: the revision and the token of a single one would say nothing.
        output.print_json({"models": [output.to_dict(item) for item in items]})
    else:
        columns = ("MODEL", "VERSION", "STATUS", "CREATED", "SIZE", "DESCRIPTION")
        output.print_table(None, columns, [_row(item) for item in items])


def change(settings: Settings, answer: Change) -> None:
    """Print what went into production, and instead of what."""
    if settings.json:
        output.print_json(answer)
    else:
        click.echo(changed(answer))


def changed(answer: Change) -> str:
    """Say what went into production, and instead of what."""
    name, version = answer.model.model_name, answer.model.version
    before = f", version {answer.demoted.version} before" if answer.HasField("demoted") else ""
    return f"{name} version {version} is in production{before} (revision {answer.revision})"


def history(settings: Settings, items: Sequence[registry_pb2.Activation]) -> None:
    """Print changes of production, one a line."""
    if settings.json:
        output.print_json(registry_pb2.ListActivationsResponse(activations=items))
        return
    rows = [
        (
            output.moment(item.timestamp),
            output.version(item.previous_version),
            output.version(item.version),
            item.requested_by or ("an edit" if item.edited else ""),
            item.revision,
        )
        for item in items
    ]
    output.print_table(None, ("WHEN", "FROM", "TO", "BY", "REVISION"), rows)


def replicas(answer: registry_pb2.GetRolloutResponse) -> None:
    """Print how far each replica has come."""
    output.console().print(replica_table(answer))


def replica_table(answer: registry_pb2.GetRolloutResponse) -> Table:
    """Return how far each replica has come, one a line."""
    title = f"{answer.model_name}: version {output.version(answer.production_version)} in production"
    rows = [
        (
            replica.instance_id,
            output.word(registry_pb2.ModelState.Name(replica.state), "MODEL_STATE_"),
            output.version(replica.seen_version),
            output.version(replica.running_version),
            output.moment(replica.report_timestamp),
            replica.error,
        )
        for replica in answer.replicas
    ]
    return output.table(title, ("REPLICA", "STATE", "SEEN", "RUNNING", "REPORTED", "ERROR"), rows)


def event(settings: Settings, item: WatchEvent) -> None:
    """Print one event of a watch; what concerns the connection alone goes to standard error."""
    if isinstance(item, Disconnected):
        click.echo(f"videoai: {item.reason}; trying again in {item.retry_seconds:.1f} s", err=True)
    elif settings.json:
        click.echo(output.one_line(_message(item)), nl=False)
    else:
        click.echo(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}  {_sentence(item)}  (revision {item.revision})")


def _row(item: registry_pb2.Model) -> tuple[object, ...]:
    status = _status(item)
    created = output.moment(item.creation_timestamp)
    return item.model_name, item.version, status, created, output.size(item.size_bytes), item.metadata.description


def _details(item: registry_pb2.Model) -> list[tuple[str, object]]:
    notes = output.to_dict(item.metadata)
    return [
        ("model", item.model_name),
        ("version", item.version),
        ("status", _status(item)),
        ("path", item.path),
        *(("weights in", name) for name in item.weights_files),
        ("size", output.size(item.size_bytes)),
        ("sha256", item.sha256),
        ("opset", item.opset or ""),
        ("created", output.moment(item.creation_timestamp)),
        ("activated", output.moment(item.activation_timestamp)),
        ("description", item.metadata.description),
        *((f"metric {name}", f"{value:g}") for name, value in sorted(item.metadata.metrics.items())),
        *((f"attribute {name}", value) for name, value in sorted(notes.get("attributes", {}).items())),
        *(("input", _tensor(tensor)) for tensor in item.inputs),
        *(("output", _tensor(tensor)) for tensor in item.outputs),
    ]


def _status(item: registry_pb2.Model) -> str:
    return output.word(registry_pb2.ModelStatus.Name(item.status), "MODEL_STATUS_")


def _tensor(tensor: registry_pb2.TensorSpec) -> str:
    shape = " x ".join("?" if length < 0 else str(length) for length in tensor.shape)
    return f"{tensor.name}  {tensor.datatype}  {shape}"


def _sentence(item: Activated | Cleared | Synced) -> str:
    match item:
        case Activated(model=model_):
            return f"{model_.model_name}: version {model_.version} in production"
        case Cleared(model_name=name):
            return f"{name}: nothing in production"
        case Synced():
            return "up to date, following changes"


def _message(item: Activated | Cleared | Synced) -> registry_pb2.WatchProductionResponse:
    message = registry_pb2.WatchProductionResponse(
        registry_uid=item.registry_uid, revision=item.revision, reset=item.reset
    )
    match item:
        case Activated(model=model_):
            message.activated.model.CopyFrom(model_)
        case Cleared(model_name=name):
            message.cleared.model_name = name
        case Synced():
            message.synced.SetInParent()
    return message
