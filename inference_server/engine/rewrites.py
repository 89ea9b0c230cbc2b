"""Says what a graph computes in operators that ONNX Runtime is quick with on the CPU.

The values stay the same but for rounding. What is not recognised for certain stays as it is.

Softmax over another axis than the last, as a detector reads its boxes from: the kernel turns the tensor around, number
by number and in one thread, and what came out back. Maximum, exponential, sum and quotient take a fifth of that in one
thread, and less in several.

Split or Slice behind a convolution: what convolutions exchange is kept in blocks of channels, and taken out of them for
whatever does not know these, such as the two. Where the kernel is one pixel, the convolution is parted instead, and the
parts stay in blocks.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise, permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from inference_server.engine.additions import Additions
from inference_server.engine.graph import inner_graphs

# Since the one opset Softmax takes one axis, and Split its sizes as an input; since the other ReduceMax takes its axes
# as an input, and Split is told of equal parts.
ONE_AXIS, AXES_ARE_INPUTS = 13, 18
# Slice takes its bounds as inputs since this one.
BOUNDS_ARE_INPUTS = 10
PREFIX = "videoai_rewrites"
# Channels in a block with AVX-512; half as many without. Parts of other sizes would leave the blocks, too.
BLOCK = 16
ACTIVATIONS = ("HardSwish", "LeakyRelu", "Relu")
# How many inputs what is looked at here may have, one where nothing is said. A file may give it others.
INPUTS = {"Constant": (0, 0), "Conv": (2, 3), "Mul": (2, 2), "QuantizeLinear": (2, 3), "Slice": (3, 5), "Split": (1, 2)}
# What may be said of those that go; of others all is kept.
ATTRIBUTES = {"Softmax": ["axis"], "Split": ["axis", "num_outputs", "split"], "Slice": []}


def rewrite_for_cpu(model: ModelProto, opset: int) -> None:
    """Change `model`, of this opset, in place. Its inputs and outputs stay, and so do the names of what they are."""
    if any(str(name).startswith(PREFIX) for name in _reads(model.graph)):
        return  # a file that was rewritten before it was given to us; names could be given twice
    rewrites = _Rewrites(model.graph, opset)
    nodes = [new for node in model.graph.node for new in rewrites.of(node)]
    kept = [node for node in nodes if rewrites.replaced.isdisjoint(node.output)]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    _drop_unread(model.graph, rewrites.unread)


class _Part(NamedTuple):
    """Channels from `first` to before `last`, given as `result`."""

    first: int
    last: int
    result: str


class _Parting(NamedTuple):
    """A convolution of `weights`, its bias among them, and what activates it, to be repeated for each of `parts`, which
    are by their results."""

    chain: list[NodeProto]
    weights: list[NDArray[Any]]
    parts: dict[str, _Part]


class _Rewrites:
    """What stands for each node. `replaced` are outputs of nodes that go, `unread` constants that these have read."""

    def __init__(self, graph: GraphProto, opset: int) -> None:
        self.replaced: set[str] = set()
        self.unread: set[str] = set()
        self._opset = opset
        self._added = Additions(graph, PREFIX)
        self._reads = Counter(_reads(graph))
        inputs = (value.name for value in graph.input)
        constants = (tensor.name for tensor in graph.initializer)
        given = Counter([*inputs, *constants, *(output for node in graph.node for output in node.output)])
        self._constants = {tensor.name: tensor for tensor in graph.initializer if given[tensor.name] == 1}
        self._makers = {output: node for node in graph.node for output in node.output if given[output] == 1}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._partings: dict[str, _Parting | None] = {}

    def of(self, node: NodeProto) -> Sequence[NodeProto]:
        """The nodes in place of `node`."""
        self._added.nodes = []
        if _is(node, "Softmax"):
            self._softmax(node)
        elif _is(node, "Split", "Slice"):
            self._part(node)
        return self._added.nodes or [node]

    def _softmax(self, node: NodeProto) -> None:
        axis = _attribute(node, "axis", -1)
        if self._opset < ONE_AXIS or not self._has_axis_behind(node, axis):
            return
        value, given = node.input[0], self._added
        if self._opset < AXES_ARE_INPUTS:
            greatest = given.node("ReduceMax", value, axes=[axis], keepdims=1)
        else:
            greatest = given.node("ReduceMax", value, [axis], keepdims=1)
        power = given.node("Exp", given.node("Sub", value, greatest))
        total = given.node("ReduceSum", power, [axis], keepdims=1)
        given.node("Div", power, total, results=node.output)

    def _has_axis_behind(self, node: NodeProto, axis: int) -> bool:
        """Whether `axis` is known not to be the last one."""
        before = self._makers.get(node.input[0])
        if before is not None and _is(before, "Transpose"):
            rank = len(_attribute(before, "perm", []))
            return -rank <= axis < rank and axis not in (-1, rank - 1)
        return axis == 1 and any(_is(reader, "Conv") for reader in self._readers[node.output[0]])

    def _part(self, node: NodeProto) -> None:
        value = node.input[0]
        if value not in self._partings:
            self._partings[value] = self._parting(value)
        parting = self._partings[value]
        if parting is None:
            return
        names = parting.chain[0].input[1:]
        self.replaced.update(one.output[0] for one in parting.chain)
        self.unread.update(names, node.input[1:])
        for part in (parting.parts[result] for result in node.output):
            constants = [self._added.constant(array[part.first : part.last]) for array in parting.weights]
            self._repeat(parting.chain, dict(zip(names, constants, strict=True)), part.result)

    def _parting(self, value: str) -> _Parting | None:
        """How to give all that is taken of `value` without it; None where it is to stay."""
        chain = self._chain(value)
        if chain is None or chain[0].input[0] in chain[0].input[1:]:
            return None
        weights = [self._array(name) for name in chain[0].input[1:]]
        if not _can_be_parted(chain[0], weights):
            return None
        taken = [self._parts(reader, len(weights[0])) for reader in self._readers[value]]
        parts = [part for some in taken for part in some]
        if not all(taken) or not _are_apart(parts, len(weights[0])):
            return None
        # Right behind a convolution it would have ONNX Runtime compute that in eight bits.
        quantised = (_is(reader, "QuantizeLinear") for part in parts for reader in self._readers[part.result])
        return None if any(quantised) else _Parting(chain, weights, {part.result: part for part in parts})

    def _chain(self, value: str) -> list[NodeProto] | None:
        """A convolution and what activates it, in the order in which they run, where `value` is what comes out and
        nobody else reads what is on the way; None if it is not that."""
        last = self._maker(value, len(self._readers[value]))
        if last is None or _is(last, "Conv"):
            return None if last is None else [last]
        if _is(last, *ACTIVATIONS):
            first = self._maker(last.input[0], 1)
            return None if first is None or not _is(first, "Conv") else [first, last]
        if not _is(last, "Mul"):
            return None
        for gate, gated in permutations(last.input):
            sigmoid, first = self._maker(gate, 1), self._maker(gated, 2)
            if sigmoid is None or first is None or not _is(sigmoid, "Sigmoid") or not _is(first, "Conv"):
                continue
            if sigmoid.input[0] == gated:
                return [first, sigmoid, last]
        return None

    def _maker(self, value: str, reads: int) -> NodeProto | None:
        """The node that gives `value`, if that is read so many times."""
        return self._makers.get(value) if self._reads[value] == reads else None

    def _array(self, name: str) -> NDArray[Any]:
        """The constant of that name, given by a node or not; empty if it is none."""
        tensor, maker = self._constants.get(name), self._makers.get(name)
        if maker is not None and _is(maker, "Identity"):  # one name more for a constant that several share
            tensor = self._constants.get(maker.input[0])
        elif maker is not None and _is(maker, "Constant"):
            tensor = _attribute(maker, "value", TensorProto())
        try:
            return numpy_helper.to_array(tensor or TensorProto())
        except (KeyError, TypeError, ValueError):  # not one that is sound
            return np.empty(0)

    def _parts(self, node: NodeProto, channels: int) -> list[_Part]:
        """What `node` takes of so many channels; nothing if it does not, or that is not known."""
        if _is(node, "Split") and _attribute(node, "axis", 0) == 1:
            sizes = self._sizes(node, channels)
            if sum(sizes) == channels and len(sizes) == len(node.output):
                edges = pairwise(accumulate(sizes, initial=0))
                return [_Part(first, last, result) for (first, last), result in zip(edges, node.output, strict=True)]
        if _is(node, "Slice") and len(node.input) > 3 and self._opset >= BOUNDS_ARE_INPUTS:
            first, last, *others = (self._integers(name) for name in node.input[1:])
            if len(first) == len(last) == 1 and all(value == [1] for value in others):  # axis and step
                return [_Part(first[0], min(last[0], channels), node.output[0])]
        return []

    def _sizes(self, node: NodeProto, channels: int) -> list[int]:
        """How many channels each part has; none if that is not known, or not said as it is in this opset."""
        given, said = _attribute(node, "split", []), _attribute(node, "num_outputs", 0)
        if len(node.input) > 1:
            return [] if given or said or self._opset < ONE_AXIS else self._integers(node.input[1])
        if given:
            return list(given) if self._opset < ONE_AXIS and not said else []
        count = len(node.output)
        if said != (count if self._opset >= AXES_ARE_INPUTS else 0):
            return []
        size = -(-channels // count)
        return [size] * (count - 1) + [channels - size * (count - 1)]

    def _integers(self, name: str) -> list[int]:
        """The constant of that name, if it is a list of integers."""
        array = self._array(name)
        return array.tolist() if array.ndim == 1 and array.dtype == np.int64 else []

    def _repeat(self, chain: Sequence[NodeProto], names: dict[str, str], result: str) -> None:
        """Add `chain` with other names for what it reads, and `result` for what comes out."""
        for node in chain:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.name = self._added.name()
            names[node.output[0]] = copy.output[0] = result if node is chain[-1] else self._added.name()
            for index, value in enumerate(node.input):
                copy.input[index] = names.get(value, value)
            self._added.nodes.append(copy)


def _can_be_parted(convolution: NodeProto, weights: Sequence[NDArray[Any]]) -> bool:
    """Whether it looks at one pixel at a time, for all channels, with float32 weights that are known."""
    if any(array.dtype != np.float32 or array.ndim == 0 or len(array) != len(weights[0]) for array in weights):
        return False
    return math.prod(weights[0].shape[2:]) == 1 and _attribute(convolution, "group", 1) == 1


def _are_apart(parts: Sequence[_Part], channels: int) -> bool:
    """Whether no channel is in two parts, and each part is of whole blocks."""
    fit = all(0 <= part.first < part.last <= channels and not (part.first | part.last) % BLOCK for part in parts)
    return fit and all(before.last <= after.first for before, after in pairwise(sorted(parts)))


def _is(node: NodeProto, *operators: str) -> bool:
    """Whether `node` is one of these, and says of itself what they may, in names that are text."""
    if node.op_type not in operators or node.domain not in ("", "ai.onnx") or not node.output:
        return False
    least, most = INPUTS.get(node.op_type, (1, 1))
    said = [attribute.name for attribute in node.attribute if not attribute.ref_attr_name]
    known = ATTRIBUTES.get(node.op_type, said)
    sound = len(said) == len(node.attribute) == len(set(said)) and set(said) <= set(known)
    # Protobuf gives names that are no text as bytes.
    return (
        sound
        and least <= len(node.input) <= most
        and all(isinstance(name, str) for name in (*node.input, *node.output))
    )


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The attribute of that name; `default` where there is none, or none of that type."""
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    value = default if found is None else helper.get_attribute_value(found)
    return value if isinstance(value, type(default)) else default


def _reads(graph: GraphProto) -> Iterator[str]:
    """Every value that is read, in `graph`, in its branches and loops, or as one of its outputs."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for inner in inner_graphs(node):
            yield from _reads(inner)


def _drop_unread(graph: GraphProto, names: set[str]) -> None:
    """Drop those of the constants called `names` that nobody reads any more."""
    unread = names.difference(_reads(graph))
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in unread:
            del graph.initializer[index]
