import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from inference_server.detection import Colors, ConstantInput, Layout, PictureInput, Pixels, Resize, recognise
from inference_server.engine.graph import signature_of
from inference_server.engine.preprocessing import compose


def as_model_input(frames, *, channels_last=False, kind=np.float32):
    scaled = (frames.astype(np.float32) / 255).astype(kind)
    return scaled if channels_last else scaled.transpose(0, 3, 1, 2)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(TensorProto.FLOAT, 1e-5), (TensorProto.FLOAT16, 2e-3)])
def test_frames_become_what_the_model_took_before(loaded, original, small_detector, dtype, tolerance, channels_last):
    model = small_detector(dtype=dtype, channels_last=channels_last)
    frame = noise(32, 48, 3)
    kind = np.float32 if dtype == TensorProto.FLOAT else np.float16
    (expected,) = original(model, as_model_input(frame[None], channels_last=channels_last, kind=kind))
    (outputs,) = loaded(model).run([frame])
    assert outputs["output0"].dtype == kind
    np.testing.assert_allclose(outputs["output0"], expected[0], atol=tolerance)


def test_what_the_file_says_stays(small_detector):
    model = small_detector(batch="batch", author="someone")
    weights = [tensor.SerializeToString() for tensor in model.graph.initializer]
    before = onnx.ModelProto.FromString(model.SerializeToString())
    assert compose(model, recognise(signature_of(model)).picture).frames == "frames"
    onnx.checker.check_model(model, full_check=True)
    assert model.metadata_props == before.metadata_props
    assert model.opset_import == before.opset_import
    assert model.graph.output == before.graph.output
    assert [tensor.SerializeToString() for tensor in model.graph.initializer][: len(weights)] == weights


@pytest.mark.parametrize(("batch", "expected"), [(1, 1), (4, 4), ("N", None)])
def test_the_batch_stays_as_it_was(small_detector, batch, expected):
    model = small_detector(batch=batch)
    compose(model, recognise(signature_of(model)).picture)
    (frames,) = signature_of(model).inputs
    assert str(frames) == f"frames uint8[{expected or '?'}, 32, 48, 3]"
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == (batch if isinstance(batch, str) else "")


def test_a_free_height_and_width_become_those_of_the_file(small_detector, loaded):
    model = loaded(small_detector(size=None, imgsz="[64, 40]"))
    assert (model.layout.width, model.layout.height) == (40, 64)
    assert model.run([noise(64, 40, 3)])[0]["output0"].shape == (6, 40)


def test_names_that_the_graph_uses_are_not_taken_twice(small_detector, loaded):
    model = small_detector()
    model.graph.node[1].output[0] = model.graph.node[2].input[0] = "frames"
    model.graph.initializer[0].name = model.graph.node[1].input[1] = "videoai_preprocessing/scale"
    assert loaded(model).run([noise(32, 48, 3)])[0]["output0"].shape == (6, 24)


def test_weights_listed_among_the_inputs_are_no_inputs(small_detector, loaded):
    model = small_detector()
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    assert loaded(model).layout.width == 48


def echo(shape, *, dtype=TensorProto.FLOAT, opset=17, sizes=None):
    """A model that gives back what it takes: its picture as `seen`; `given` where it also takes sizes."""
    inputs = [onnx.helper.make_tensor_value_info("images", dtype, shape)]
    outputs = [onnx.helper.make_tensor_value_info("seen", dtype, shape)]
    nodes = [onnx.helper.make_node("Identity", ["images"], ["seen"])]
    if sizes is not None:
        inputs.append(onnx.helper.make_tensor_value_info("sizes", TensorProto.INT64, sizes))
        outputs.append(onnx.helper.make_tensor_value_info("given", TensorProto.INT64, sizes))
        nodes.append(onnx.helper.make_node("Identity", ["sizes"], ["given"]))
    graph = onnx.helper.make_graph(nodes, "echo", inputs, outputs)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=3 if opset < 9 else 8
    )


