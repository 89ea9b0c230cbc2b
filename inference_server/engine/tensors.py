"""The tensors by which a model is fed and read from outside, by their names in the model's file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from inference_server.detection import GraphSignature, PictureInput, TensorSpec
from inference_server.engine.graph import inner_graphs
from inference_server.engine.preprocessing import Entries
from inference_server.engine.stacks import Stack
from inference_server.errors import InvalidField

WIDENED = "videoai_widened"
SWITCH_ON = np.array(True)  # noqa: FBT003 - an array's value


@dataclass(frozen=True, slots=True)
class Ports:
    """What a caller may feed, and get back.

    `inputs` and `outputs` are as in the model's file, height and width of a picture fixed to its layout. `frames`,
    uint8 (N, H, W, 3), stands for all inputs of a model that takes pictures; None for others. `metadata` is the file's.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    frames: TensorSpec | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    entries: Entries | None = None
    nothing: NDArray[np.uint8] | None = None

    def check(self, names: Collection[str]) -> None:
        """Raise InvalidField unless `names` are those of all `inputs`, or of `frames` alone."""
        if self.frames is not None and {*names} == {self.frames.name}:
            return
        if {*names} != {spec.name for spec in self.inputs}:
            known = " and ".join(spec.name for spec in self.inputs) or "none"
            expected = f"{known}, or {self.frames.name} alone" if self.frames is not None else known
            raise InvalidField("inputs", f"{expected}, got {' and '.join(sorted(names)) or 'none'}")

    def feed(self, stacks: Mapping[str, Stack]) -> Mapping[str, Stack]:
        """What to give the session for tensors whose names were checked."""
        if self.entries is None or self.nothing is None or self.entries.frames in stacks:
            return stacks
        fed = {self.entries.exported[name]: stack for name, stack in stacks.items()}
        return {self.entries.frames: Stack.of([self.nothing]), self.entries.switch: Stack.of([SWITCH_ON]), **fed}


def ports_of(signature: GraphSignature, picture: PictureInput | None, entries: Entries | None) -> Ports:
    """The ports of a model that was read as `signature`, and composed where it takes a picture."""
    if picture is None or entries is None:
        return Ports(signature.inputs, signature.outputs, metadata=signature.metadata)
    layout = picture.layout
    frames = TensorSpec(entries.frames, "uint8", (picture.batch, layout.height, layout.width, 3))
    return Ports(
        tuple(_sized(spec, picture) for spec in signature.inputs),
        signature.outputs,
        frames,
        signature.metadata,
        entries,
        np.zeros((picture.batch or 0, layout.height, layout.width, 3), np.uint8),
    )


def samples(ports: Ports, value: int) -> dict[str, NDArray[Any]]:
    """Inputs that are `value` throughout; dimensions left open are 1."""
    return {
        spec.name: np.full([size or 1 for size in spec.shape or ()], *_element(spec.dtype, value))
        for spec in ports.inputs
    }


def _element(dtype: str, value: int) -> tuple[Any, Any]:
    if dtype == "object":
        return str(value), object
    return value, np.float32 if dtype == "bfloat16" else np.dtype(dtype)


def widen_bfloat16(model: ModelProto) -> None:
    """Let values cross the graph's border as float32 where they are bfloat16, which NumPy lacks; no bit is lost."""
    graph = model.graph
    inputs, outputs = (_bfloat16(values) for values in (graph.input, graph.output))
    _rename(graph, {name: f"{WIDENED}/{name}" for name in (*inputs, *outputs)})
    for name in inputs:
        graph.node.insert(0, helper.make_node("Cast", [name], [f"{WIDENED}/{name}"], to=TensorProto.BFLOAT16))
    for name in outputs:
        graph.node.append(helper.make_node("Cast", [f"{WIDENED}/{name}"], [name], to=TensorProto.FLOAT))


def _bfloat16(values: Iterable[ValueInfoProto]) -> list[str]:
    """The names of the values that are bfloat16; they are declared float32 from now on."""
    found = [value for value in values if value.type.tensor_type.elem_type == TensorProto.BFLOAT16]
    for value in found:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return [value.name for value in found]


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give values other names wherever they are made and used, in branches and loops, too."""
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node if names else ():
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in inner_graphs(node):
            _rename(inner, names)


def _sized(spec: TensorSpec, picture: PictureInput) -> TensorSpec:
    if spec.name != picture.name or spec.shape is None:
        return spec
    size = (picture.layout.height, picture.layout.width)
    batch, *rest = spec.shape
    shape = (batch, *size, rest[2]) if picture.channels_last else (batch, rest[0], *size)
    return TensorSpec(spec.name, spec.dtype, shape)
