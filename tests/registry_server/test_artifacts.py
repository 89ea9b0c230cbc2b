"""The model files on disk."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from registry_server.artifacts import ArtifactFolder
from registry_server.errors import ArtifactMissing, InvalidField, NotAModel


@pytest.fixture
def folder(root: Any) -> ArtifactFolder:
    return ArtifactFolder(root.path)


def value(name: str, kind: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(inputs: list[Any], outputs: list[Any], weights: list[Any] | None = None) -> bytes:
    model = helper.make_model(helper.make_graph([], "g", inputs, outputs, weights or []))
    return onnx.ModelProto.SerializeToString(model)


def test_a_model_is_read_without_its_weights_files(root: Any, folder: ArtifactFolder) -> None:
    weight = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../../../../etc/passwd")
    inputs = [value("text", TensorProto.STRING, [None, "n", 3]), value("w", TensorProto.FLOAT, [1])]
    outputs = [value("d", TensorProto.DOUBLE, []), value("b", TensorProto.BFLOAT16, [2, 0])]
    data = graph(inputs, outputs, [weight])
    (root.path / "models" / "m.onnx").write_bytes(data)
    artifact = folder.inspect("models/m.onnx")
    assert (artifact.digest.sha256, artifact.digest.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert artifact.digest == folder.digest("models/m.onnx")
    assert [(spec.name, spec.datatype, spec.shape) for spec in artifact.inputs] == [("text", "BYTES", (-1, -1, 3))]
    assert [(s.datatype, s.shape) for s in artifact.outputs] == [("FP64", ()), ("BF16", (2, -1))]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a model",
        b"\x08\x01",  # parses as a model of version 1 without a graph
        onnx.GraphProto.SerializeToString(onnx.GraphProto(name="g")),
        graph([], [value("y", TensorProto.FLOAT, [1])]),
        graph([value("x", TensorProto.FLOAT, [1])], []),
    ],
)
def test_what_is_not_a_model_is_refused(root: Any, folder: ArtifactFolder, data: bytes) -> None:
    (root.path / "models" / "m.onnx").write_bytes(data)
    with pytest.raises(NotAModel, match="path"):
        folder.inspect("models/m.onnx")


def test_a_cut_off_model_is_refused(root: Any, folder: ArtifactFolder) -> None:
    path = root.path / root.add_model("m", 1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(NotAModel):
        folder.inspect("models/m/v1/model.onnx")


def test_links_may_not_lead_out_of_models(root: Any, folder: ArtifactFolder) -> None:
    inside = root.path / root.add_model("m", 1)
    outside = root.path / "outside.onnx"
    outside.write_bytes(inside.read_bytes())
    models = root.path / "models"
    (models / "file.onnx").symlink_to(outside)
    (models / "folder").symlink_to(root.path)
    (models / "fine.onnx").symlink_to(inside)
    for path in ("models/file.onnx", "models/folder/outside.onnx"):
        with pytest.raises(InvalidField, match="path: expected a file inside models/"):
            folder.inspect(path)
    assert folder.inspect("models/fine.onnx") == folder.inspect("models/m/v1/model.onnx")


def test_models_itself_may_be_a_link(root: Any) -> None:
    root.add_model("m", 1)
    other = root.path / "other"
    other.mkdir()
    (other / "models").symlink_to(root.path / "models")
    assert ArtifactFolder(other).inspect("models/m/v1/model.onnx").inputs


def test_only_regular_files_are_read(root: Any, folder: ArtifactFolder) -> None:
    os.mkfifo(root.path / "models" / "pipe.onnx")
    (root.path / "models" / "dir.onnx").mkdir()
    for path in ("models/pipe.onnx", "models/dir.onnx"):
        with pytest.raises(InvalidField, match="regular file"):
            folder.inspect(path)
    (root.path / "models" / "dangling.onnx").symlink_to(root.path / "models" / "nothing")
    for path in ("models/none.onnx", "models/dangling.onnx"):
        with pytest.raises(ArtifactMissing):
            folder.digest(path)