def run_composed(model, picture, frames):
    """All outputs of `model`, made to take `frames`, in ONNX Runtime."""
    name = compose(model, picture).frames
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == [name]
    return dict(zip((value.name for value in session.get_outputs()), session.run(None, {name: frames}), strict=True))


def newest_opset():
    """The newest opset that this ONNX Runtime takes."""
    for opset in range(onnx.defs.onnx_opset_version(), 7, -1):
        try:
            onnxruntime.InferenceSession(
                echo((1, 3, 2, 2), opset=opset).SerializeToString(), providers=["CPUExecutionProvider"]
            )
        except Exception:  # noqa: BLE001, S112 - it raises its own types, and bare ones
            continue
        return opset
    raise AssertionError("no opset runs")


SAID = [
    {},
    {"color_order": "bgr"},
    {"scale": 1},
    {"color_order": "bgr", "scale": 1},
    {"mean": [0.5], "std": [0.25]},
    {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    {"color_order": "bgr", "scale": 1, "mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395]},
]


@pytest.mark.parametrize("said", SAID, ids=lambda said: " ".join(said) or "nothing")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(TensorProto.FLOAT, 1e-5), (TensorProto.FLOAT16, 2e-3)])
def test_bytes_become_the_numbers_that_the_entry_asks_for(loaded, said, channels_last, dtype, tolerance):
    shape = ("N", 8, 6, 3) if channels_last else ("N", 3, 8, 6)
    frames = noise(3, 8, 6, 3)
    seen = np.stack([one["seen"] for one in loaded(echo(shape, dtype=dtype), family="tensors", **said).run([*frames])])
    assert seen.dtype == onnx.helper.tensor_dtype_to_np_dtype(dtype)
    channels = frames[..., ::-1] if said.get("color_order") == "bgr" else frames
    expected = (channels * said.get("scale", 1 / 255) - said.get("mean", 0.0)) / said.get("std", 1.0)
    expected = expected if channels_last else expected.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(seen.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("channels_last", [False, True])
def test_one_channel_is_brightness(loaded, channels_last):
    shape = (1, 64, 48, 1) if channels_last else (1, 1, 64, 48)
    frame = noise(64, 48, 3)
    frame[0, :3] = [[0, 0, 0], [255, 255, 255], [10, 10, 10]]
    seen = loaded(echo(shape), family="tensors", scale=1).run([frame])[0]["seen"].reshape(64, 48)
    thousandths = frame.astype(np.int64) @ [299, 587, 114]
    clear = thousandths % 1000 != 500  # what lies in the middle may go either way
    np.testing.assert_array_equal(seen[clear], ((thousandths + 500) // 1000)[clear])
    assert np.abs(seen * 1000 - thousandths).max() <= 500
    assert seen[0, :3].tolist() == [0, 255, 10]


def test_one_channel_has_a_mean_of_its_own(loaded):
    frame = np.full((4, 4, 3), 100, np.uint8)
    seen = loaded(echo((1, 1, 4, 4)), family="tensors", mean=[0.25], std=[0.5]).run([frame])[0]["seen"]
    np.testing.assert_allclose(seen, (100 / 255 - 0.25) / 0.5, atol=1e-6)


@pytest.mark.parametrize("opset", [*range(7, 14), 17, 21, newest_opset()])
@pytest.mark.parametrize("batch", [3, "N"])
@pytest.mark.parametrize("colors", Colors)
def test_every_opset_runs_what_is_added(opset, batch, colors):
    frames = noise(3, 4, 6, 3)
    means = (0.1, 0.2, 0.3)[: colors.channels]
    pixels = Pixels(colors, 1 / 255, means, (2.0, 3.0, 4.0)[: colors.channels])
    constants = (ConstantInput("sizes", "int64", (6, 4)),)
    fixed = None if batch == "N" else batch
    picture = PictureInput("images", "float32", False, fixed, Layout(6, 4), pixels, constants)
    found = run_composed(echo((batch, colors.channels, 4, 6), opset=opset, sizes=(batch, 2)), picture, frames)
    expected = frames[..., ::-1] if colors is Colors.BGR else frames
    if colors is Colors.GRAY:
        expected = np.floor(frames @ np.array([0.299, 0.587, 0.114], np.float32) + np.float32(0.5))[..., None]
    expected = ((expected / 255 - pixels.mean) / pixels.std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found["seen"], expected, atol=1e-5 if colors is not Colors.GRAY else 1 / 255)
    assert found["given"].tolist() == [[6, 4]] * 3
    assert found["given"].dtype == np.int64


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.float32])
@pytest.mark.parametrize(("batch", "counts"), [(2, [2]), (None, [1, 2, 5])])
def test_a_constant_is_there_for_every_frame(batch, counts, kind):
    dtype = np.dtype(kind).name
    for count in counts:
        model = echo((batch or "N", 3, 4, 6), sizes=(batch or "N", 2))
        for value in (model.graph.input[1], model.graph.output[1]):
            value.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        constants = (ConstantInput("sizes", dtype, (6, 4)),)
        picture = PictureInput("images", "float32", False, batch, Layout(6, 4), constants=constants)
        given = run_composed(model, picture, noise(count, 4, 6, 3))["given"]
        assert (given.dtype, given.tolist()) == (kind, [[6, 4]] * count)


def test_names_of_constants_are_not_taken_twice():
    """What the graph calls its own values, its weights and those inside of its branches stays apart from ours."""
    taken = ["frames", *(f"videoai_preprocessing/{index}" for index in range(8)), "videoai_preprocessing/constant"]
    model = echo((None, 3, 4, 6), sizes=(None, 2))
    inner = [onnx.helper.make_node("Identity", ["images"], ["frames"])]
    body = onnx.helper.make_graph(
        inner, "body", [], [onnx.helper.make_tensor_value_info("frames", TensorProto.FLOAT, (None, 3, 4, 6))]
    )
    yes = onnx.numpy_helper.from_array(np.array(True), taken[-1])
    model.graph.initializer.append(yes)
    model.graph.node.append(onnx.helper.make_node("If", [taken[-1]], ["chosen"], then_branch=body, else_branch=body))
    value = "chosen"
    for name in taken[1:-1]:
        model.graph.node.append(onnx.helper.make_node("Neg", [value], [name]))
        value = name
    model.graph.output.append(onnx.helper.make_tensor_value_info(value, TensorProto.FLOAT, (None, 3, 4, 6)))
    constants = (ConstantInput("sizes", "int64", (6, 4)),)
    picture = PictureInput("images", "float32", False, None, Layout(6, 4), Pixels(Colors.BGR), constants)
    frames = noise(2, 4, 6, 3)
    found = run_composed(model, picture, frames)
    np.testing.assert_allclose(found["seen"], as_model_input(frames[..., ::-1]), atol=1e-6)
    np.testing.assert_array_equal(found[value], found["seen"])
    assert found["given"].tolist() == [[6, 4]] * 2


def test_the_entry_says_how_large_and_where_the_picture_is(loaded):
    model = loaded(
        echo((1, 3, "height", "width")), family="tensors", input_size=[64, 40], resize="letterbox-top-left", fill=7
    )
    assert model.layout == Layout(40, 64, Resize.TOP_LEFT, fill=7)
    assert model.run([noise(64, 40, 3)])[0]["seen"].shape == (3, 64, 40)


def test_the_entry_goes_before_the_size_in_the_file(loaded, small_detector):
    model = loaded(small_detector(size=None, imgsz="[64, 40]"), input_size=[32, 48])
    assert (model.layout.width, model.layout.height) == (48, 32)
    assert model.run([noise(32, 48, 3)])[0]["output0"].shape == (6, 24)
