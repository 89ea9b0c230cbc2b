"""Reading a model without its weights tells the same as reading it whole."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from demo import models as demo_models
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper, numpy_helper

from registry_server import onnx_files
from registry_server.onnx_files import NotReadable, read_model
from tests.registry_server.conftest import model_bytes
from tests.server_kit.test_model_files import model_with

VALUES = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def many_kinds() -> ModelProto:
    """Weights in each of the fields that can hold them, and in places that are left as they are."""
    kinds = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.UINT64)
    tensors = [helper.make_tensor(f"t{kind}", kind, [200], list(range(200))) for kind in kinds]
    tensors += [helper.make_tensor("s", TensorProto.STRING, [2], [b"a" * 300, b""])]
    tensors += [numpy_helper.from_array(np.arange(100_000), "raw"), TensorProto(name="empty")]
    constant = helper.make_node("Constant", [], ["c"], value=tensors[0])
    body = helper.make_graph([constant], "body", [], [], tensors)
    branch = helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "n"])
    model = helper.make_model(
        helper.make_graph([constant, branch], "g", [image], [image], tensors, doc_string="d" * 500)
    )
    helper.set_model_props(model, {"names": "{0: 'a'}"})
    return model


def demo(version: int, folder: Path) -> bytes:
    demo_models.write(demo_models.VERSIONS[version], folder / "demo.onnx")
    return (folder / "demo.onnx").read_bytes()


def without_values(data: bytes) -> ModelProto:
    model = ModelProto.FromString(data)
    for tensor in model.graph.initializer:
        for field in VALUES:
            tensor.ClearField(field)
    return model


@pytest.mark.parametrize("kind", ["small", "demo 1", "demo 2", "external", "many kinds"])
def test_all_but_the_values_is_read(kind: str, tmp_path: Path) -> None:
    makers = {
        "small": model_bytes,
        "demo 1": lambda: demo(1, tmp_path),
        "demo 2": lambda: demo(2, tmp_path),
        "external": lambda: model_with(["a", "b"]).SerializeToString(),
        "many kinds": lambda: many_kinds().SerializeToString(),
    }
    data = makers[kind]()
    found = without_values(read_model(io.BufferedReader(io.BytesIO(data))).SerializeToString())
    assert found == without_values(data)
    assert found.graph.input


def test_the_values_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(many_kinds().SerializeToString())
    with (tmp_path / "model").open("rb") as file:
        model = read_model(file)
    assert {tensor.name: tensor.ByteSize() for tensor in model.graph.initializer if tensor.ByteSize() > 100} == {}
    assert model.graph.node[0].attribute[0].t.float_data[7] == 7


@pytest.mark.parametrize("seed", range(20))
def test_what_is_damaged_is_refused_or_read_as_protobuf_reads_it(seed: int) -> None:
    chance = np.random.default_rng(seed)
    whole = many_kinds().SerializeToString()
    for _ in range(20):
        data = bytearray(whole[: chance.integers(len(whole))] if chance.random() < 0.5 else whole)
        for _ in range(chance.integers(4)):
            if data:
                data[chance.integers(min(len(data), 3000))] = chance.integers(256)
        try:
            found = read_model(io.BufferedReader(io.BytesIO(data)))
        except NotReadable:
            continue
        try:
            expected = ModelProto.FromString(bytes(data))
        except DecodeError:
            continue  # what is wrong is in the values
        assert [tensor.name for tensor in found.graph.initializer] == [t.name for t in expected.graph.initializer]
        assert found.graph.input == expected.graph.input


@pytest.mark.parametrize(
    "data",
    [
        b"\x3a",  # a graph without a length
        b"\x3a\x05ab",  # shorter than its length
        b"\x3a\x02\x2a\x05",  # weights that reach beyond their graph
        b"\x08" + b"\xff" * 10,  # a number without an end
        b"\x0b",  # a group
        b"\x09abc",  # a fixed number cut short
        b"\x3a\x03\x09ab" + b"c" * 6,  # one that reaches beyond its graph
        b"\xff",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(NotReadable):
        read_model(io.BufferedReader(io.BytesIO(data)))


def test_there_is_an_end_to_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "MAX_FIELDS", 1000)
    with pytest.raises(NotReadable, match="more than 1000 fields"):
        read_model(io.BufferedReader(io.BytesIO(b"\x08\x01" * 1001)))
