"""A detector as large as YOLOv8n, with random weights: 3.2 million parameters, 8.7 GFLOPs at 640x640.

The same blocks in the same places as the published architecture, and an output as Ultralytics exports it: float
(batch, 84, 8400), boxes in input pixels and a score in 0..1 for each of 80 classes. It finds nothing worth finding; it
takes as long as a real one.

python tests/benchmarks/yolo_sized.py FILE [--fp16] [--batch N]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

CLASSES, BINS = 80, 16
STRIDES = (8, 16, 32)
OPSET, IR_VERSION = 17, 8


@dataclass
class _Graph:
    """Nodes and weights in the order in which they are added, and what they amount to."""

    size: int
    dtype: Any
    random: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    parameters: int = 0
    multiplications: int = 0

    def add(
        self, operator: str, *inputs: str | NDArray[Any], outputs: int = 1, name: str = "", **attributes: Any
    ) -> Any:
        """A node; arrays among its inputs become constants. Its result's name, or those of all its results."""
        base = name or f"value{len(self.nodes)}"
        results = [base] if outputs == 1 else [f"{base}_{index}" for index in range(outputs)]
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(operator, names, results, f"{operator}{len(self.nodes)}", **attributes))
        return results[0] if outputs == 1 else results

    def _constant(self, value: NDArray[Any]) -> str:
        kept = value if value.dtype == np.int64 else value.astype(self.dtype)
        self.weights.append(numpy_helper.from_array(kept, f"constant{len(self.weights)}"))
        return self.weights[-1].name

    def number(self, value: float) -> NDArray[Any]:
        return np.array(value, self.dtype)


@dataclass(frozen=True)
class _Map:
    """A value of `channels` planes, `stride` pixels a cell."""

    name: str
    channels: int
    stride: int


