"""Models whose weights lie in other files, over a real socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode as Code
from videoai.registry.v1 import registry_pb2 as pb

from tests.registry_server.test_transfers import download, left, upload
from tests.server_kit.test_model_files import model_with, read, write

PATH = "models/m/model.onnx"


@pytest.fixture
def files(root: Any) -> Path:
    """The folder of a model with weights in two other files."""
    folder: Path = root.path / "models" / "m"
    folder.mkdir()
    write(folder, model_with(["a.bin", "deep/b.bin"]))
    return folder


async def test_it_is_registered_with_all_its_files_and_activated(client: Any, root: Any, files: Path) -> None:
    model = (await client.register("m", 1, PATH)).model
    assert (list(model.weights_files), model.opset) == (["a.bin", "deep/b.bin"], 17)
    assert model.size_bytes == sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
    (entry,) = root.document()["models"]
    assert (entry["weights_files"], entry["opset"]) == (["a.bin", "deep/b.bin"], 17)
    assert (await client.activate("m", 1)).model.sha256 == model.sha256
    root.add_model("other", 1)
    single = (await client.register("other", 1, "models/other/v1/model.onnx")).model
    assert (list(single.weights_files), single.opset) == ([], 17)
    assert "weights_files" not in root.document()["models"][1]


@pytest.mark.parametrize("change", ["weights", "model", "gone", "unlisted"])
async def test_what_changed_is_not_activated(client: Any, root: Any, files: Path, fails: Any, change: str) -> None:
    await client.register("m", 1, PATH)
    if change == "weights":
        data = (files / "deep/b.bin").read_bytes()
        (files / "deep/b.bin").write_bytes(b"?" + data[1:])
    elif change == "model":
        model = read(files / "model.onnx")
        model.producer_name = "other"
        (files / "model.onnx").write_bytes(model.SerializeToString())
    elif change == "gone":
        (files / "a.bin").unlink()
    else:
        document = root.document()
        del document["models"][0]["weights_files"]
        root.edit(document)
        await client.stub.ListModels(pb.ListModelsRequest())
    reason = await fails(client.activate("m", 1), Code.FAILED_PRECONDITION)
    assert "weights 'a.bin': cannot be read" in reason if change == "gone" else "on disk has" in reason


async def test_weights_elsewhere_are_an_invalid_path(client: Any, root: Any, files: Path, fails: Any) -> None:
    model = read(files / "model.onnx")
    model.graph.initializer[1].external_data[0].value = "../../registry.json"
    (files / "model.onnx").write_bytes(model.SerializeToString())
    reason = await fails(client.register("m", 1, PATH), Code.INVALID_ARGUMENT)
    assert reason.startswith(
        "path: expected an ONNX model at 'models/m/model.onnx', but tensor 'w1': weights '../../re"
    )


async def test_an_entry_written_by_hand_is_completed_when_it_is_activated(serve: Any, root: Any, files: Path) -> None:
    entry = {"model_name": "m", "version": 1, "path": PATH, "status": "staging"}
    root.file.write_text(json.dumps({"models": [entry]}))
    async with serve(root) as client:
        model = (await client.activate("m", 1)).model
    assert (list(model.weights_files), len(model.sha256)) == (["a.bin", "deep/b.bin"], 64)
    async with serve(root) as client:
        assert (await client.production("m")).model == model


@pytest.mark.parametrize("names", ["a.bin", [1], [["a.bin"]]])
async def test_a_list_of_files_that_is_none_is_told(serve: Any, root: Any, names: Any) -> None:
    entry = {"model_name": "m", "version": 1, "path": PATH, "status": "staging", "weights_files": names}
    root.file.write_text(json.dumps({"models": [entry]}))
    with pytest.raises(Exception, match="weights_files: expected a list of file names"):
        async with serve(root):
            pass


async def test_names_written_by_hand_lead_nowhere_else(serve: Any, root: Any, files: Path, fails: Any) -> None:
    entry = {"model_name": "m", "version": 1, "path": PATH, "status": "staging", "sha256": "0" * 64}
    root.file.write_text(json.dumps({"models": [{**entry, "weights_files": ["../../../../etc/passwd"]}]}))
    async with serve(root) as client:
        reason = await fails(client.activate("m", 1), Code.FAILED_PRECONDITION)
    assert "expected a path in the model's folder" in reason


async def test_it_is_neither_uploaded_nor_downloaded(client: Any, root: Any, files: Path, fails: Any) -> None:
    data = (files / "model.onnx").read_bytes()
    before = left(root)
    reason = await fails(client.stub.UploadModel(upload(data, model_name="up")), Code.INVALID_ARGUMENT)
    assert "'a.bin'; export it as a single file" in reason
    assert left(root) == before
    await client.register("m", 1, PATH)
    assert "export it as a single file" in await fails(download(client, 1), Code.FAILED_PRECONDITION)


async def test_nor_is_one_that_a_person_wrote_down(serve: Any, root: Any, files: Path, fails: Any) -> None:
    entry = {"model_name": "m", "version": 1, "path": PATH, "status": "staging"}
    root.file.write_text(json.dumps({"models": [entry]}))
    async with serve(root) as client:
        await fails(download(client, 1), Code.FAILED_PRECONDITION)
