"""Weights beside a model: real files written with onnx, and what must not be read."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from server_kit.model_files import (
    MAX_WEIGHTS_FILES,
    BadWeights,
    combined_digest,
    files_of,
    open_beside,
    weights_of,
)

LENGTH = 4096


def model_with(locations: list[str]) -> ModelProto:
    """A model with one tensor of LENGTH bytes for each location, all in memory, marked to be written there."""
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, LENGTH // 4])
    tensors = [
        numpy_helper.from_array(np.full(LENGTH // 4, number, np.float32), f"w{number}")
        for number in range(len(locations))
    ]
    names = ["images", *(f"s{number}" for number in range(len(locations)))]
    nodes = [helper.make_node("Add", [names[n], f"w{n}"], [names[n + 1]]) for n in range(len(locations))]
    result = helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [1, LENGTH // 4])
    graph = helper.make_graph(nodes, "sums", [image], [result], tensors)
    for tensor, location in zip(graph.initializer, locations, strict=True):
        onnx.external_data_helper.set_external_data(tensor, location)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write(folder: Path, model: ModelProto) -> Path:
    """Write a model and its weights with onnx; return its path."""
    for one in weights_of(model):
        (folder / one.location).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def read(path: Path) -> ModelProto:
    return onnx.load(path, load_external_data=False)


def check(path: Path) -> None:
    """Do with a model's weights what both servers do."""
    weights = weights_of(read(path))
    for one in weights:
        with open_beside(Path(os.path.realpath(path)), one.location) as file:
            one.end_in(file.seek(0, 2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    return write(folder, model_with(["a.bin", "deep/b.bin", "a.bin"]))


def test_what_onnx_writes_is_found(path: Path) -> None:
    weights = weights_of(read(path))
    assert [(one.tensor.name, one.location) for one in weights] == [
        ("w0", "a.bin"),
        ("w1", "deep/b.bin"),
        ("w2", "a.bin"),
    ]
    assert files_of(weights) == ("a.bin", "deep/b.bin")
    for number, one in enumerate(weights):
        with open_beside(path, one.location) as file:
            data = file.read()
        values = np.frombuffer(data[one.offset : one.end_in(len(data))], np.float32)
        assert (values == number).all()


def test_the_digest_is_what_a_person_counts(path: Path) -> None:
    digests = [
        (name, hashlib.sha256((path.parent / name).read_bytes()).hexdigest())
        for name in ("model.onnx", "a.bin", "deep/b.bin")
    ]
    command = "sha256sum model.onnx a.bin deep/b.bin | sha256sum"
    printed = subprocess.check_output(["sh", "-c", command], cwd=path.parent, text=True)
    assert combined_digest(digests) == printed.split()[0]
    assert combined_digest(digests[:1]) == digests[0][1]
    assert len({combined_digest(digests[:n]) for n in (1, 2, 3)}) == 3


def test_files_come_in_the_order_of_their_bytes() -> None:
    weights = weights_of(model_with(["é", "b", "a-b", "a/b", "B", "b"]))
    assert files_of(weights) == ("B", "a-b", "a/b", "b", "é")


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\x7f", "a\u2028b"])
def test_a_name_that_could_be_read_in_two_ways_is_refused(name: str) -> None:
    with pytest.raises(BadWeights, match="expected a name without"):
        combined_digest([(name, "0" * 64), ("b", "0" * 64)])


def test_weights_are_found_wherever_they_hide() -> None:
    hidden = onnx.TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="x.bin")
    sparse = onnx.SparseTensorProto(values=hidden, indices=helper.make_tensor("i", TensorProto.INT64, [1], [0]))
    constant = helper.make_node("Constant", [], ["c"], value=hidden)
    body = helper.make_graph([constant], "body", [], [])
    function = helper.make_function("d", "f", [], ["c"], [constant], [helper.make_opsetid("", 17)])
    model = helper.make_model(helper.make_graph([constant], "g", [], [], [hidden]), functions=[function])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body))
    model.graph.node.append(helper.make_node("Custom", [], [], tensors=[hidden, hidden]))
    model.graph.node.append(helper.make_node("Constant", [], ["s"], sparse_value=sparse))
    model.graph.sparse_initializer.append(sparse)
    model.training_info.add().initialization.CopyFrom(body)
    assert [one.location for one in weights_of(model)] == ["x.bin"] * 10


Spoil = Callable[[ModelProto, Path], object]


def placed(**places: object) -> Spoil:
    """Let the first tensor lie there, and say nothing else of where."""

    def spoil(model: ModelProto, _: Path) -> None:
        tensor = model.graph.initializer[0]
        del tensor.external_data[:]
        for key, value in places.items():
            tensor.external_data.add(key=key, value=str(value))

    return spoil


