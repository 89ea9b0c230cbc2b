"""Small ONNX models of each task, with outputs as Ultralytics exports them.

Nothing is trained: convolutions of random weights look at the blocks of a picture, one anchor for each block at strides
8, 16 and 32, and what they see decides where an object is, what it is and how surely.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

STRIDES = (8, 16, 32)
SELECTED = 12  # objects that the graph of an end-to-end model selects
PROTOTYPES, KEYPOINTS = 4, (3, 3)
TASKS = ("detect", "segment", "pose", "obb")
EXTRAS = {"detect": 0, "segment": PROTOTYPES, "pose": KEYPOINTS[0] * KEYPOINTS[1], "obb": 1}


@dataclass
class Graph:
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def add(self, operator: str, *inputs: Any, name: str = "", **attributes: Any) -> str:
        """Add a node, named results apart; arrays among its inputs become constants. Returns its first result."""
        result = name or f"value_{len(self.nodes)}"
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        results = [result, f"{result}_second"] if operator == "TopK" else [result]
        self.nodes.append(helper.make_node(operator, names, results, **attributes))
        return result

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64)
        self.constants.append(numpy_helper.from_array(array, f"constant_{len(self.constants)}"))
        return self.constants[-1].name


def build(task: str, *, end2end: bool = False, classes: int = 3, size: int = 64) -> ModelProto:
    """A model of `task` for pictures of `size` x `size`, any number at once."""
    graph, random = Graph(), np.random.default_rng(11)
    outputs: dict[str, list[Any]] = {}
    if task == "classify":
        outputs["output0"] = ["batch", classes]
        seen = graph.add("Flatten", convolution(graph, random, classes, size, gain=6))
        graph.add("Softmax", seen, name="output0", axis=1)
    else:
        columns, anchors = 4 + classes + EXTRAS[task], sum((size // stride) ** 2 for stride in STRIDES)
        rows = scaled(graph, anchor_rows(graph, random, columns), task, classes, size)
        outputs["output0"] = ["batch", columns, anchors]
        if end2end:
            outputs["output0"] = ["batch", SELECTED, 6 + EXTRAS[task]]
            rows = select(graph, rows, task, classes)
        graph.add("Identity", rows, name="output0")
    if task == "segment":
        outputs["output1"] = ["batch", PROTOTYPES, size // 4, size // 4]
        graph.add("Identity", convolution(graph, random, PROTOTYPES, 4, gain=3), name="output1")
    told = {"task": task, "names": str({index: f"thing {index}" for index in range(classes)}), "end2end": str(end2end)}
    told |= {"description": "Ultralytics YOLO11n model"} | (
        {"kpt_shape": str(list(KEYPOINTS))} if task == "pose" else {}
    )
    return model_of(graph, outputs, size, told)


def convolution(graph: Graph, random: np.random.Generator, channels: int, stride: int, gain: float) -> str:
    """What each block looks like to each channel, around 0."""
    colours = random.normal(0, gain, (channels, 3, 1, 1))
    weights = (colours + random.normal(0, gain, (channels, 3, stride, stride))) / stride**2
    bias = -weights.sum(axis=(1, 2, 3)) / 2
    return graph.add("Conv", "images", weights, bias, strides=[stride, stride])


def anchor_rows(graph: Graph, random: np.random.Generator, channels: int) -> str:
    """(batch, channels, anchors): 0..1."""
    grids = [
        graph.add("Reshape", convolution(graph, random, channels, stride, gain=3), [0, channels, -1])
        for stride in STRIDES
    ]
    return graph.add("Sigmoid", graph.add("Concat", *grids, axis=2))


def scaled(graph: Graph, rows: str, task: str, classes: int, size: int) -> str:
    """The rows in the units of their columns: pixels around the anchors, coefficients, radians."""
    strides = np.concatenate([np.full((size // stride) ** 2, stride) for stride in STRIDES])
    x, y = (np.concatenate([axis(size // stride) * stride for stride in STRIDES]) for axis in (across, down))
    extras = {
        "detect": [],
        "segment": [(2, -1)] * PROTOTYPES,
        "pose": [(40, x - 20), (40, y - 20), (1, 0)] * KEYPOINTS[0],
        "obb": [(np.pi, -np.pi / 4)],
    }
    columns = [(strides, x), (strides, y), (34, 6), (34, 6), *[(1, 0)] * classes, *extras[task]]
    factors, shifts = (
        np.stack([np.broadcast_to(column[part], x.shape) for column in columns]).astype(float) for part in (0, 1)
    )
    return graph.add("Add", graph.add("Mul", rows, factors[None]), shifts[None])


def across(cells: int) -> Any:
    return np.tile(np.arange(cells), cells)


def down(cells: int) -> Any:
    return np.repeat(np.arange(cells), cells)


def select(graph: Graph, rows: str, task: str, classes: int) -> str:
    """(batch, SELECTED, 6 + extras): the anchors whose best classes score most."""
    columns = graph.add("Transpose", rows, perm=[0, 2, 1])
    scores = part(graph, columns, 4, 4 + classes)
    best = graph.add("ReduceMax", scores, axes=[2], keepdims=0)
    graph.add("TopK", best, np.array([SELECTED]), name="top", axis=1)
    chosen = graph.add("GatherND", columns, graph.add("Unsqueeze", "top_second", [2]), batch_dims=1)
    scores = part(graph, chosen, 4, 4 + classes)
    score = graph.add("ReduceMax", scores, axes=[2], keepdims=1)
    class_id = graph.add("Cast", graph.add("ArgMax", scores, axis=2), to=TensorProto.FLOAT)
    box = part(graph, chosen, 0, 4) if task == "obb" else corners(graph, chosen)
    extras = [part(graph, chosen, 4 + classes, 4 + classes + EXTRAS[task])] if EXTRAS[task] else []
    return graph.add("Concat", box, score, class_id, *extras, axis=2)


def corners(graph: Graph, rows: str) -> str:
    middle, half = part(graph, rows, 0, 2), graph.add("Mul", part(graph, rows, 2, 4), 0.5)
    return graph.add("Concat", graph.add("Sub", middle, half), graph.add("Add", middle, half), axis=2)


def part(graph: Graph, value: str, start: int, stop: int) -> str:
    """Columns `start` to `stop` of the last axis of three."""
    return graph.add("Slice", value, [start], [stop], [2])


def model_of(graph: Graph, outputs: dict[str, list[Any]], size: int, metadata: dict[str, str]) -> ModelProto:
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, size, size])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    body = helper.make_graph(graph.nodes, "head", [images], infos, graph.constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    checker.check_model(model, full_check=True)
    return model
