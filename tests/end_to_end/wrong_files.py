"""Files that cannot be served, and what the reason must say; each is the demo's first detector with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from demo import models as demo_models
from onnx import ModelProto, TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class WrongFile:
    """`content` is the file, `reason` a part of what a person must read, `entry` what its entry says besides."""

    content: bytes
    reason: str
    entry: dict[str, Any] = field(default_factory=dict)


def detector(change: Callable[[ModelProto], object] = lambda model: None, **metadata: str | None) -> bytes:
    """The sound detector with a change; metadata given here goes over what it has, None takes it away."""
    model = demo_models.build(demo_models.V1)
    known = {entry.key: entry.value for entry in model.metadata_props} | metadata
    del model.metadata_props[:]
    helper.set_model_props(model, {key: value for key, value in known.items() if value is not None})
    change(model)
    return model.SerializeToString()


def of_opset(version: int) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def with_output(node: str, inputs: list[str], *constants: TensorProto, **attributes: Any) -> bytes:
    """What the detector gives goes through one more node."""

    def change(model: ModelProto) -> None:
        model.graph.node[-1].output[0] = "before"
        model.graph.node.append(helper.make_node(node, inputs, ["output0"], **attributes))
        model.graph.initializer.extend(constants)

    return detector(change)


def with_input(*shape: int | str | None, dtype: int = TensorProto.FLOAT, **metadata: str | None) -> bytes:
    def change(model: ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", dtype, shape))

    return detector(change, **metadata)


def second_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, (1, 2)))


def unknown_operator(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.example"
    model.graph.node[0].op_type = "Fancy"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def without_weights(model: ModelProto) -> None:
    del model.graph.initializer[:]


def weights_of_another_size(model: ModelProto) -> None:
    old = model.graph.initializer[0]
    old.CopyFrom(numpy_helper.from_array(np.ones((1, 4, 1, 1), np.float32), old.name))


def weights_elsewhere(location: str) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        weights = model.graph.initializer[0]
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)

    return change


def circle(model: ModelProto) -> None:
    model.graph.node[1].input[0] = model.graph.node[-2].output[0]


def output_without_shape(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def output_of_no_type(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = 99


def strings(model: ModelProto) -> None:
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("Cast", ["before"], ["output0"], to=TensorProto.STRING))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING


def batch_of(model: ModelProto) -> None:
    """Four frames go in, and the answer for one comes out."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.node[-1].output[0] = "before"
    mean = helper.make_node("ReduceMean", ["before"], ["output0"], axes=[0])
    model.graph.node.append(mean)


def entry(**said: Any) -> dict[str, Any]:
    return {"metadata": {"attributes": {"videoai": said}}}


NAN = numpy_helper.from_array(np.array(np.nan, np.float32), "nan")
SHAPE = numpy_helper.from_array(np.array([1, -1, 5], np.int64), "shape")
SOUND = detector()

WRONG = {
    "text": WrongFile(b"a photograph of a model", "not an ONNX model, or damaged"),
    "empty": WrongFile(b"", "expected 1.."),
    "cut short": WrongFile(SOUND[: len(SOUND) // 2], "not an ONNX model, or damaged"),
    "no graph": WrongFile(ModelProto(ir_version=8).SerializeToString(), "it has no graph"),
    "old opset": WrongFile(detector(of_opset(6)), "expected opset 7 or later, found 6"),
    "future opset": WrongFile(
        detector(of_opset(999)), "ONNX Runtime cannot run the model: ONNX Runtime only *guarantees* support"
    ),
    "unknown operator": WrongFile(detector(unknown_operator), "Fancy"),
    "no weights": WrongFile(detector(without_weights), "ONNX Runtime cannot run the model"),
    "weights of another size": WrongFile(detector(weights_of_another_size), "does not run with 1 frames"),
    "weights that are no numbers": WrongFile(
        with_output("Add", ["before", "nan"], NAN), "output output0: holds values that are no numbers (NaN)"
    ),
    "weights outside": WrongFile(detector(weights_elsewhere("../secret")), "expected a path in the model's folder"),
    "weights that are not there": WrongFile(detector(weights_elsewhere("gone.bin")), "'gone.bin'"),
    "a circle": WrongFile(detector(circle), "ONNX Runtime cannot run the model"),
    "strings": WrongFile(detector(strings), "output0 object[1, 5, 1600]: expected float32 or float16"),
    "strings as tensors": WrongFile(
        detector(strings), "output output0: expected numbers, got strings", entry(family="tensors")
    ),
    "rows and columns swapped": WrongFile(with_output("Transpose", ["before"], perm=[0, 2, 1]), "output0"),
    "unknown output shape": WrongFile(detector(output_without_shape), "output0 float32 of unknown shape"),
    "unknown output type": WrongFile(detector(output_of_no_type), "output0: element type 99"),
    "no classes": WrongFile(detector(names="{}"), "metadata key 'names': expected 1..65536 classes"),
    "more classes than rows": WrongFile(detector(names="['a', 'b', 'c']"), "for 3 classes"),
    "names of a megabyte": WrongFile(detector(names=f"['{'a' * (1 << 20)}']"), "at most 1048576 characters"),
    "code for names": WrongFile(detector(names="__import__('os').abort()"), "metadata key 'names'"),
    "another task": WrongFile(detector(task="depth"), "another task than depth"),
    "two inputs": WrongFile(detector(second_input), "found 2"),
    "bytes for pictures": WrongFile(with_input(1, 3, 320, 320, dtype=TensorProto.UINT8), "expected float32 or float16"),
    "a huge input": WrongFile(with_input(1, 3, 1 << 20, 1 << 20), "sides of at most 8192"),
    "everything open": WrongFile(with_input("batch", "channels", "height", "width"), "images float32[?, ?, ?, ?]"),
    "no size": WrongFile(with_input(1, 3, "height", "width", imgsz=None), "metadata key 'imgsz'"),
    "an answer for the batch": WrongFile(detector(batch_of), "expected one entry for each of 4 frames"),
    "a wrong declaration": WrongFile(
        SOUND, "metadata.attributes.videoai.family: expected one of", entry(family="yolo")
    ),
    "an unknown key": WrongFile(SOUND, "metadata.attributes.videoai.colour: no such key", entry(colour="bgr")),
    "another family": WrongFile(SOUND, "metadata.attributes.videoai.family", entry(family="rf-detr")),
    "a size that it has not": WrongFile(SOUND, "input_size: expected [320, 320]", entry(input_size=[640, 640])),
}
