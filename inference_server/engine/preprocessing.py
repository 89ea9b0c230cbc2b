"""Puts what every frame needs before it enters a model into the model's own graph.

Frames cross into the session as the decoder leaves them, uint8 (N, H, W, 3) RGB; channels, layout, type and scale are
the runtime's work, on its device. So are inputs that are the same for every frame.

What the file took before can still be fed, past all of that: each of its inputs is one that may be left out, and a
switch says which of the two it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from inference_server.detection import Colors, ConstantInput, PictureInput, Pixels
from inference_server.engine.graph import inner_graphs

FRAMES = "frames"
PREFIX = "videoai_preprocessing"
# Inputs that may be left out, and constants that are not weights listed among the inputs, exist since this version.
OVERRIDABLE_IR_VERSION = 4
# What red, green and blue add to brightness: ITU-R BT.601, as OpenCV turns colours into grey.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Entries:
    """What a composed graph can be fed by name: `frames` alone, or with `switch` set to true also what `exported` calls
    the inputs that the file had, by their names in the file. `frames` must then be there and is not looked at."""

    frames: str
    exported: Mapping[str, str]
    switch: str


def compose(model: ModelProto, picture: PictureInput) -> Entries:
    """Make `model` take uint8 frames where it took `picture` and its constants, or these as they were.

    Changes `model` in place. Its weights, metadata and opsets stay, and so does a batch dimension that is not fixed;
    height and width become those of the picture's layout.
    """
    added = _Additions(model, picture)
    added.frames_input()
    added.picture(picture)
    for constant in picture.constants:
        added.constant(constant, picture.batch)
    return added.insert()


class _Additions:
    """Nodes and constants that go before a graph, in the order in which they run."""

    def __init__(self, model: ModelProto, picture: PictureInput) -> None:
        _drop_listed_weights(model)
        self._graph = model.graph
        self._picture = picture
        self._nodes: list[NodeProto] = []
        self._taken = set(_names(model.graph))
        gone = {picture.name, *(constant.name for constant in picture.constants)}
        self._before = {value.name: value for value in model.graph.input if value.name in gone}
        self._results: dict[str, str] = {}
        self.frames = self._free(FRAMES)

    def frames_input(self) -> None:
        """Put the frames where the graph took its picture, and take its other inputs away."""
        layout = self._picture.layout
        new = helper.make_tensor_value_info(self.frames, TensorProto.UINT8, [None, layout.height, layout.width, 3])
        new.type.tensor_type.shape.dim[0].CopyFrom(self._batch)
        for value in self._before.values():
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
        self._node("Cast", [value], self._result(picture.name), to=to)

    def constant(self, constant: ConstantInput, batch: int | None) -> None:
        """The same values for each frame of a batch, which is as large as the frames are many."""
        values = np.array([constant.values], constant.dtype)
        if batch is not None:
            self._node("Identity", [self._value(values.repeat(batch, axis=0))], self._result(constant.name))
            return
        shape = self._node("Shape", [self.frames])
        count = self._node("Gather", [shape, self._value(np.array([0]))], axis=0)
        repeats = self._node("Concat", [count, self._value(np.array([1]))], axis=0)
        self._node("Tile", [self._value(values), repeats], self._result(constant.name))

    def insert(self) -> Entries:
        """Put what was added before the graph, as one of two ways to the inputs that it had."""
        switch = self._optional(f"{PREFIX}/as_exported", TensorProto.BOOL, np.array(False))  # noqa: FBT003 - an array's value
        exported = {name: self._exported(value) for name, value in self._before.items()}
        passed = [
            helper.make_node("Reshape", [fed, self._value(np.array(self._sizes(name)))], [self._free(f"{fed}/passed")])
            for name, fed in exported.items()
        ]
        as_exported = self._branch(passed, [node.output[0] for node in passed])
        from_frames = self._branch(self._nodes, [self._results[name] for name in exported])
        node = helper.make_node(
            "If", [switch], [*exported], self._free(PREFIX), then_branch=as_exported, else_branch=from_frames
        )
        self._graph.node.insert(0, node)
        return Entries(self.frames, exported, switch)

    @property
    def _batch(self) -> Any:
        return self._before[self._picture.name].type.tensor_type.shape.dim[0]

    def _sizes(self, name: str) -> list[int]:
        """The dimensions of an input that the file had; 0 for that of a batch of any size."""
        picture = self._picture
        batch, layout = picture.batch or 0, picture.layout
        if name != picture.name:
            return [batch, *(len(constant.values) for constant in picture.constants if constant.name == name)]
        channels = picture.pixels.colors.channels
        if picture.channels_last:
            return [batch, layout.height, layout.width, channels]
        return [batch, channels, layout.height, layout.width]

    def _branch(self, nodes: list[NodeProto], results: list[str]) -> GraphProto:
        values = []
        for result, (name, before) in zip(results, self._before.items(), strict=True):
            value = helper.make_tensor_value_info(result, before.type.tensor_type.elem_type, self._sizes(name))
            value.type.tensor_type.shape.dim[0].CopyFrom(self._batch)
            values.append(value)
        return helper.make_graph(nodes, PREFIX, [], values)

    def _exported(self, value: ValueInfoProto) -> str:
        """An input like one that the file had, which may be left out."""
        kind = value.type.tensor_type.elem_type
        rank = len(self._sizes(value.name))
        return self._optional(
            f"{PREFIX}/{value.name}", kind, np.zeros((0,) * rank, helper.tensor_dtype_to_np_dtype(kind))
        )

    def _optional(self, name: str, kind: int, default: NDArray[Any]) -> str:
        """An input of any size; `default` where it is left out."""
        name = self._free(name)
        self._graph.input.append(
            helper.make_tensor_value_info(name, kind, [f"{name}/{n}" for n in range(default.ndim)])
        )
        self._graph.initializer.append(numpy_helper.from_array(default, name))
        return name

    def _result(self, name: str) -> str:
        """What the value of that name is called on the way from frames."""
        self._results[name] = self._free(f"{PREFIX}/{name}/from_frames")
        return self._results[name]

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


def _drop_listed_weights(model: ModelProto) -> None:
    """Old files list their weights among the inputs, where newer ones mean that a caller may change them."""
    if model.ir_version < OVERRIDABLE_IR_VERSION:
        weights = {tensor.name for tensor in model.graph.initializer}
        for value in [value for value in model.graph.input if value.name in weights]:
            model.graph.input.remove(value)
        model.ir_version = OVERRIDABLE_IR_VERSION


def _names(graph: GraphProto) -> Iterator[str]:
    """Every value that `graph` or a graph in its branches and loops names: none may be named again outside of it."""
    yield from (tensor.name for tensor in graph.initializer)
    yield from (value.name for value in graph.input)
    for node in graph.node:
        yield from (*node.input, *node.output)
        for inner in inner_graphs(node):
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
