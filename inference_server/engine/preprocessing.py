"""Puts what every frame needs before it enters a model into the model's own graph.

Frames cross into the session as the decoder leaves them, uint8 (N, H, W, 3) RGB; layout, type and scale are the
runtime's work, on its device.
"""

from __future__ import annotations

from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper

from inference_server.detection import PictureInput

FRAMES = "frames"
PREFIX = "videoai_preprocessing"


def compose(model: ModelProto, picture: PictureInput) -> str:
    """Make `model` take uint8 frames where it took `picture`; returns the name of the new input.

    Changes `model` in place. Its weights, metadata and opsets stay, and so does a batch dimension that is not fixed;
    height and width become those of the picture's layout.
    """
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {i.name for i in graph.initializer}
    frames = _free(FRAMES, taken)
    old = next(value for value in graph.input if value.name == picture.name)
    new = _frames_input(frames, old, picture)
    graph.input.remove(old)
    graph.input.insert(0, new)
    scale = _free(f"{PREFIX}/scale", taken)
    graph.initializer.append(helper.make_tensor(scale, TensorProto.FLOAT, [], [1 / 255]))
    for position, node in enumerate(_chain(frames, scale, picture)):
        graph.node.insert(position, node)
    return frames


def _frames_input(name: str, old: ValueInfoProto, picture: PictureInput) -> ValueInfoProto:
    layout = picture.layout
    value = helper.make_tensor_value_info(name, TensorProto.UINT8, [None, layout.height, layout.width, 3])
    batch: TypeProto.Tensor = old.type.tensor_type
    value.type.tensor_type.shape.dim[0].CopyFrom(batch.shape.dim[0])
    return value


def _chain(frames: str, scale: str, picture: PictureInput) -> list[NodeProto]:
    """frames → (Transpose) → Cast → Mul → (Cast) → the model's input. Bytes are transposed quicker than floats."""
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("Cast", [], {"to": TensorProto.FLOAT}), ("Mul", [scale], {})]
    if not picture.channels_last:
        steps.insert(0, ("Transpose", [], {"perm": [0, 3, 1, 2]}))
    if picture.dtype == "float16":
        steps.append(("Cast", [], {"to": TensorProto.FLOAT16}))
    values = [frames, *(f"{PREFIX}/{index}" for index in range(1, len(steps))), picture.name]
    return [
        helper.make_node(operator, [values[index], *others], [values[index + 1]], f"{PREFIX}/node{index}", **attributes)
        for index, (operator, others, attributes) in enumerate(steps)
    ]


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
