"""From a model's file to its graph, and what the graph says about itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from inference_server.detection import GraphSignature, TensorSpec
from inference_server.engine.weights import take_in_weights
from inference_server.errors import ModelRefused
from server_kit.model_files import BadWeights

# One protobuf message cannot be larger.
MAX_FILE_BYTES = (1 << 31) - 1
# Cast and Mul mean what they mean today since this opset; ONNX Runtime promises nothing below it.
MIN_OPSET = 7


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version as the registry announces it. `sha256` (64 lower-case digits) may be empty for an entry made by hand;
    `attributes` are those of the entry's metadata."""

    model_name: str
    version: int
    path: Path
    sha256: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


def read_model(version: ModelVersion) -> tuple[ModelProto, str]:
    """The version's graph, all weights in it, and the SHA-256 of its files, both from the same bytes.

    Raises ModelRefused.
    """
    payload, sha256 = read_file(version.path)
    try:
        model = ModelProto.FromString(payload)
    except DecodeError:
        _check_digest(version, sha256)
        raise ModelRefused(f"{version.path}: not an ONNX model, or damaged: it does not parse") from None
    del payload  # the graph has its own copy
    try:
        sha256, files = take_in_weights(model, Path(os.path.realpath(version.path)), sha256)
    except BadWeights as error:
        raise ModelRefused(f"{version.path}: {error}") from None
    except OSError as error:
        raise ModelRefused(f"{version.path}: its weights cannot be read: {error.strerror}") from error
    _check_digest(version, sha256, files)
    _check(model, version.path)
    return model, sha256


def read_file(path: Path) -> tuple[bytes, str]:
    """What the model's own file holds, and its SHA-256. Raises ModelRefused."""
    payload = _read(path)
    return payload, hashlib.sha256(payload).hexdigest()


def _check_digest(version: ModelVersion, sha256: str, files: int = 1) -> None:
    if version.sha256 and sha256 != version.sha256:
        found = f"{sha256} for its {files} files together" if files > 1 else sha256
        raise ModelRefused(f"{version.path}: changed on disk: expected sha256 {version.sha256}, found {found}")


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ModelRefused(f"{path}: no such file")
        size = path.stat().st_size
        if not 0 < size <= MAX_FILE_BYTES:
            raise ModelRefused(f"{path}: expected 1..{MAX_FILE_BYTES} bytes, found {size}")
        return path.read_bytes()
    except OSError as error:
        raise ModelRefused(f"{path}: cannot be read: {error.strerror}") from error


def _check(model: ModelProto, path: Path) -> None:
    """Refuse what parses but is no model that can be run."""
    opset = opset_of(model)
    if not model.ir_version or not model.graph.node or opset is None:
        raise ModelRefused(f"{path}: not an ONNX model, or damaged: it has no graph, no IR version or no opset")
    if opset < MIN_OPSET:
        raise ModelRefused(f"{path}: expected opset {MIN_OPSET} or later, found {opset}")
    for what, text in _texts(model):
        if isinstance(text, bytes):  # what protobuf gives in place of text that is none
            raise ModelRefused(f"{path}: {what} {text[:100]!r}: expected UTF-8")
    for node in _nodes(model):
        if node.op_type == "Split" and node.domain in ("", "ai.onnx"):
            _check_split(node, path)


def _texts(model: ModelProto) -> Iterator[tuple[str, object]]:
    """Everything in the file that must be text, with what it is."""
    yield from (("metadata", text) for entry in model.metadata_props for text in (entry.key, entry.value))
    yield from _names(model.graph)
    for node in _nodes(model):
        yield from (("operator", node.op_type), ("domain", node.domain), ("node", node.name))
        yield from (("value", name) for name in (*node.input, *node.output))
        for graph in inner_graphs(node):
            yield from _names(graph)


def _names(graph: GraphProto) -> Iterator[tuple[str, object]]:
    yield from (("input", value.name) for value in graph.input)
    yield from (("output", value.name) for value in graph.output)
    yield from (("initializer", tensor.name) for tensor in graph.initializer)


def _check_split(node: NodeProto, path: Path) -> None:
    """Refuse what ONNX Runtime does not: it ends the process."""
    said = next((attribute.i for attribute in node.attribute if attribute.name == "num_outputs"), None)
    if said is not None and said < len(node.output):
        raise ModelRefused(f"{path}: node {node.name!r}: Split says num_outputs {said}, and gives {len(node.output)}")
    if not all(node.output):
        raise ModelRefused(f"{path}: node {node.name!r}: Split gives an output that has no name")


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    """All nodes, those of branches, loops and functions among them."""
    waiting = [model.graph.node, *(function.node for function in model.functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            waiting.extend(graph.node for graph in inner_graphs(node))


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node runs, its branches or what it repeats."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def serialise(model: ModelProto) -> Iterator[bytes]:
    """The encoded message in pieces, one after the other; takes the weights out of `model`.

    Encoding holds the interpreter's lock, 3 ms for a megabyte, so it is done weight by weight. In protobuf's encoding a
    message that comes in several parts is one with the fields of all: each weight is a model of its own with nothing
    but that weight.
    """
    for tensor in model.graph.initializer:
        weight = tensor.SerializeToString()
        in_graph = _field(GraphProto.INITIALIZER_FIELD_NUMBER, len(weight))
        yield _field(ModelProto.GRAPH_FIELD_NUMBER, len(in_graph) + len(weight)) + in_graph
        yield weight
    del model.graph.initializer[:]
    yield model.SerializeToString()


def _field(number: int, size: int) -> bytes:
    """What stands before a message of `size` bytes that is the field `number`, at most 15, of another.

    https://protobuf.dev/programming-guides/encoding/#structure
    """
    head = bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


def opset_of(model: ModelProto) -> int | None:
    """The version of ONNX's own operators that the file asks for; None if it names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)


def signature_of(model: ModelProto) -> GraphSignature:
    """What the graph takes, gives and says about itself. Raises ModelRefused for values that are no tensors."""
    constants = {tensor.name for tensor in model.graph.initializer}
    functions = [function.node for function in model.functions]
    return GraphSignature(
        inputs=tuple(_spec(value) for value in model.graph.input if value.name not in constants),
        outputs=tuple(_spec(value) for value in model.graph.output),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        operators=frozenset(node.op_type for nodes in (model.graph.node, *functions) for node in nodes),
    )


def _spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        raise ModelRefused(f"{value.name}: expected a tensor with an element type")
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:
        raise ModelRefused(f"{value.name}: element type {tensor.elem_type} is not one of ONNX") from None
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, dtype, None)
    shape = tuple(size.dim_value if size.dim_value > 0 else None for size in tensor.shape.dim)
    return TensorSpec(value.name, dtype, shape)
