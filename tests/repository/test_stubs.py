"""The committed stubs are what protos/ gives, and work on both major versions of protobuf that the package allows."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"
STUBS = ROOT / "clients" / "stubs.py"
PINS = Path(__file__).parent / "protobuf"

# Runs where nothing but protobuf, grpcio and the stubs can be imported; prints what it saw as JSON.
PROGRAM = """
import json
import google.protobuf
from google.protobuf import json_format
from videoai.inference.v1 import inference_pb2, inference_pb2_grpc
from videoai.registry.v1 import registry_pb2, registry_pb2_grpc

model = registry_pb2.Model(
    model_name="shapes", version=7, path="models/shapes/v7/model.onnx", status=registry_pb2.MODEL_STATUS_PRODUCTION
)
model.metadata.metrics["accuracy"] = 0.78
model.metadata.attributes["imgsz"] = [640, 480]
model.creation_timestamp.FromJsonString("2025-06-25T12:00:00Z")
frame = inference_pb2.FrameResult(frame_index=3, model_name="shapes", model_version=7)
frame.detections.add(class_id=2, class_name="circle", score=0.5).box.x_max = 12.5
same = all(
    type(message).FromString(message.SerializeToString()) == message
    and json_format.Parse(json_format.MessageToJson(message), type(message)()) == message
    for message in (model, frame)
)
services = [registry_pb2_grpc.ModelRegistryServiceStub, inference_pb2_grpc.InferenceServiceStub]
print(json.dumps({"version": google.protobuf.__version__, "same": same, "services": [s.__name__ for s in services],
                  "from": google.protobuf.__file__}))
"""


def test_committed_stubs_are_what_generation_gives() -> None:
    outcome = subprocess.run([sys.executable, STUBS, "--check"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_drift_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specification = importlib.util.spec_from_file_location("stubs", STUBS)
    assert specification
    assert specification.loader
    stubs = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(stubs)
    monkeypatch.setattr(stubs, "CLIENTS", tmp_path)
    generated = [str(path) for path in stubs.generate(tmp_path)]
    assert stubs.drift() == []
    edited = tmp_path / generated[0]
    edited.write_text(edited.read_text() + "# edited by hand\n")
    (tmp_path / generated[1]).unlink()
    (tmp_path / "left_over_pb2.py").touch()
    assert stubs.drift() == sorted([generated[0], generated[1], "left_over_pb2.py"])


@pytest.fixture(scope="session")
def protobuf(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Path:
    """Return a folder that holds the protobuf of `request.param`, a file of pinned requirements; made once."""
    pins: Path = request.param
    cache = pytestconfig.cache
    assert cache, "the cache plugin holds the versions of protobuf to test with"
    target = cache.mkdir("protobuf") / f"{pins.stem}-python{sys.version_info.major}.{sys.version_info.minor}"
    stamp = target / "installed.txt"
    if not stamp.exists() or stamp.read_bytes() != pins.read_bytes():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--require-hashes"]
        subprocess.run([*install, "--target", target, "-r", pins], check=True)
        stamp.write_bytes(pins.read_bytes())
    return target


def test_both_major_versions_are_allowed_and_pinned() -> None:
    declared = next(line for line in requires("videoai") or [] if line.startswith("protobuf"))
    assert "<8" in declared
    assert sorted(path.stem for path in PINS.glob("*.txt")) == ["protobuf6", "protobuf7"]


@pytest.mark.parametrize("protobuf", sorted(PINS.glob("*.txt")), indirect=True, ids=lambda path: path.stem)
def test_stubs_work(protobuf: Path) -> None:
    grpc = Path(importlib.util.find_spec("grpc").origin).parent.parent  # type: ignore[union-attr, arg-type]
    path = f"import sys; sys.path[:0] = {[str(protobuf), str(CLIENTS)]!r}; sys.path.append({str(grpc)!r})"
    command = [sys.executable, "-I", "-S", "-W", "error", "-c", f"{path}\n{PROGRAM}"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    seen = json.loads(outcome.stdout)
    assert seen["version"].split(".")[0] == protobuf.name.removeprefix("protobuf").partition("-")[0]
    assert Path(seen["from"]).is_relative_to(protobuf)
    assert seen["same"]
    assert seen["services"] == ["ModelRegistryServiceStub", "InferenceServiceStub"]
