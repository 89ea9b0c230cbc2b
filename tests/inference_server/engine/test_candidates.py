"""What is read from the anchors that the graph chose is what is read from all of them."""

import numpy as np
import onnxruntime
import pytest
import yolo_sized
from onnx import TensorProto, checker, helper

from inference_server.detection import AnchorRows, Options, place
from inference_server.engine import Device, ModelVersion, load
from inference_server.engine.binding import BoundSession
from inference_server.engine.candidates import OUTPUTS, add_candidates, passing

CLASSES, EXTRAS, COUNT = 5, 3, 90
HEAD = AnchorRows("output0", CLASSES, EXTRAS)


def session_of(opset, kind, most):
    """A graph that gives what it is given, and the candidates of that."""
    shape = ["batch", HEAD.count, COUNT]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["given"], ["output0"])],
        "given",
        [helper.make_tensor_value_info("given", kind, shape)],
        [helper.make_tensor_value_info("output0", kind, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    assert add_candidates(model, HEAD, opset, most)
    checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def outputs_of(seed, dtype):
    """Three frames of random anchors, with equal scores, and with values that are no numbers or infinite in some."""
    random = np.random.default_rng(seed)
    given = random.uniform(0, 100, (3, HEAD.count, COUNT))
    scores = random.random((3, CLASSES, COUNT)) ** random.choice([1, 4, 20])
    given[:, HEAD.first : HEAD.last] = np.round(scores, random.choice([1, 2, 8]))
    for value in (np.nan, np.inf, -np.inf):
        odd = random.random(given.shape) < random.choice([0, 0, 0.003, 0.05])
        given[odd] = value
    return given.astype(dtype)


def same(found, expected):
    for name in ("boxes", "scores", "class_ids", "extras"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_chosen_anchors_tell_what_all_of_them_do(opset, kind):
    session = session_of(opset, kind, most=20)
    random, few = np.random.default_rng(opset), 0
    for seed in range(60):
        given = outputs_of(seed, helper.tensor_dtype_to_np_dtype(kind))
        all_anchors, columns, anchors, scores = session.run(["output0", *OUTPUTS], {"given": given})
        assert columns.shape == (3, HEAD.count, 20)
        assert columns.dtype == given.dtype
        for row in range(3):
            threshold = float(random.choice([0, 0.1, 0.25, 0.5, 0.9, 1, random.random()]))
            options = Options(confidence_threshold=threshold)
            chosen = passing(columns[row], anchors[row], scores[row], threshold)
            full = {"output0": all_anchors[row]}
            if chosen is None:
                continue
            few += 1
            same(HEAD.read({"output0": chosen}, options), HEAD.read(full, options))
            same(HEAD.detect({"output0": chosen}, options), HEAD.detect(full, options))
    assert few > 30


def test_more_than_were_chosen_may_pass_is_said():
    session = session_of(17, TensorProto.FLOAT, most=20)
    given = np.zeros((1, HEAD.count, COUNT), np.float32)
    for passes in (19, 20, 21, COUNT):
        given[:] = 0
        given[0, HEAD.first, :passes] = 0.5
        chosen = [array[0] for array in session.run(OUTPUTS, {"given": given})]
        assert (passing(*chosen, 0.25) is None) == (passes >= 20)
        assert passing(*chosen, 0.5).shape == (HEAD.count, 0)


@pytest.mark.parametrize(("opset", "most"), [(12, 20), (17, COUNT), (17, COUNT + 1)])
def test_what_is_too_old_or_too_small_is_left_alone(opset, most):
    output = helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", HEAD.count, COUNT])
    model = helper.make_model(helper.make_graph([], "empty", [], [output]))
    before = model.SerializeToString(deterministic=True)
    assert not add_candidates(model, HEAD, opset, most)
    assert model.SerializeToString(deterministic=True) == before


@pytest.fixture
def as_on_a_device(monkeypatch, tmp_path):
    """A model that is treated as one on CUDA, in the CPU's memory."""
    cpu = Device("cpu")
    monkeypatch.setattr(Device, "provider", cpu.provider)
    monkeypatch.setattr(Device, "providers", cpu.providers)
    monkeypatch.setattr(Device, "memory", "cpu")
    path = yolo_sized.write(tmp_path / "model.onnx", size=224)
    model = load(ModelVersion("yolo", 1, path), Device("cuda"), max_batch=2)
    yield model
    model.close()


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.25])
def test_a_model_on_a_device_gives_few_columns_and_all_where_they_are_needed(as_on_a_device, threshold):
    model = as_on_a_device
    assert isinstance(model._bound, BoundSession)
    assert [port.name for port in model.ports.outputs] == ["output0"]
    where, options = place(model.layout, 224, 224), Options(confidence_threshold=threshold)
    frames = np.random.default_rng(2).integers(0, 256, (2, 224, 224, 3), np.uint8)
    ran = model.run_rows([{"frames": frame[None]} for frame in frames], model.read_outputs)
    assert set(ran) == {*OUTPUTS}
    for row in range(2):
        found = model.read(ran, row, where, options)
        expected = model.family.decode({"output0": ran["output0"][row]}, where, options)
        for name in ("boxes", "scores", "class_ids"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert set(model.run_rows([{"frames": frames}])) == {"output0"}
