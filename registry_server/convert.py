"""Between the registry's values and the messages of the wire. Messages are checked here; errors name the field."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from videoai.registry.v1 import registry_pb2 as pb

from registry_server.entry import MAX_TEXT, Entry, Status, TensorSpec, check_name, check_version
from registry_server.errors import InvalidField
from registry_server.history import Activation
from registry_server.rollout import MAX_ERROR, Progress, Replica, Report
from registry_server.shelf import Key

MAX_MESSAGES = 256
_messages: WeakKeyDictionary[Entry, pb.Model] = WeakKeyDictionary()
"""Those of the entries asked for last; they may be of megabytes, so none outlives its entry."""

METADATA_PARTS = ("description", "metrics", "attributes")

_STATUSES = {
    Status.STAGING: pb.MODEL_STATUS_STAGING,
    Status.PRODUCTION: pb.MODEL_STATUS_PRODUCTION,
    Status.ARCHIVED: pb.MODEL_STATUS_ARCHIVED,
}
_PROGRESS = {
    Progress.UNKNOWN: pb.MODEL_STATE_UNSPECIFIED,
    Progress.RECEIVED: pb.MODEL_STATE_RECEIVED,
    Progress.LOADING: pb.MODEL_STATE_LOADING,
    Progress.APPLIED: pb.MODEL_STATE_APPLIED,
    Progress.REJECTED: pb.MODEL_STATE_REJECTED,
}


def to_model(entry: Entry) -> pb.Model:
    """The message of an entry. Many share it: copy it into another message, never change it."""
    message = _messages.get(entry)
    if message is None:
        if len(_messages) == MAX_MESSAGES:
            _messages.clear()
        message = _messages[entry] = _new_model(entry)
    return message


def _new_model(entry: Entry) -> pb.Model:
    metadata = entry.metadata
    attributes = Struct()
    attributes.update(metadata.get("attributes", {}))
    return pb.Model(
        model_name=entry.model_name,
        version=entry.version,
        path=entry.path,
        status=_STATUSES[entry.status],
        creation_timestamp=to_timestamp(entry.creation_timestamp),
        activation_timestamp=to_timestamp(entry.activation_timestamp),
        metadata=pb.ModelMetadata(
            description=metadata.get("description", ""), metrics=metadata.get("metrics", {}), attributes=attributes
        ),
        sha256=entry.sha256,
        size_bytes=entry.size_bytes,
        inputs=[_to_spec(spec) for spec in entry.inputs],
        outputs=[_to_spec(spec) for spec in entry.outputs],
        weights_files=entry.weights_files,
        opset=entry.opset,
    )


def to_timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def to_activation(record: Activation) -> pb.Activation:
    return pb.Activation(
        model_name=record.model_name,
        previous_version=record.previous,
        version=record.version,
        timestamp=to_timestamp(record.time),
        revision=record.revision,
        requested_by=record.requested_by,
        edited=record.edited,
    )


def to_replica(replica: Replica) -> pb.Replica:
    report = replica.report
    return pb.Replica(
        instance_id=replica.instance_id,
        seen_version=report.version,
        running_version=report.running_version,
        state=_PROGRESS[report.progress],
        error=report.error,
        revision=report.revision,
        connected_timestamp=to_timestamp(replica.connected),
        report_timestamp=to_timestamp(report.time),
    )


def from_status(number: int) -> Status | None:
    """None for "any"."""
    if number == pb.MODEL_STATUS_UNSPECIFIED:
        return None
    status = next((status for status, value in _STATUSES.items() if value == number), None)
    if status is None:
        raise InvalidField("status", "one of ModelStatus", number)
    return status


def from_report(request: pb.ReportModelStateRequest, now: datetime) -> Report:
    check_version(request.version)
    progress = next((key for key, value in _PROGRESS.items() if value == request.state), Progress.UNKNOWN)
    if progress is Progress.UNKNOWN:
        raise InvalidField("state", "RECEIVED, LOADING, APPLIED or REJECTED", request.state)
    for field in ("revision", "running_version"):
        if getattr(request, field) < 0:
            raise InvalidField(field, "a whole number >= 0", getattr(request, field))
    return Report(request.version, request.revision, progress, request.running_version, request.error[:MAX_ERROR], now)


def from_metadata(metadata: pb.ModelMetadata) -> dict[str, Any]:
    """All three parts, as they are written to the file."""
    return {
        "description": metadata.description,
        "metrics": {
            name: _from_number(f"metadata.metrics.{name}", value) for name, value in sorted(metadata.metrics.items())
        },
        "attributes": _from_struct("metadata.attributes", metadata.attributes),
    }


def check_text(field: str, value: str, *, least: int = 0) -> str:
    """A string of at most MAX_TEXT characters, all of them such that can be printed."""
    if not least <= len(value) <= MAX_TEXT or not value.isprintable():
        raise InvalidField(field, f"{least} to {MAX_TEXT} printable characters", value)
    return value


def to_page_token(key: Key) -> str:
    """Names the last entry of a page, so that entries that come or go between two pages shift nothing."""
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def from_page_token(token: str) -> Key | None:
    if not token:
        return None
    try:
        padded = token + "=" * (-len(token) % 4)
        name, version = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        return check_name(name), check_version(version)
    except (binascii.Error, ValueError, TypeError, RecursionError, InvalidField):
        raise InvalidField("page_token", "the next_page_token of an earlier page, or nothing", token) from None


def _to_spec(spec: TensorSpec) -> pb.TensorSpec:
    return pb.TensorSpec(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _from_struct(field: str, struct: Struct) -> dict[str, Any]:
    values: Mapping[str, Value] = struct.fields
    return {name: _from_value(f"{field}.{name}", values[name]) for name in sorted(values)}


def _from_value(field: str, value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return _from_struct(field, value.struct_value)
        case "list_value":
            return [_from_value(f"{field}[{index}]", item) for index, item in enumerate(value.list_value.values)]
        case "number_value":
            return _from_number(field, value.number_value)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _from_number(field: str, value: float) -> int | float:
    """A whole number is written as a person would, without a decimal point."""
    if not math.isfinite(value):
        raise InvalidField(field, "a finite number", value)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