def _bare_convolution(graph: _Graph, source: _Map, channels: int, size: int = 1, step: int = 1) -> _Map:
    fan_in = source.channels * size * size
    weights = graph.random.normal(0, 1.6 / np.sqrt(fan_in), (channels, source.channels, size, size))
    biases = graph.random.normal(0, 0.1, channels)
    name = graph.add(
        "Conv",
        source.name,
        weights,
        biases,
        kernel_shape=[size, size],
        strides=[step, step],
        pads=[size // 2] * 4,
    )
    stride = source.stride * step
    graph.parameters += weights.size + channels
    graph.multiplications += weights.size * (graph.size // stride) ** 2
    return _Map(name, channels, stride)


def _convolution(graph: _Graph, source: _Map, channels: int, size: int = 1, step: int = 1) -> _Map:
    """Convolution and SiLU."""
    found = _bare_convolution(graph, source, channels, size, step)
    gate = graph.add("Sigmoid", found.name)
    return _Map(graph.add("Mul", found.name, gate), channels, found.stride)


def _joined(graph: _Graph, *parts: _Map) -> _Map:
    name = graph.add("Concat", *(part.name for part in parts), axis=1)
    return _Map(name, sum(part.channels for part in parts), parts[0].stride)


def _c2f(graph: _Graph, source: _Map, channels: int, repeats: int, *, residual: bool) -> _Map:
    """Cross-stage block: half of the planes go through bottlenecks, and every stage is kept."""
    half = channels // 2
    entry = _convolution(graph, source, channels)
    names = graph.add("Split", entry.name, np.array([half, half]), outputs=2, axis=1)
    stages = [_Map(name, half, entry.stride) for name in names]
    for _ in range(repeats):
        inner = _convolution(graph, _convolution(graph, stages[-1], half, 3), half, 3)
        if residual:
            inner = _Map(graph.add("Add", stages[-1].name, inner.name), half, inner.stride)
        stages.append(inner)
    return _convolution(graph, _joined(graph, *stages), channels)


def _pyramid_pooling(graph: _Graph, source: _Map) -> _Map:
    stages = [_convolution(graph, source, source.channels // 2)]
    for _ in range(3):
        pooled = graph.add("MaxPool", stages[-1].name, kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4)
        stages.append(_Map(pooled, stages[-1].channels, source.stride))
    return _convolution(graph, _joined(graph, *stages), source.channels)


def _doubled(graph: _Graph, source: _Map) -> _Map:
    # The scales are float32 whatever the model's type is.
    graph.weights.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), f"scales{len(graph.nodes)}"))
    name = graph.add("Resize", source.name, "", graph.weights[-1].name, mode="nearest")
    return _Map(name, source.channels, source.stride // 2)


def _backbone(graph: _Graph) -> tuple[_Map, _Map, _Map]:
    first = _convolution(graph, _Map("images", 3, 1), 16, 3, 2)
    second = _c2f(graph, _convolution(graph, first, 32, 3, 2), 32, 1, residual=True)
    fine = _c2f(graph, _convolution(graph, second, 64, 3, 2), 64, 2, residual=True)
    middle = _c2f(graph, _convolution(graph, fine, 128, 3, 2), 128, 2, residual=True)
    coarse = _c2f(graph, _convolution(graph, middle, 256, 3, 2), 256, 1, residual=True)
    return fine, middle, _pyramid_pooling(graph, coarse)


def _neck(graph: _Graph, fine: _Map, middle: _Map, coarse: _Map) -> tuple[_Map, _Map, _Map]:
    up = _c2f(graph, _joined(graph, _doubled(graph, coarse), middle), 128, 1, residual=False)
    small = _c2f(graph, _joined(graph, _doubled(graph, up), fine), 64, 1, residual=False)
    down = _joined(graph, _convolution(graph, small, 64, 3, 2), up)
    medium = _c2f(graph, down, 128, 1, residual=False)
    large = _c2f(graph, _joined(graph, _convolution(graph, medium, 128, 3, 2), coarse), 256, 1, residual=False)
    return small, medium, large


def _branch(graph: _Graph, source: _Map, width: int, channels: int) -> str:
    """(batch, channels, cells of this stride)."""
    inner = _convolution(graph, _convolution(graph, source, width, 3), width, 3)
    planes = _bare_convolution(graph, inner, channels)
    name: str = graph.add("Reshape", planes.name, np.array([0, channels, -1]))
    return name


def _head(graph: _Graph, maps: tuple[_Map, _Map, _Map]) -> None:
    """Distances to the four sides as expectations over bins, then boxes; scores by a sigmoid."""
    distances = graph.add("Concat", *(_branch(graph, one, 64, 4 * BINS) for one in maps), axis=2)
    classes = graph.add("Concat", *(_branch(graph, one, CLASSES, CLASSES) for one in maps), axis=2)
    sides = graph.add("Reshape", distances, np.array([0, 4, BINS, -1]))
    likely = graph.add("Softmax", graph.add("Transpose", sides, perm=[0, 2, 1, 3]), axis=1)
    expected = graph.add("Conv", likely, np.arange(BINS, dtype=np.float32).reshape(1, BINS, 1, 1))
    sides = graph.add("Reshape", expected, np.array([0, 4, -1]))
    near, far = graph.add("Split", sides, np.array([2, 2]), outputs=2, axis=1)
    cells, strides = _cells(graph.size)
    low, high = graph.add("Sub", cells, near), graph.add("Add", cells, far)
    centre = graph.add("Mul", graph.add("Add", low, high), graph.number(0.5))
    boxes = graph.add("Mul", graph.add("Concat", centre, graph.add("Sub", high, low), axis=1), strides)
    # So that, as with a trained model, some of the anchors pass the usual threshold.
    wide = graph.add("Mul", classes, graph.number(5))
    scores = graph.add("Sigmoid", graph.add("Sub", wide, graph.number(5)))
    graph.add("Concat", boxes, scores, name="output0", axis=1)


def _cells(size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The middle of each cell, in cells (1, 2, anchors), and its stride in pixels (1, anchors)."""
    middles, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[0 : size // stride, 0 : size // stride] + 0.5
        middles.append(np.stack((x.ravel(), y.ravel())))
        strides.append(np.full((1, x.size), float(stride)))
    return np.concatenate(middles, axis=1)[None], np.concatenate(strides, axis=1)


def build(*, fp16: bool = False, batch: int | str = "batch", size: int = 640, seed: int = 0) -> ModelProto:
    """images (batch, 3, size, size) RGB 0..1 → output0 (batch, 84, anchors), float32 or float16.

    `batch` is a number for a fixed batch, a name for any. `seed` makes another version of the same model.
    """
    graph = _Graph(size, np.float16 if fp16 else np.float32, np.random.default_rng(seed))
    _head(graph, _neck(graph, *_backbone(graph)))
    kind = TensorProto.FLOAT16 if fp16 else TensorProto.FLOAT
    anchors = sum((size // stride) ** 2 for stride in STRIDES)
    body = helper.make_graph(
        graph.nodes,
        "yolo_sized",
        [helper.make_tensor_value_info("images", kind, [batch, 3, size, size])],
        [helper.make_tensor_value_info("output0", kind, [batch, 4 + CLASSES, anchors])],
        graph.weights,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    names = {index: f"thing {index}" for index in range(CLASSES)}
    described = f"{graph.parameters} parameters, {2 * graph.multiplications / 1e9:.2f} GFLOPs, random weights"
    helper.set_model_props(
        model,
        {
            "description": described,
            "task": "detect",
            "stride": "32",
            "batch": "1",
            "imgsz": str([size, size]),
            "names": str(names),
        },
    )
    return model


def write(path: Path, **options: Any) -> Path:
    """Write the model to `path`, the same bytes every time; `options` as for `build`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(build(**options).SerializeToString(deterministic=True))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--batch", type=int, help="a fixed batch; any if left out")
    arguments = parser.parse_args()
    write(arguments.file, fp16=arguments.fp16, batch=arguments.batch or "batch")


if __name__ == "__main__":
    main()
