"""Models fed by the inputs of their files: past the conversion from pixels, or without any pictures."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference_server.detection import Colors, ConstantInput, Layout, PictureInput, Pixels
from inference_server.engine.preprocessing import compose
from inference_server.errors import InvalidField, ModelRefused, TensorsOnly

KINDS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def noise(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def model_of(nodes, inputs, outputs, constants=(), opset=17):
    graph = helper.make_graph(nodes, "model", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3 if opset < 9 else 8)


def tensor(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (3, 3), ("N", 1), ("N", 5)])
def test_the_files_own_input_gives_what_the_file_gives(
    loaded, original, small_detector, batch, rows, kind, channels_last
):
    fixed = batch if isinstance(batch, int) else None
    model = small_detector(batch=batch, dtype=kind, channels_last=channels_last, fixed_batch=fixed)
    shape = (rows, 32, 48, 3) if channels_last else (rows, 3, 32, 48)
    images = noise(*shape, dtype=helper.tensor_dtype_to_np_dtype(kind))
    (expected,) = original(model, images)
    found = loaded(model).run_rows([{"images": images}])["output0"]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=1e-5 if kind == TensorProto.FLOAT else 2e-3)


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 21])
@pytest.mark.parametrize("batch", [2, "N"])
def test_every_input_of_the_file_passes_in_every_opset(opset, batch):
    """Where it takes sizes beside its picture, too, and lists its weights among its inputs."""
    model = model_of(
        [
            helper.make_node("Mul", ["images", "factor"], ["seen"]),
            helper.make_node("Identity", ["sizes"], ["given"]),
        ],
        [
            tensor("images", TensorProto.FLOAT, batch, 3, 4, 6),
            tensor("sizes", TensorProto.INT64, batch, 2),
            tensor("factor", TensorProto.FLOAT),
        ],
        [tensor("seen", TensorProto.FLOAT, batch, 3, 4, 6), tensor("given", TensorProto.INT64, batch, 2)],
        [numpy_helper.from_array(np.array(2, np.float32), "factor")],
        opset,
    )
    constants = (ConstantInput("sizes", "int64", (6, 4)),)
    fixed = batch if isinstance(batch, int) else None
    entries = compose(
        model, PictureInput("images", "float32", False, fixed, Layout(6, 4), Pixels(Colors.BGR), constants)
    )
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images, sizes = noise(2, 3, 4, 6), np.array([[1, 2], [3, 4]])
    fed = {
        entries.frames: np.zeros((fixed or 0, 4, 6, 3), np.uint8),
        entries.switch: np.array(True),
        entries.exported["images"]: images,
        entries.exported["sizes"]: sizes,
    }
    seen, given = session.run(None, fed)
    np.testing.assert_array_equal(seen, 2 * images)
    np.testing.assert_array_equal(given, sizes)


def test_an_open_size_is_the_one_that_is_served(loaded, small_detector):
    ports = loaded(small_detector(size=None, imgsz="[64, 40]", batch="N")).ports
    assert str(ports.inputs[0]) == "images float32[?, 3, 64, 40]"
    assert str(ports.frames) == "frames uint8[?, 64, 40, 3]"


def test_inputs_are_all_or_frames_alone(loaded, small_detector):
    ports = loaded(small_detector()).ports
    ports.check(["images"])
    ports.check(["frames"])
    for names in ([], ["frames", "images"], ["other"]):
        with pytest.raises(InvalidField, match="inputs: expected images, or frames alone"):
            ports.check(names)


def test_a_model_without_pictures(loaded):
    model = loaded(
        model_of(
            [helper.make_node("MatMul", ["a", "b"], ["c"]), helper.make_node("Shape", ["b"], ["size"])],
            [tensor("a", TensorProto.DOUBLE, "n", 3), tensor("b", TensorProto.DOUBLE, 3, "m")],
            [tensor("c", TensorProto.DOUBLE, "n", "m"), tensor("size", TensorProto.INT64, 2)],
        ),
        family="tensors",
    )
    a, b = noise(2, 3, dtype=np.float64), noise(3, 5, dtype=np.float64)
    found = model.run_rows([{"a": a, "b": b}])
    np.testing.assert_allclose(found["c"], a @ b)
    assert found["size"].tolist() == [3, 5]
    assert list(model.run_rows([{"a": a, "b": b}], ["size"])) == ["size"]
    assert model.ports.frames is None
    with pytest.raises(TensorsOnly, match="thing version 1 takes tensors and no pictures"):
        _ = model.layout


def test_bfloat16_crosses_as_float32_without_losing_a_bit(loaded):
    """Also where a branch uses it, and where an output is an input as it is."""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"])], "branch", [], [tensor("same", TensorProto.BFLOAT16, "n")]
    )
    yes = numpy_helper.from_array(np.array(True), "yes")
    model = loaded(
        model_of(
            [
                helper.make_node("Identity", ["x"], ["y"]),
                helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch),
            ],
            [tensor("x", TensorProto.BFLOAT16, "n")],
            [tensor("y", TensorProto.BFLOAT16, "n"), tensor("z", TensorProto.BFLOAT16, "n")],
            [yes],
        ),
        family="tensors",
    )
    values = np.array([1.5, -3e38, 1e-40, 0.1], ml_dtypes.bfloat16).astype(np.float32)
    found = model.run_rows([{"x": values}])
    np.testing.assert_array_equal(found["y"], values)
    np.testing.assert_array_equal(found["z"], values)
    assert [spec.dtype for spec in (*model.ports.inputs, *model.ports.outputs)] == ["bfloat16"] * 3


def test_a_type_that_cannot_cross(loaded):
    complex64 = tensor("x", TensorProto.COMPLEX64, 2)
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], [complex64], [tensor("y", TensorProto.COMPLEX64, 2)])
    with pytest.raises(ModelRefused, match="x complex64"):
        loaded(model, family="tensors")


def test_a_model_that_cannot_run_is_refused_if_its_file_leaves_nothing_open(loaded):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    shape = numpy_helper.from_array(np.array([7]), "shape")
    fixed = model_of(nodes, [tensor("x", TensorProto.FLOAT, 2)], [tensor("y", TensorProto.FLOAT, None)], [shape])
    with pytest.raises(ModelRefused, match="the model does not run"):
        loaded(fixed, family="tensors")
    free = model_of(nodes, [tensor("x", TensorProto.FLOAT, "n")], [tensor("y", TensorProto.FLOAT, None)], [shape])
    assert loaded(free, family="tensors").run_rows([{"x": noise(7)}])["y"].shape == (7,)


def test_what_only_pictures_have_is_not_said_of_other_models(loaded):
    model = model_of([helper.make_node("Neg", ["x"], ["y"])], [tensor("x", 1, 2)], [tensor("y", 1, 2)])
    with pytest.raises(ModelRefused, match="not a tensors model"):
        loaded(model, family="tensors", color_order="bgr")
