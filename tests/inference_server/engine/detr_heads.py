"""Small ONNX models with outputs as other exporters than Ultralytics' today write them.

Nothing is trained: each looks at the blocks of a picture, sees red, green and blue as classes 0, 1 and 2, and puts a
box around a block that it sees one in. How large exactly depends on all of the block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from heads import STRIDES, Graph, across, corners, down, part
from onnx import ModelProto, TensorProto, checker, helper

CLASSES, SIZE = 3, 64
OBJECTS = 20  # that a graph selects which selects
ANCHORS_PER_CELL = 3
NAMES = {"names": str(dict(enumerate(("red", "green", "blue"))))}
# What grey is for a model, and how far from it white is.
PLAIN, BYTES, NORMAL = (0.5, 0.5), (127.5, 127.5), (0.2, 2.2)


def build(kind: str, *, size: int = SIZE, batch: Any = "batch") -> ModelProto:
    """A model of `kind`, one of KINDS, for pictures of `size` x `size`."""
    graph = Graph()
    outputs = KINDS[kind](graph, size)
    metadata = {"rtdetr": {**NAMES, "head": "RTDETRDecoder", "task": "detect"}, "yolov5": NAMES, "yolov5-raw": NAMES}
    metadata["rtdetr-queries"] = {**NAMES, "description": "Ultralytics rtdetr-l model", "task": "detect"}
    picture = "input" if kind.startswith("rf-detr") else "images"
    inputs = [helper.make_tensor_value_info(picture, TensorProto.FLOAT, [batch, 3, size, size])]
    if kind == "detr":
        inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [batch, 2]))
    infos = [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if name == "labels" and kind == "detr" else TensorProto.FLOAT, [batch, *shape]
        )
        for name, shape in outputs.items()
    ]
    body = helper.make_graph(graph.nodes, kind, inputs, infos, graph.constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata.get(kind, {}))
    checker.check_model(model, full_check=True)
    return model


def look(graph: Graph, picture: str, stride: int, before: int, scale: tuple[float, float], repeat: int = 1) -> str:
    """(batch, repeat * (before + CLASSES), rows, columns) for each block: `before` numbers around 0 that depend on all
    of it, and for each class one that is above 0 where the block has its colour."""
    random, (grey, reach) = np.random.default_rng(before + stride), scale
    others = random.normal(0, 2, (repeat, before, 3, 1, 1)) + random.normal(0, 6, (repeat, before, 3, stride, stride))
    colours = np.full((repeat, CLASSES, 3, stride, stride), -5.0)
    colours[:, range(CLASSES), range(CLASSES)] += 15
    weights = np.concatenate([others, colours], axis=1).reshape(-1, 3, stride, stride) / stride**2
    bias = np.concatenate([np.zeros((repeat, before)), np.full((repeat, CLASSES), -5.0)], axis=1).ravel()
    grey_bias = weights.sum(axis=(1, 2, 3)) * grey / reach
    return graph.add("Conv", picture, weights / reach, bias - grey_bias, strides=[stride, stride])


def yolov5(graph: Graph, size: int, *, raw: bool = False) -> dict[str, list[Any]]:
    columns, flat, outputs = 5 + CLASSES, [], {}
    for stride in STRIDES:
        cells = size // stride
        seen = look(graph, "images", stride, 5, PLAIN, ANCHORS_PER_CELL)
        heads = graph.add("Reshape", seen, [0, ANCHORS_PER_CELL, columns, cells, cells])
        name = f"raw_{stride}" if raw else ""
        heads = graph.add("Transpose", heads, perm=[0, 1, 3, 4, 2], name=name)
        if raw:
            outputs[name] = [ANCHORS_PER_CELL, cells, cells, columns]
        flat.append(graph.add("Reshape", heads, [0, -1, columns]))
    rows = graph.add("Sigmoid", graph.add("Concat", *flat, axis=1))
    corner, strides = grid(size, ANCHORS_PER_CELL)
    anchors = np.concatenate(
        [np.repeat([[1.0, 2], [2, 1], [2, 2]], (size // stride) ** 2, axis=0) * stride for stride in STRIDES]
    )
    centres = graph.add("Add", graph.add("Mul", part(graph, rows, 0, 2), 2.0 * strides), (corner - 0.5) * strides)
    sizes = graph.add("Mul", graph.add("Pow", graph.add("Mul", part(graph, rows, 2, 4), 2.0), 2.0), anchors)
    graph.add("Concat", centres, sizes, part(graph, rows, 4, columns), name="output0", axis=2)
    return {"output0": [len(anchors), columns], **outputs}


def yolov5_raw(graph: Graph, size: int) -> dict[str, list[Any]]:
    return yolov5(graph, size, raw=True)


def yolox(graph: Graph, size: int, *, decoded: bool = False) -> dict[str, list[Any]]:
    columns = 5 + CLASSES
    flat = [graph.add("Reshape", look(graph, "images", stride, 5, BYTES), [0, columns, -1]) for stride in STRIDES]
    rows = graph.add("Transpose", graph.add("Concat", *flat, axis=2), perm=[0, 2, 1])
    rows = graph.add("Sigmoid", rows)  # a real one leaves the boxes as they are; here they stay near their cells
    boxes, scores = part(graph, rows, 0, 4), part(graph, rows, 4, columns)
    corner, strides = grid(size)
    if decoded:
        centres = graph.add("Mul", graph.add("Add", part(graph, boxes, 0, 2), corner), strides)
        sizes = graph.add("Mul", graph.add("Exp", part(graph, boxes, 2, 4)), strides)
        boxes = graph.add("Concat", centres, sizes, axis=2)
    graph.add("Concat", boxes, scores, name="output", axis=2)
    return {"output": [len(strides), columns]}


def yolox_decoded(graph: Graph, size: int) -> dict[str, list[Any]]:
    return yolox(graph, size, decoded=True)


def rtdetr_queries(graph: Graph, size: int) -> dict[str, list[Any]]:
    boxes, logits = queries(graph, size, "images", PLAIN)
    graph.add("Concat", boxes, graph.add("Sigmoid", logits), name="output0", axis=2)
    return {"output0": [(size // 8) ** 2, 4 + CLASSES]}


def rtdetr(graph: Graph, size: int) -> dict[str, list[Any]]:
    labels, boxes, scores = select(graph, *queries(graph, size, "images", PLAIN))
    labels = graph.add("Cast", labels, to=TensorProto.FLOAT)
    scores, labels = (graph.add("Unsqueeze", value, [2]) for value in (scores, labels))
    graph.add("Concat", boxes, scores, labels, name="output0", axis=2)
    return {"output0": [OBJECTS, 6]}


def detr(graph: Graph, size: int) -> dict[str, list[Any]]:
    labels, boxes, scores = select(graph, *queries(graph, size, "images", PLAIN))
    sizes = graph.add("Cast", "orig_target_sizes", to=TensorProto.FLOAT)
    sizes = graph.add("Unsqueeze", graph.add("Concat", sizes, sizes, axis=1), [1])
    graph.add("Identity", labels, name="labels")
    graph.add("Mul", corners(graph, boxes), sizes, name="boxes")
    graph.add("Identity", scores, name="scores")
    return {"labels": [None], "boxes": [None, 4], "scores": [None]}  # as upstream: it names no dimension but the first


def rf_detr(graph: Graph, size: int) -> dict[str, list[Any]]:
    boxes, logits = queries(graph, size, "input", NORMAL)
    graph.add("Identity", boxes, name="dets")
    graph.add("Identity", logits, name="labels")
    return {"dets": [(size // 8) ** 2, 4], "labels": [(size // 8) ** 2, CLASSES]}


def rf_detr_segment(graph: Graph, size: int) -> dict[str, list[Any]]:
    count = (size // 8) ** 2
    graph.add("Identity", look(graph, "input", 4, count - CLASSES, NORMAL), name="masks")
    return {**rf_detr(graph, size), "masks": [count, size // 4, size // 4]}


KINDS = {
    "yolov5": yolov5,
    "yolov5-raw": yolov5_raw,
    "yolox": yolox,
    "yolox-decoded": yolox_decoded,
    "rtdetr": rtdetr,
    "rtdetr-queries": rtdetr_queries,
    "detr": detr,
    "rf-detr": rf_detr,
    "rf-detr-segment": rf_detr_segment,
}


def grid(size: int, repeat: int = 1) -> tuple[Any, Any]:
    """(anchors, 2): column and row of each cell, and (anchors, 1): its side."""
    places = [
        np.tile(np.stack([across(size // stride), down(size // stride)], axis=1), (repeat, 1)) for stride in STRIDES
    ]
    strides = [np.full((len(place), 1), float(stride)) for place, stride in zip(places, STRIDES, strict=True)]
    return np.concatenate(places).astype(float), np.concatenate(strides)


def queries(graph: Graph, size: int, picture: str, scale: tuple[float, float]) -> tuple[str, str]:
    """(batch, queries, 4): centre and size in parts of the picture, and (batch, queries, CLASSES): logits."""
    cells = size // 8
    seen = graph.add("Reshape", look(graph, picture, 8, 4, scale), [0, 4 + CLASSES, -1])
    seen = graph.add("Transpose", seen, perm=[0, 2, 1])
    places = np.stack([across(cells), down(cells), np.full(cells**2, 0.5), np.full(cells**2, 0.5)], axis=1)
    boxes = graph.add("Add", graph.add("Sigmoid", part(graph, seen, 0, 4)), places.astype(float))
    return graph.add("Div", boxes, float(cells)), part(graph, seen, 4, 4 + CLASSES)


def select(graph: Graph, boxes: str, logits: str) -> tuple[str, str, str]:
    """Labels, boxes and scores of the best pairs of a query and a class."""
    scores = graph.add("Reshape", graph.add("Sigmoid", logits), [0, -1])
    graph.add("TopK", scores, np.array([OBJECTS]), name="best", axis=1)
    query = graph.add("Div", "best_second", np.array(CLASSES))
    labels = graph.add("Sub", "best_second", graph.add("Mul", query, np.array(CLASSES)))
    return labels, graph.add("GatherND", boxes, graph.add("Unsqueeze", query, [2]), batch_dims=1), "best"
