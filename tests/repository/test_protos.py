"""The wire contract: commented throughout, and the names that other programs are written against."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor
from videoai.inference.v1 import inference_pb2
from videoai.registry.v1 import registry_pb2

PROTOS = Path(__file__).parents[2] / "protos"
BUF = Path(sysconfig.get_path("scripts")) / "buf"

REGISTRY = registry_pb2.DESCRIPTOR.services_by_name["ModelRegistryService"]
INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]

# Name of the rpc: whether the client streams, whether the server does.
RPCS = {
    REGISTRY: {
        "RegisterModel": (False, False),
        "GetModel": (False, False),
        "ListModels": (False, False),
        "ActivateModelVersion": (False, False),
        "RollbackProduction": (False, False),
        "ListActivations": (False, False),
        "GetRegistryState": (False, False),
        "ArchiveModelVersion": (False, False),
        "UpdateModelMetadata": (False, False),
        "DeleteModelVersion": (False, False),
        "GetProductionModel": (False, False),
        "WatchProduction": (False, True),
        "ReportModelState": (False, False),
        "GetRollout": (False, False),
        "UploadModel": (True, False),
        "DownloadModel": (False, True),
    },
    INFERENCE: {
        "AnalyzeVideo": (True, True),
        "AnalyzeSource": (False, True),
        "AnalyzeFrames": (False, False),
        "GetServingState": (False, False),
    },
}

FIELDS = {
    registry_pb2.Model: "model_name version path status creation_timestamp activation_timestamp metadata sha256 "
    "size_bytes inputs outputs",
    registry_pb2.ModelMetadata: "description metrics attributes",
    registry_pb2.RegisterModelRequest: "model_name version path metadata sha256 request_id",
    registry_pb2.ListModelsRequest: "model_name status page_size page_token",
    registry_pb2.ListModelsResponse: "models next_page_token revision",
    registry_pb2.ActivateModelVersionRequest: "model_name version expected_production_version request_id",
    registry_pb2.ActivateModelVersionResponse: "model demoted revision",
    registry_pb2.WatchProductionRequest: "model_names instance_id registry_uid revision",
    registry_pb2.WatchProductionResponse: "registry_uid revision reset activated cleared synced heartbeat",
    registry_pb2.ReportModelStateRequest: "instance_id model_name version revision state running_version error",
    inference_pb2.AnalyzeConfig: "model_name stride frames_per_second start_seconds end_seconds max_frames "
    "confidence_threshold iou_threshold max_detections class_names delivery include_tensors",
    inference_pb2.AnalyzeVideoRequest: "config chunk",
    inference_pb2.AnalyzeVideoResponse: "started frame summary",
    inference_pb2.AnalyzeSourceRequest: "uri config max_reconnects give_up_seconds",
    inference_pb2.AnalyzeSourceResponse: "started frame summary gap",
    inference_pb2.Gap: "gap_index reason seconds attempts resumed began",
    inference_pb2.AnalyzeFramesRequest: "model_name frames",
    inference_pb2.FrameResult: "frame_index pts time_base time_seconds width height model_name model_version "
    "model_sha256 detections classifications tensors timings wall_clock wall_clock_source",
    inference_pb2.Detection: "box class_id class_name score keypoints mask",
    inference_pb2.BoundingBox: "x_min y_min x_max y_max",
}


def test_sources_pass_lint_and_are_commented() -> None:
    outcome = subprocess.run([BUF, "lint", PROTOS], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


def test_an_uncommented_field_is_found(tmp_path: Path) -> None:
    for source in [PROTOS / "buf.yaml", *PROTOS.rglob("*.proto")]:
        copy = tmp_path / source.relative_to(PROTOS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source.read_text().replace("message Synced {", "message Synced {\n  int32 silent = 1;"))
    outcome = subprocess.run([BUF, "lint", tmp_path], capture_output=True, text=True, check=False)
    assert 'Field "silent" should have a non-empty comment' in outcome.stdout


@pytest.mark.parametrize("service", RPCS, ids=lambda service: service.name)
def test_rpcs_keep_their_names_and_streams(service: ServiceDescriptor) -> None:
    assert {method.name: (method.client_streaming, method.server_streaming) for method in service.methods} == RPCS[
        service
    ]


def test_services_keep_their_names() -> None:
    assert [service.full_name for service in RPCS] == [
        "videoai.registry.v1.ModelRegistryService",
        "videoai.inference.v1.InferenceService",
    ]


@pytest.mark.parametrize("message", FIELDS, ids=lambda message: message.__name__)
def test_messages_keep_their_fields(message: type) -> None:
    fields = set(message.DESCRIPTOR.fields_by_name)  # type: ignore[attr-defined] # a generated class
    assert set(FIELDS[message].split()) <= fields


def test_versions_are_int32() -> None:
    for message in (registry_pb2.Model, registry_pb2.ActivateModelVersionRequest):
        assert message.DESCRIPTOR.fields_by_name["version"].type == FieldDescriptor.TYPE_INT32


def test_statuses_keep_their_names() -> None:
    names = {"MODEL_STATUS_STAGING", "MODEL_STATUS_PRODUCTION", "MODEL_STATUS_ARCHIVED"}
    assert names < set(registry_pb2.ModelStatus.keys())
