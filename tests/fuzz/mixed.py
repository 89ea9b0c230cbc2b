"""A model that gives back what it gets, tensors of several types, and sound requests for it."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper
from shared_memory import SIZE, SOUND, Memories
from videoai.open_inference.v2 import open_inference_pb2 as pb

MIXED = "mixed"
_SHARED: Mapping[str, tuple[str, ...]] = {"raw": (), "typed": ("halves",), "shared": ("halves", "numbers")}
_LETTERS = "aé€🙂\0 "


@dataclass(frozen=True, slots=True)
class Input:
    """`shape`: None where it is open. `contents`: the field of typed elements, if there may be such."""

    name: str
    kind: int
    datatype: str
    dtype: str
    shape: tuple[int | None, ...]
    contents: str = ""

    @property
    def item_size(self) -> int:
        return np.dtype(self.dtype).itemsize


INPUTS = (
    Input("numbers", TensorProto.FLOAT, "FP32", "<f4", (None, 4), "fp32_contents"),
    Input("counts", TensorProto.INT64, "INT64", "<i8", (None,), "int64_contents"),
    Input("halves", TensorProto.FLOAT16, "FP16", "<f2", (2, 3)),
    Input("flags", TensorProto.BOOL, "BOOL", "?", (None, None), "bool_contents"),
    Input("small", TensorProto.UINT8, "UINT8", "u1", (3, None), "uint_contents"),
    Input("texts", TensorProto.STRING, "BYTES", "O", (None,), "bytes_contents"),
)


def model() -> ModelProto:
    """Each input, `x`, comes back as the output `x_again`."""
    nodes, inputs, outputs = [], [], []
    for one in INPUTS:
        shape = [f"{one.name}_{axis}" if size is None else size for axis, size in enumerate(one.shape)]
        nodes.append(helper.make_node("Identity", [one.name], [again(one.name)]))
        inputs.append(helper.make_tensor_value_info(one.name, one.kind, shape))
        outputs.append(helper.make_tensor_value_info(again(one.name), one.kind, shape))
    graph = helper.make_graph(nodes, MIXED, inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def again(name: str) -> str:
    return f"{name}_again"


@dataclass(frozen=True, slots=True)
class SoundRequest:
    """A request, and the raw bytes of each output that its answer must have."""

    request: pb.ModelInferRequest
    expected: Mapping[str, bytes]

    def problems(self, response: pb.ModelInferResponse) -> list[str]:
        """How an answer differs from what it must be."""
        found = {output.name: raw for output, raw in zip(response.outputs, response.raw_output_contents, strict=False)}
        shapes = {again(tensor.name): list(tensor.shape) for tensor in self.request.inputs}
        problems = [f"id {response.id!r}"] if response.id != self.request.id else []
        problems += [f"{name} is not what was sent" for name, raw in self.expected.items() if found.get(name) != raw]
        return problems + [
            f"{output.name}: shape {list(output.shape)}"
            for output in response.outputs
            if list(output.shape) != shapes.get(output.name)
        ]


def sound_request(rng: random.Random, memories: Memories, name: str) -> SoundRequest:
    """Inputs of any size in any order: all raw, or typed, or partly in shared memory."""
    request = pb.ModelInferRequest(model_name=MIXED, id=name, model_version=rng.choice(("", "1")))
    way = rng.choice(("raw", "typed", "shared"))
    expected = {}
    for one in rng.sample(INPUTS, len(INPUTS)):
        shape = [rng.choice((0, 1, 2, 5)) if size is None else size for size in one.shape]
        tensor = request.inputs.add(name=one.name, datatype=one.datatype, shape=shape)
        raw, elements = _elements(one, int(np.prod(shape)), rng)
        # Half floats have no typed contents, so they come from elsewhere.
        if one.name in _SHARED[way]:
            raw = _place(tensor, len(raw), memories, rng)
        elif way == "typed":
            getattr(tensor.contents, one.contents).extend(elements)
            tensor.contents.SetInParent()
        else:
            request.raw_input_contents.append(raw)
        expected[again(one.name)] = raw
    return SoundRequest(request, expected)


def _elements(one: Input, count: int, rng: random.Random) -> tuple[bytes, list[Any]]:
    """Elements of an input, raw and typed."""
    if one.datatype == "BYTES":
        texts = ["".join(rng.choices(_LETTERS, k=rng.choice((0, 1, 7)))).encode() for _ in range(count)]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts), texts
    if one.dtype == "?":
        array = np.array([rng.random() < 0.5 for _ in range(count)], one.dtype)
    else:
        array = np.frombuffer(rng.randbytes(count * one.item_size), one.dtype)
    if one.datatype == "FP32":  # a NaN may become another on its way through Python's float
        array = np.nan_to_num(array)
    return array.tobytes(), array.tolist()


def _place(tensor: Any, size: int, memories: Memories, rng: random.Random) -> bytes:
    """Let a tensor's elements be read from shared memory; what they are."""
    offset = rng.randrange(SIZE - size)
    tensor.parameters["shared_memory_region"].string_param = SOUND
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    tensor.parameters["shared_memory_offset"].int64_param = offset
    return memories.content[offset : offset + size]
