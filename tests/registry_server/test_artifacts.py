"""The model files on disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from registry_server.artifacts import ArtifactFolder
from registry_server.errors import ArtifactMissing, InvalidField, NotAModel
from tests.server_kit.test_model_files import model_with, write


def save_apart(folder: Path, locations: list[str]) -> Path:
    """Write a model whose weights, one tensor for each location, lie in those files; return its path."""
    folder.mkdir()
    return write(folder, model_with(locations))


@pytest.fixture
def folder(root: Any) -> ArtifactFolder:
    return ArtifactFolder(root.path)


def value(name: str, kind: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(inputs: list[Any], outputs: list[Any], weights: list[Any] | None = None) -> bytes:
    model = helper.make_model(helper.make_graph([], "g", inputs, outputs, weights or []))
    return onnx.ModelProto.SerializeToString(model)


def test_a_model_is_read_without_being_run(root: Any, folder: ArtifactFolder) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    inputs = [value("text", TensorProto.STRING, [None, "n", 3]), value("w", TensorProto.FLOAT, [1])]
    outputs = [value("d", TensorProto.DOUBLE, []), value("b", TensorProto.BFLOAT16, [2, 0])]
    data = graph(inputs, outputs, [weight])
    (root.path / "models" / "m.onnx").write_bytes(data)
    artifact = folder.inspect("models/m.onnx")
    assert (artifact.digest.sha256, artifact.digest.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert artifact.digest == folder.digest("models/m.onnx")
    assert [(spec.name, spec.datatype, spec.shape) for spec in artifact.inputs] == [("text", "BYTES", (-1, -1, 3))]
    assert [(s.datatype, s.shape) for s in artifact.outputs] == [("FP64", ()), ("BF16", (2, -1))]
    assert (artifact.opset, artifact.weights_files) == (onnx.defs.onnx_opset_version(), ())


def test_weights_in_other_files_are_part_of_the_digest(root: Any, folder: ArtifactFolder) -> None:
    path = root.path / save_apart(root.path / "models" / "m", ["a.bin", "deep/b.bin", "a.bin"])
    path.with_name("unrelated.bin").write_bytes(b"not part of it")
    artifact = folder.inspect("models/m/model.onnx")
    command = "sha256sum model.onnx a.bin deep/b.bin | sha256sum"  # as the documents say
    printed = subprocess.check_output(["sh", "-c", command], cwd=path.parent, text=True)
    assert artifact.digest.sha256 == printed.split()[0]
    sizes = [(path.parent / name).stat().st_size for name in ("model.onnx", "a.bin", "deep/b.bin")]
    assert (artifact.weights_files, artifact.digest.size_bytes) == (("a.bin", "deep/b.bin"), sum(sizes))
    assert folder.digest("models/m/model.onnx", artifact.weights_files) == artifact.digest
    (path.parent / "deep/b.bin").write_bytes(bytes(sizes[2]))
    assert folder.digest("models/m/model.onnx", artifact.weights_files).sha256 != artifact.digest.sha256


def test_weights_belong_beside_the_file_that_a_link_leads_to(root: Any, folder: ArtifactFolder) -> None:
    save_apart(root.path / "models" / "m", ["a.bin"])
    (root.path / "models" / "link.onnx").symlink_to("m/model.onnx")
    assert folder.inspect("models/link.onnx") == folder.inspect("models/m/model.onnx")


def test_weights_that_are_not_to_be_read_name_path_and_tensor(root: Any, folder: ArtifactFolder) -> None:
    path = root.path / save_apart(root.path / "models" / "m", ["a.bin"])
    (path.parent / "a.bin").unlink()
    (path.parent / "a.bin").symlink_to("/etc/passwd")
    for ask in (folder.inspect, lambda name: folder.digest(name, ("a.bin",))):
        with pytest.raises(
            NotAModel, match=r"path: expected an ONNX model at .*, but weights 'a.bin': expected a file in"
        ):
            ask("models/m/model.onnx")


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
