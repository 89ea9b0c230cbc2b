"""Files that cannot be served, and the reason that a person gets to read."""

import hashlib

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from wrong_files import WRONG

from inference_server.engine import Device, ModelVersion, load
from inference_server.errors import ModelRefused


@pytest.fixture
def refusal(version_of):
    """A function that loads a model, which must be refused, and returns the reason."""

    def reason(model, sha256="", **attributes):
        with pytest.raises(ModelRefused) as refused:
            load(version_of(model, sha256, **attributes), Device("cpu"))
        text = str(refused.value)
        assert "\n" not in text
        assert len(text) < 2500
        return text

    return reason


def graph_of(nodes, inputs, outputs, *constants):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"names": "['a']"})
    return model


def images(*shape):
    return helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelRefused, match=r"gone.onnx: no such file"):
        load(ModelVersion("thing", 1, tmp_path / "gone.onnx"), Device("cpu"))


def test_a_folder(tmp_path):
    with pytest.raises(ModelRefused, match="no such file"):
        load(ModelVersion("thing", 1, tmp_path), Device("cpu"))


def test_an_empty_file(refusal):
    assert "expected 1.." in refusal(b"")


@pytest.mark.parametrize("inside", ["graph", "branch", "function"])
@pytest.mark.parametrize(
    ("outputs", "said", "reason"),
    [
        (["a", "b", "c"], {"num_outputs": 2}, "Split says num_outputs 2, and gives 3"),
        (["a", ""], {"num_outputs": 2}, "Split gives an output that has no name"),
        (["", "a"], {}, "Split gives an output that has no name"),
    ],
)
def test_what_onnx_runtime_would_end_the_process_for(refusal, inside, outputs, said, reason):
    """Were it not refused, this would end the tests as well."""
    split = helper.make_node("Split", ["images"], outputs, "halves", axis=1, **said)
    given = helper.make_tensor_value_info("a", TensorProto.FLOAT, None)
    branch = helper.make_graph([split], "branch", [], [given])
    nodes = {
        "graph": [split],
        "branch": [helper.make_node("If", ["yes"], ["a"], then_branch=branch, else_branch=branch)],
        "function": [helper.make_node("Halves", ["images"], ["a"], domain="own")],
    }[inside]
    model = graph_of(nodes, [images(1, 6)], [given], numpy_helper.from_array(np.array([True]), "yes"))
    model.opset_import[0].version = 18
    if inside == "function":
        opsets = [helper.make_opsetid("", 18)]
        model.functions.append(helper.make_function("own", "Halves", ["images"], ["a"], [split], opsets))
        model.opset_import.append(helper.make_opsetid("own", 1))
    assert f"node 'halves': {reason}" in refusal(model, family="tensors")


def test_a_file_that_changed(refusal, small_detector):
    content = small_detector().SerializeToString()
    found = hashlib.sha256(content).hexdigest()
    reason = refusal(content, "0" * 64)
    assert f"changed on disk: expected sha256 {'0' * 64}, found {found}" in reason


@pytest.mark.parametrize(
    "content",
    [b"hello", b"\0" * 1000, np.random.default_rng(1).bytes(10_000), b"\xff" * 100, b"\x89PNG\r\n\x1a\n" * 100],
    ids=["text", "zeros", "noise", "ones", "picture"],
)
def test_what_is_no_model(refusal, content):
    assert "not an ONNX model, or damaged" in refusal(content)


def test_a_model_cut_short(refusal, small_detector):
    content = small_detector().SerializeToString()
    assert "not an ONNX model, or damaged" in refusal(content[: len(content) // 2])


def test_bytes_that_parse_as_another_message(refusal):
    assert "it has no graph" in refusal(ModelProto(ir_version=8, producer_name="x").SerializeToString())


def test_an_opset_of_long_ago(refusal, small_detector):
    model = small_detector()
    model.opset_import[0].version = 6
    assert "expected opset 7 or later, found 6" in refusal(model)


def test_an_opset_of_the_future(refusal, small_detector):
    model = small_detector()
    model.opset_import[0].version = 999
    assert "ONNX Runtime cannot run the model" in refusal(model)


@pytest.mark.parametrize("nested", [False, True])
def test_weights_in_another_file(refusal, small_detector, nested):
    model = small_detector()
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "elsewhere")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    if nested:
        body = helper.make_graph([helper.make_node("Constant", [], ["out"], value=tensor)], "body", [], [])
        model.graph.node.append(helper.make_node("If", ["condition"], ["x"], then_branch=body, else_branch=body))
    else:
        model.graph.initializer.append(tensor)
    assert "tensor 'elsewhere': weights '../../secret': expected a path in the model's folder" in refusal(model)


def test_an_operator_that_nobody_knows(refusal, small_detector):
    model = small_detector()
    model.graph.node[2].op_type = "Fancy"
    model.graph.node[2].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    reason = refusal(model)
    assert "ONNX Runtime cannot run the model" in reason
    assert "Fancy" in reason


def test_shapes_that_do_not_fit_each_other(refusal, small_detector):
    model = small_detector()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((6, 4, 8, 8), np.float32), "weights"))
    assert "the model does not run with 1 frames" in refusal(model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"images", "input b'ima\\xffes': expected UTF-8"),
        (b"output0", "output b'out\\xffut0': expected UTF-8"),
        (b"names", "metadata b'nam\\xffs': expected UTF-8"),
        (b"Sigmoid", "operator b'Sig\\xffoid': expected UTF-8"),
        (b"weights", "initializer b'wei\\xffhts': expected UTF-8"),
        (b"planes", "value b'pla\\xffes': expected UTF-8"),
    ],
)
def test_text_that_is_none(refusal, small_detector, text, reason):
    content = small_detector().SerializeToString()
    assert reason in refusal(content.replace(text, text[:3] + b"\xff" + text[4:]))


