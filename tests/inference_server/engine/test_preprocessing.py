import numpy as np
import onnx
import pytest
from onnx import TensorProto

from inference_server.detection import recognise
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
    assert compose(model, recognise(signature_of(model)).picture) == "frames"
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
