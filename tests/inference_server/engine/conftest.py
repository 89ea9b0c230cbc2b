"""Small ONNX files for the engine's tests."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from demo import models as demo_models
from onnx import TensorProto, helper, numpy_helper

from inference_server.engine import Device, ModelVersion, load

NAMES = {"names": "{0: 'a', 1: 'b'}"}


@pytest.fixture
def small_detector():
    """A function that builds a detector of two classes: each 8x8 block of the picture is an anchor, its box the block.

    The score of each class comes from a convolution, so that every pixel, channel and frame counts.
    """

    def make(*, batch=1, size=(32, 48), dtype=TensorProto.FLOAT, channels_last=False, fixed_batch=None, **metadata):
        kind = helper.tensor_dtype_to_np_dtype(dtype)
        random = np.random.default_rng(5)
        height, width = (None, None) if size is None else size
        dimensions = (batch, height, width, 3) if channels_last else (batch, 3, height, width)
        weights = random.normal(0, 0.1, (6, 3, 8, 8))
        offset = random.normal(0, 0.1, 6)
        nodes = [
            helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2] if channels_last else [0, 1, 2, 3]),
            helper.make_node("Conv", ["planes", "weights", "offset"], ["conv"], strides=[8, 8]),
            helper.make_node("Sigmoid", ["conv"], ["sigmoid"]),
            helper.make_node("Reshape", ["sigmoid", "shape"], ["output0"]),
        ]
        constants = [
            numpy_helper.from_array(weights.astype(kind), "weights"),
            numpy_helper.from_array(offset.astype(kind), "offset"),
            numpy_helper.from_array(np.array([fixed_batch or 0, 6, -1], np.int64), "shape"),
        ]
        graph = helper.make_graph(
            nodes,
            "detector",
            [helper.make_tensor_value_info("images", dtype, dimensions)],
            [helper.make_tensor_value_info("output0", dtype, (batch, 6, "anchors"))],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, {**NAMES, **metadata})
        onnx.checker.check_model(model)
        return model

    return make


@pytest.fixture
def version_of(tmp_path):
    """A function that writes a model (a graph or bytes) to a file and returns it as the registry would announce it."""

    def make(model, sha256="", **attributes):
        path = tmp_path / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return ModelVersion("thing", 1, path, sha256, {"videoai": attributes} if attributes else {})

    return make


@pytest.fixture
def loaded(version_of):
    """A function that loads a model on the CPU and closes it when the test ends."""
    models = []

    def make(model, *, max_batch=8, **attributes):
        models.append(load(version_of(model, **attributes), Device("cpu"), max_batch=max_batch))
        return models[-1]

    yield make
    for model in models:
        model.close()


@pytest.fixture
def original():
    """A function that runs a model as it is, without anything of ours."""

    def run(model, inputs):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: inputs})

    return run


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory) -> dict[int, Path]:
    """The demo detectors, by version."""
    folder = tmp_path_factory.mktemp("demo")
    files = {version: folder / f"v{version}.onnx" for version in demo_models.VERSIONS}
    for version, path in files.items():
        demo_models.write(demo_models.VERSIONS[version], path)
    return files
