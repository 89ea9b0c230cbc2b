"""Puts what every frame needs before it enters a model into the model's own graph.

Frames cross into the session as the decoder leaves them, uint8 (N, H, W, 3) RGB; channels, layout, type and scale are
the runtime's work, on its device. So are inputs that are the same for every frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from inference_server.detection import Colors, ConstantInput, PictureInput, Pixels

FRAMES = "frames"
PREFIX = "videoai_preprocessing"
# What red, green and blue add to brightness: ITU-R BT.601, as OpenCV turns colours into grey.
LUMA = (0.299, 0.587, 0.114)


def compose(model: ModelProto, picture: PictureInput) -> str:
    """Make `model` take uint8 frames, and nothing else, where it took `picture`; returns the name of the new input.

    Changes `model` in place. Its weights, metadata and opsets stay, and so does a batch dimension that is not fixed;
    height and width become those of the picture's layout.
    """
    added = _Additions(model)
    added.frames_input(picture)
    added.picture(picture)
    for constant in picture.constants:
        added.constant(constant, picture.batch)
    added.insert()
    return added.frames


class _Additions:
    """Nodes and constants that go before a graph, in the order in which they run."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._nodes: list[NodeProto] = []
        self._taken = set(_names(model.graph))
        self.frames = self._free(FRAMES)

    def frames_input(self, picture: PictureInput) -> None:
        """Put the frames where the graph took its picture, and take its constant inputs away."""
        layout = picture.layout
        gone = {picture.name, *(constant.name for constant in picture.constants)}
        old = next(value for value in self._graph.input if value.name == picture.name)
        new = helper.make_tensor_value_info(self.frames, TensorProto.UINT8, [None, layout.height, layout.width, 3])
        new.type.tensor_type.shape.dim[0].CopyFrom(old.type.tensor_type.shape.dim[0])
        for value in [value for value in self._graph.input if value.name in gone]:
            self._graph.input.remove(value)
        self._graph.input.insert(0, new)

    def picture(self, picture: PictureInput) -> None:
        """frames → channels → layout → numbers → the model's input. Bytes are moved quicker than floats."""
        value, pixels = self.frames, picture.pixels
        if pixels.colors is Colors.BGR:
            value = self._node("Gather", [value, self._value(np.array([2, 1, 0]))], axis=3)
        if pixels.colors is Colors.GRAY:
            value = self._brightness(value)
        if not picture.channels_last:
            value = self._node("Transpose", [value], perm=[0, 3, 1, 2])
        if pixels.colors is not Colors.GRAY:
            value = self._node("Cast", [value], to=TensorProto.FLOAT)
        factor, offset = _line(pixels, channels_last=picture.channels_last)
        value = self._node("Mul", [value, self._value(factor)])
        if offset.any():
            value = self._node("Add", [value, self._value(offset)])
        to = TensorProto.FLOAT16 if picture.dtype == "float16" else TensorProto.FLOAT
        self._node("Cast", [value], picture.name, to=to)

    def constant(self, constant: ConstantInput, batch: int | None) -> None:
        """The same values for each frame of a batch, which is as large as the frames are many."""
        values = np.array([constant.values], constant.dtype)
        if batch is not None:
            self._graph.initializer.append(numpy_helper.from_array(values.repeat(batch, axis=0), constant.name))
            return
        shape = self._node("Shape", [self.frames])
        count = self._node("Gather", [shape, self._value(np.array([0]))], axis=0)
        repeats = self._node("Concat", [count, self._value(np.array([1]))], axis=0)
        self._node("Tile", [self._value(values), repeats], constant.name)

    def insert(self) -> None:
        for position, node in enumerate(self._nodes):
            self._graph.node.insert(position, node)

    def _brightness(self, value: str) -> str:
        """(N, H, W, 3) bytes → (N, H, W, 1) float32, rounded to whole numbers as a grey picture's bytes are."""
        value = self._node("Cast", [value], to=TensorProto.FLOAT)
        value = self._node("MatMul", [value, self._value(np.array(LUMA, np.float32)[:, None])])
        value = self._node("Add", [value, self._value(np.array(0.5, np.float32))])
        return self._node("Floor", [value])

    def _node(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        name = self._free(f"{PREFIX}/node{len(self._nodes)}")
        output = output or self._free(f"{PREFIX}/{len(self._nodes)}")
        self._nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def _value(self, array: NDArray[Any]) -> str:
        name = self._free(f"{PREFIX}/constant")
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _names(graph: GraphProto) -> Iterator[str]:
    """Every value that `graph` or a graph in its branches and loops names: none may be named again outside of it."""
    yield from (tensor.name for tensor in graph.initializer)
    yield from (value.name for value in graph.input)
    for node in graph.node:
        yield from (*node.input, *node.output)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _names(inner)


def _line(pixels: Pixels, *, channels_last: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(byte * scale - mean) / std as byte * factor + offset, shaped to the channels' axis; scalars where they agree."""
    mean, std = np.array(pixels.mean, np.float64), np.array(pixels.std, np.float64)
    factor, offset = np.broadcast_arrays(pixels.scale / std, -mean / std)
    if len(factor) == 1:
        factor, offset = factor[0], offset[0]
    elif not channels_last:
        factor, offset = factor[:, None, None], offset[:, None, None]
    return np.float32(factor), np.float32(offset)  # type: ignore[return-value]