def test_a_reason_that_quotes_what_is_no_text(refusal, small_detector):
    content = small_detector().SerializeToString()
    assert "Unrecognized attribute: str\ufffddes" in refusal(content.replace(b"strides", b"str\xffdes"))


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        (1 << 40, "there is no memory to run the model with inputs of its sizes"),
        ((1 << 63) - 1, "nothing can have the sizes of the model's inputs"),
    ],
)
def test_inputs_that_no_memory_holds(refusal, side, reason):
    nodes = [helper.make_node("Identity", ["images"], ["a"])]
    model = graph_of(nodes, [images(side, 8)], [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)])
    assert reason in refusal(model, family="tensors")


def test_a_wire_to_nowhere(refusal, small_detector):
    model = small_detector()
    model.graph.node[2].input[0] = "nowhere"
    assert "nowhere" in refusal(model)


def test_weights_that_are_no_numbers(refusal, small_detector):
    model = small_detector()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((6, 3, 8, 8), np.nan, np.float32), "weights"))
    assert "output output0: holds values that are no numbers (NaN)" in refusal(model)


def test_more_rows_than_classes(refusal, small_detector):
    model = small_detector(names="['a']", task="detect")
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 24
    assert "expected (batch, 5, anchors) for 1 classes" in refusal(model)


def test_rows_that_the_graph_hides_until_it_runs(refusal, small_detector):
    model = small_detector(names="['a']", task="detect")
    del model.graph.output[0].type.tensor_type.shape.dim[1:]
    for _ in range(2):
        model.graph.output[0].type.tensor_type.shape.dim.add()
    assert "output output0: expected (5, anchors) for each frame, got (6, 24)" in refusal(model)


def test_no_classes(refusal, small_detector):
    assert "expected 1..65536 classes, got 0 classes" in refusal(small_detector(names="{}"))


def test_metadata_of_a_megabyte(refusal, small_detector):
    assert "at most 1048576 characters" in refusal(small_detector(names="['" + "a" * (1 << 20) + "']"))


def test_code_in_the_metadata(refusal, small_detector, tmp_path):
    reason = refusal(small_detector(names=f"__import__('pathlib').Path({str(tmp_path / 'run')!r}).touch()"))
    assert "metadata key 'names': expected a list or dictionary" in reason
    assert not (tmp_path / "run").exists()


def test_two_inputs(refusal, small_detector):
    model = small_detector()
    model.graph.input.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, (1, 2)))
    assert "expected one input, found 2" in refusal(model)


def test_no_metadata_and_a_shape_that_says_nothing(refusal, small_detector):
    model = small_detector()
    del model.metadata_props[:]
    reason = refusal(model)
    assert "no metadata key 'names'" in reason
    assert "set metadata.attributes.videoai.family to one of them or to tensors" in reason


def test_everything_left_open(refusal, small_detector):
    assert "no metadata key 'imgsz'" in refusal(small_detector(batch="batch", size=None))


def test_an_input_that_is_no_tensor(refusal, small_detector):
    model = small_detector()
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    model.graph.input[0].CopyFrom(helper.make_value_info("images", helper.make_sequence_type_proto(tensor)))
    assert "images: expected a tensor with an element type" in refusal(model)


def test_an_element_type_that_does_not_exist(refusal, small_detector):
    model = small_detector()
    model.graph.output[0].type.tensor_type.elem_type = 99
    assert "output0: element type 99 is not one of ONNX" in refusal(model)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_one_thing_wrong_with_a_sound_detector(refusal, wrong):
    attributes = wrong.entry.get("metadata", {}).get("attributes", {}).get("videoai", {})
    assert wrong.reason in refusal(wrong.content, **attributes)


def test_a_place_in_the_sources_of_the_runtime_is_no_reason(refusal, small_detector):
    model = small_detector()
    model.opset_import[0].version = 999
    reason = refusal(model)
    assert "onnxruntime_src" not in reason
    assert "Opset 999 is under development" in reason


def test_an_output_for_the_batch_as_a_whole(refusal):
    nodes = [helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0)]
    model = graph_of(nodes, [images(2, 3, 8, 8)], [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ())])
    reason = refusal(model, family="tensors")
    assert "output mean: expected one entry for each of 2 frames, got shape ()" in reason


def test_a_session_on_another_device_than_asked_for(version_of, small_detector, monkeypatch):
    cuda = Device("cuda")
    monkeypatch.setattr(Device, "providers", property(lambda _: [("CPUExecutionProvider", {})]))
    with pytest.raises(ModelRefused, match="a session asked for CUDAExecutionProvider came up on CPUExecutionProvider"):
        load(version_of(small_detector()), cuda)


def test_any_picture_model_serves_raw_tensors_if_declared(loaded):
    nodes = [helper.make_node("GlobalAveragePool", ["images"], ["mean"])]
    outputs = [helper.make_tensor_value_info("mean", TensorProto.FLOAT, (1, 3, 1, 1))]
    model = loaded(graph_of(nodes, [images(1, 3, 8, 8)], outputs), family="tensors")
    frame = np.zeros((8, 8, 3), np.uint8)
    frame[..., 1] = 255
    np.testing.assert_allclose(model.run([frame])[0]["mean"].ravel(), [0, 1, 0], atol=1e-6)
