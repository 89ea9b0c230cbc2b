"""Requests made from plain arguments, for the sync and the asyncio clients alike."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from videoai.registry.v1 import registry_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE_SIZE = 1000


def register(
    model_name: str,
    path: str,
    *,
    version: int = 0,
    description: str = "",
    metrics: Mapping[str, float] | None = None,
    attributes: Mapping[str, Any] | None = None,
    sha256: str | None = None,
    request_id: str | None = None,
) -> registry_pb2.RegisterModelRequest:
    return registry_pb2.RegisterModelRequest(
        model_name=model_name,
        version=version,
        path=path,
        metadata=_metadata(description, metrics, attributes),
        sha256=sha256,
        request_id=request_id or new_request_id(),
    )


def upload(
    model_name: str,
    *,
    version: int = 0,
    description: str = "",
    metrics: Mapping[str, float] | None = None,
    attributes: Mapping[str, Any] | None = None,
    request_id: str | None = None,
) -> registry_pb2.UploadHeader:
    return registry_pb2.UploadHeader(
        model_name=model_name,
        version=version,
        metadata=_metadata(description, metrics, attributes),
        request_id=request_id or new_request_id(),
    )


def list_page(
    model_name: str | None, status: registry_pb2.ModelStatus.ValueType | None, page_token: str
) -> registry_pb2.ListModelsRequest:
    return registry_pb2.ListModelsRequest(
        model_name=model_name, status=status, page_size=PAGE_SIZE, page_token=page_token
    )


def activate(
    model_name: str,
    version: int,
    *,
    expected_production_version: int | None = None,
    request_id: str | None = None,
    requested_by: str | None = None,
) -> registry_pb2.ActivateModelVersionRequest:
    return registry_pb2.ActivateModelVersionRequest(
        model_name=model_name,
        version=version,
        expected_production_version=expected_production_version,
        request_id=request_id or new_request_id(),
        requested_by=requested_by,
    )


def update_metadata(
    model_name: str,
    version: int,
    *,
    description: str | None = None,
    metrics: Mapping[str, float] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> registry_pb2.UpdateModelMetadataRequest:
    parts = {"description": description, "metrics": metrics, "attributes": attributes}
    given = [name for name, value in parts.items() if value is not None]
    if not given:  # an empty mask would replace everything by nothing
        raise ValueError("update_metadata: expected at least one of description, metrics and attributes, got none")
    return registry_pb2.UpdateModelMetadataRequest(
        model_name=model_name,
        version=version,
        metadata=_metadata(description or "", metrics, attributes),
        update_mask=FieldMask(paths=given),
    )


def report(
    instance_id: str,
    model_name: str,
    version: int,
    *,
    revision: int,
    state: registry_pb2.ModelState.ValueType,
    running_version: int = 0,
    error: str = "",
) -> registry_pb2.ReportModelStateRequest:
    return registry_pb2.ReportModelStateRequest(
        instance_id=instance_id,
        model_name=model_name,
        version=version,
        revision=revision,
        state=state,
        running_version=running_version,
        error=error,
    )


def new_request_id() -> str:
    """Return an id that no other change has: with it, a change that is sent twice happens once."""
    return uuid.uuid4().hex


def _metadata(
    description: str, metrics: Mapping[str, float] | None, attributes: Mapping[str, Any] | None
) -> registry_pb2.ModelMetadata:
    struct = Struct()
    struct.update(dict(attributes or {}))
    return registry_pb2.ModelMetadata(description=description, metrics=metrics, attributes=struct)