def located(value: str) -> Spoil:
    return placed(location=value)


def again(key: str, value: str) -> Spoil:
    return lambda model, _: model.graph.initializer[0].external_data.add(key=key, value=value)


def nowhere(model: ModelProto, _: Path) -> None:
    del model.graph.initializer[0].external_data[:]


def instead(make: Callable[[Path], object]) -> Spoil:
    """Put something else where the weights were."""

    def spoil(_: ModelProto, folder: Path) -> None:
        (folder / "a.bin").unlink()
        make(folder / "a.bin")

    return spoil


def linked_folder(_: ModelProto, folder: Path) -> None:
    outside = folder.parent.parent / "outside"
    (folder / "deep").rename(outside)
    (folder / "deep").symlink_to(outside)


def neighbour(path: Path) -> None:
    """A file of another model: inside models/, but not of this one's folder."""
    other = path.parent.parent / "other"
    other.mkdir()
    (other / "a.bin").write_bytes(bytes(2 * LENGTH))
    path.symlink_to(other / "a.bin")


def many(model: ModelProto, _: Path) -> None:
    for number in range(MAX_WEIGHTS_FILES + 1):
        tensor = model.graph.initializer.add(name=f"t{number}", data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=f"f{number}")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (located("../a.bin"), "tensor 'w0': weights '../a.bin': expected a path in the model's folder"),
        (located("deep/../../m/a.bin"), "expected a path in the model's folder"),
        (located("/etc/passwd"), "weights '/etc/passwd': expected a path in the model's folder"),
        (located("./a.bin"), "expected a path in the model's folder"),
        (located("deep//b.bin"), "expected a path in the model's folder"),
        (located("a.bin/"), "expected a path in the model's folder"),
        (located(""), "tensor 'w0': weights '': expected a path in the model's folder"),
        (located("deep\\b.bin"), "without '.', '..', backslash"),
        (located("a.bin\0"), "control characters"),
        (located("a.bin\n"), "control characters"),
        (located("a" * 1025), "expected a path in the model's folder"),
        (located("model.onnx"), "expected another file than the model itself"),
        (located("none.bin"), "weights 'none.bin': cannot be read: No such file"),
        (located("*/_ORT_MEM_ADDR_/*"), "cannot be read: No such file"),
        (nowhere, "tensor 'w0': weights '': expected a path"),
        (again("location", "deep/b.bin"), "tensor 'w0': expected one location, got two"),
        (again("length", "1"), "tensor 'w0': expected one length, got two"),
        (placed(location="a.bin", offset=-1), "tensor 'w0': offset: expected a whole number of bytes, got '-1'"),
        (placed(location="a.bin", length=-1), "length: expected a whole number of bytes, got '-1'"),
        (placed(location="a.bin", offset=2 * LENGTH + 1), "offset 8193 and length None"),
        (
            placed(location="a.bin", offset=1, length=2 * LENGTH),
            "'a.bin', which has 8192, got offset 1 and length 8192",
        ),
        (placed(location="a.bin", offset=10**18, length=10**18), "got offset 1000000000000000000"),
        (placed(location="a.bin", offset="9" * 30), "expected a whole number of bytes"),
        (placed(location="a.bin", offset="٣"), "expected a whole number of bytes"),
        (instead(lambda path: path.mkdir()), "weights 'a.bin': expected a regular file"),
        (instead(os.mkfifo), "weights 'a.bin': expected a regular file"),
        (instead(lambda path: path.symlink_to("/dev/zero")), "expected a file in the model's folder once links"),
        (instead(lambda path: path.symlink_to("/etc/passwd")), "expected a file in the model's folder once links"),
        (instead(lambda path: path.symlink_to("a.bin")), "cannot be read"),
        (instead(lambda path: path.symlink_to("model.onnx")), "expected another file than the model itself"),
        (instead(neighbour), "expected a file in the model's folder once links"),
        (instead(lambda path: path.touch()), "which has 0, got offset"),
        (linked_folder, "weights 'deep/b.bin': expected a file in the model's folder once links"),
        (many, "expected weights in at most 1000 files, found 1003"),
    ],
)
def test_weights_that_lead_elsewhere_are_refused(path: Path, spoil: Spoil, complaint: str) -> None:
    check(path)
    model = read(path)
    spoil(model, path.parent)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadWeights) as refused:
        check(path)
    assert complaint in str(refused.value)


def test_a_link_within_the_folder_is_followed(path: Path) -> None:
    (path.parent / "a.bin").rename(path.parent / "blob")
    (path.parent / "a.bin").symlink_to("blob")
    check(path)
