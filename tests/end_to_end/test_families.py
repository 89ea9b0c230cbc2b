"""Versions of one model may be of different families, and have thresholds of their own."""

from itertools import pairwise

import numpy as np
import onnx
import pytest
from demo import models as demo_models
from demo import scene
from google.protobuf import json_format, struct_pb2
from harness import eventually
from onnx import TensorProto, helper, numpy_helper
from videoai.registry.v1 import registry_pb2

SIZE = (640, 360)


def said(**videoai):
    attributes = json_format.ParseDict({"videoai": videoai}, struct_pb2.Struct())
    return registry_pb2.ModelMetadata(attributes=attributes)


@pytest.fixture(scope="module")
def rtdetr(tmp_path_factory):
    """The demo's first detector with the inputs and outputs of an RT-DETR: the peaks of its score, nothing overlaps."""
    model = demo_models.build(demo_models.V1)
    graph, side = model.graph, demo_models.V1.size
    grid = side // demo_models.STRIDE
    constants = {
        "parts": np.array([4, 1], np.int64),
        "plane": np.array([1, 1, grid, grid], np.int64),
        "row": np.array([1, grid * grid], np.int64),
        "half": np.array(0.5, np.float32),
        "side": np.array(side, np.float32),
        "none": np.array(0, np.float32),
        "first": np.zeros((1, grid * grid), np.int64),
        "middle": np.array([1], np.int64),
    }
    steps = [
        ("Split", ["output0", "parts"], ["box", "score"], {"axis": 1}),
        ("Reshape", ["score", "plane"], ["scores_2d"], {}),
        ("MaxPool", ["scores_2d"], ["highest"], {"kernel_shape": [7, 7], "pads": [3] * 4}),
        ("Equal", ["scores_2d", "highest"], ["peak"], {}),
        ("Where", ["peak", "scores_2d", "none"], ["peaks"], {}),
        ("Reshape", ["peaks", "row"], ["scores"], {}),
        ("Transpose", ["box"], ["columns"], {"perm": [0, 2, 1]}),
        ("Div", ["columns", "side"], ["parts_of_input"], {}),
        ("Split", ["parts_of_input"], ["centre", "size"], {"axis": 2}),
        ("Mul", ["size", "half"], ["reach"], {}),
        ("Sub", ["centre", "reach"], ["lower"], {}),
        ("Add", ["centre", "reach"], ["upper"], {}),
        ("Concat", ["lower", "upper"], ["corners"], {"axis": 2}),
        ("Cast", ["orig_target_sizes"], ["sizes"], {"to": TensorProto.FLOAT}),
        ("Concat", ["sizes", "sizes"], ["sizes_twice"], {"axis": 1}),
        ("Unsqueeze", ["sizes_twice", "middle"], ["scale"], {}),
        ("Mul", ["corners", "scale"], ["boxes"], {}),
        ("Identity", ["first"], ["labels"], {}),
    ]
    graph.node.extend(helper.make_node(*step[:3], **step[3]) for step in steps)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.input.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, (1, 2)))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("labels", TensorProto.INT64, (1, "objects")))
    graph.output.append(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, (1, "objects", 4)))
    graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, "objects")))
    del model.metadata_props[:]
    path = tmp_path_factory.mktemp("rtdetr") / "model.onnx"
    onnx.save(model, path)
    return path


def overlaps(frame):
    """For each red circle that is there, how well the best box covers it (intersection over union)."""
    truth = [box for name, box in scene.ground_truth(frame.frame_index, size=SIZE) if name == "red circle"]
    boxes = np.array([[d.box.x_min, d.box.y_min, d.box.x_max, d.box.y_max] for d in frame.detections]).reshape(-1, 4)
    assert len(boxes) == len(truth)
    for box in np.array(truth):
        sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
        shared = np.maximum(sides, 0).prod(axis=1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
        yield max(shared / (areas - shared))


def swap_halfway(pair, video, version, **config):
    """Analyse the video, and activate `version` when its first half is there; the frames, in order."""
    whole = video.read_bytes()
    begun = []

    def upload():
        yield whole[: len(whole) // 2]
        eventually(lambda: begun, "the stream has begun")
        pair.activate(version)
        pair.wait_until_running(version)
        yield whole[len(whole) // 2 :]

    frames = []
    for frame in pair.analyze(upload(), **config):
        begun.append(frame.frame_index)
        frames.append(frame)
    assert [frame.frame_index for frame in frames] == list(range(120))
    assert all(before.model_version <= after.model_version for before, after in pairwise(frames))
    return frames


def test_a_stream_goes_on_when_another_family_takes_over(serving_v1, video, rtdetr):
    """The first is letterboxed and suppressed here, the second stretched and selected by its graph."""
    pair = serving_v1
    pair.register(rtdetr, 3, metadata=said(class_names=["red circle"]))
    frames = swap_halfway(pair, video, 3)
    assert {frame.model_version for frame in frames} == {1, 3}
    assert (pair.serving().family, list(pair.serving().class_names)) == ("detr", ["red circle"])
    for version in (1, 3):
        found = [one for frame in frames if frame.model_version == version for one in overlaps(frame)]
        assert found
        assert np.mean(found) > 0.85
        assert min(found) > 0.7
    assert {detection.class_name for frame in frames for detection in frame.detections} == {"red circle"}
    assert pair.serving().frames_failed == 0


def test_each_version_brings_its_own_defaults(serving_v1, onnx_files, video):
    """They count for requests that name none, from the very frame on that the version answers."""
    pair = serving_v1
    pair.register(onnx_files[2], 3, metadata=said(max_detections=2))
    pair.register(onnx_files[2], 4, metadata=said(confidence_threshold=1))
    pair.activate(3)
    pair.wait_until_running(3)
    frames = swap_halfway(pair, video, 4)
    counts = {
        version: {len(frame.detections) for frame in frames if frame.model_version == version} for version in (3, 4)
    }
    assert counts == {3: {2}, 4: {0}}
    (named,) = pair.analyze(video, max_frames=1, confidence_threshold=0.25)
    assert len(named.detections) > 2
