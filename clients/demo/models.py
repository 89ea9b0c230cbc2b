"""Two small ONNX detectors that find coloured shapes, laid out as Ultralytics exports its detectors.

Nothing is trained. For each class: colour → mask → 4x4 averages → moments (mass, first, second) in a window around each
anchor. Mass and moments give the centre and size of the one shape in the window; the score is high where the anchor
is near that centre.

python -m demo.models FOLDER     writes FOLDER/v1/model.onnx and FOLDER/v2/model.onnx
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

POOL = 4  # pixels: masks are averaged over blocks of this size
STRIDE = 8  # pixels between anchors
LEAST_AREA = 100  # pixels of the input that a shape must cover
MOMENTS = 5  # mass, x, y, xx, yy
OPSET, IR_VERSION = 17, 8


@dataclass(frozen=True, slots=True)
class Shape:
    """A class: `colour` weighs R, G and B so that only this colour comes out far above 0; a shape is `spread` times as
    wide as the standard deviation of its pixels."""

    name: str
    colour: tuple[float, float, float]
    spread: float


RED_CIRCLE = Shape("red circle", (1, -0.5, -0.5), 4)
GREEN_SQUARE = Shape("green square", (-0.5, 1, -0.5), sqrt(12))
BLUE_DIAMOND = Shape("blue diamond", (-0.5, -0.5, 1), sqrt(24))


@dataclass(frozen=True, slots=True)
class Detector:
    """A model with a square input of `size` pixels.

    A shape must fit into a window of `window` pixels around its centre, with no other of its class reaching in.
    """

    size: int
    window: int
    shapes: tuple[Shape, ...]
    any_batch: bool

    @property
    def grid(self) -> int:
        """Anchors along each side."""
        return self.size // STRIDE


V1 = Detector(320, 64, (RED_CIRCLE,), any_batch=False)
V2 = Detector(448, 80, (RED_CIRCLE, GREEN_SQUARE, BLUE_DIAMOND), any_batch=True)
VERSIONS = {1: V1, 2: V2}
CLASS_NAMES = {version: tuple(shape.name for shape in detector.shapes) for version, detector in VERSIONS.items()}


@dataclass(slots=True)
class _Graph:
    """Nodes and constants in the order in which they are added."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def add(self, operator: str, *inputs: str | float | NDArray[np.generic], **attributes: object) -> str:
        """Add a node; numbers and arrays among its inputs become constants. Returns the name of its result."""
        result = f"value_{len(self.nodes)}"
        self._append(operator, inputs, [result], attributes)
        return result

    def split(self, value: str, axis: int, parts: int) -> list[str]:
        """Split a value into equal parts of one entry each."""
        results = [f"value_{len(self.nodes)}_{part}" for part in range(parts)]
        self._append("Split", (value, np.ones(parts, np.int64)), results, {"axis": axis})
        return results

    def _append(
        self, operator: str, inputs: tuple[object, ...], results: list[str], attributes: dict[str, object]
    ) -> None:
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(operator, names, results, f"{operator}_{len(self.nodes)}", **attributes))  # type: ignore[arg-type]

    def _constant(self, value: object) -> str:
        array = value if isinstance(value, np.ndarray) else np.array(value, np.float32)
        self.constants.append(numpy_helper.from_array(array, f"constant_{len(self.constants)}"))
        return self.constants[-1].name


def build(detector: Detector) -> ModelProto:
    """The detector: images float32 (batch, 3, size, size), RGB 0..1 → output0 float32 (batch, 4 + classes, anchors)."""
    graph = _Graph()
    moments = _moments(graph, _masks(graph, "images", detector), detector)
    boxes, scores = _read(graph, moments, detector)
    graph.nodes.append(helper.make_node("Concat", [boxes, scores], ["output0"], "output", axis=1))
    return _model(graph, detector)


def write(detector: Detector, path: Path) -> None:
    """Write the detector to `path`; the same bytes every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(build(detector).SerializeToString(deterministic=True))


def build_v1(path: Path) -> None:
    """Write version 1: red circles, 320x320, one frame at a time."""
    write(V1, path)


def build_v2(path: Path) -> None:
    """Write version 2: three shapes, 448x448, any number of frames at a time."""
    write(V2, path)


def _masks(graph: _Graph, images: str, detector: Detector) -> str:
    """(batch, classes, size / 4, size / 4): how much of each block has the class's colour, 0..1."""
    weights = np.array([shape.colour for shape in detector.shapes], np.float32)[:, :, None, None] * 2
    biases = np.full(len(detector.shapes), -0.2, np.float32)
    masks = graph.add("Clip", graph.add("Conv", images, weights, biases), 0.0, 1.0)
    return graph.add("AveragePool", masks, kernel_shape=[POOL, POOL], strides=[POOL, POOL])


def _moments(graph: _Graph, masks: str, detector: Detector) -> str:
    """(batch, classes, MOMENTS, anchors): moments of each class's mask in the window of each anchor, in pixels."""
    cells, classes = detector.window // POOL, len(detector.shapes)
    along = (np.arange(cells) - cells / 2 + 0.5) * POOL  # pixels from the anchor to the middle of each block
    y, x = np.meshgrid(along, along, indexing="ij")
    kernels = np.stack([np.ones_like(x), x, y, x * x, y * y]) * POOL**2
    weights = np.tile(kernels[:, None], (classes, 1, 1, 1)).astype(np.float32)
    step = STRIDE // POOL
    pad = (cells - step) // 2  # puts the window's middle on the anchor
    moments = graph.add("Conv", masks, weights, group=classes, strides=[step, step], pads=[pad] * 4)
    return graph.add("Reshape", moments, np.array([0, classes, MOMENTS, detector.grid**2], np.int64))


def _read(graph: _Graph, moments: str, detector: Detector) -> tuple[str, str]:
    """Boxes (batch, 4, anchors) and scores (batch, classes, anchors); each class has anchors of its own."""
    mass, *sums = graph.split(moments, axis=2, parts=MOMENTS)
    x, y, xx, yy = (graph.add("Div", total, graph.add("Add", mass, 1e-3)) for total in sums)
    spread = np.array([shape.spread for shape in detector.shapes], np.float32)[:, None, None]
    middles = (np.arange(detector.grid, dtype=np.float32) + 0.5) * STRIDE
    box = [
        graph.add("Add", x, np.tile(middles, detector.grid)),
        graph.add("Add", y, np.repeat(middles, detector.grid)),
        _extent(graph, x, xx, spread),
        _extent(graph, y, yy, spread),
    ]
    boxes = _by_row(graph, graph.add("Concat", *box, axis=2), 4)
    own = np.eye(len(detector.shapes), dtype=np.float32)[:, None, :, None].transpose(1, 0, 2, 3)
    scores = graph.add("Transpose", _score(graph, mass, x, y), perm=[0, 2, 1, 3])
    shape = np.array([0, len(detector.shapes), -1], np.int64)
    return boxes, graph.add("Reshape", graph.add("Mul", scores, own), shape)


def _extent(graph: _Graph, mean: str, mean_of_squares: str, spread: NDArray[np.float32]) -> str:
    """Width (or height) from the variance; a block of pixels has a variance of its own."""
    variance = graph.add("Sub", mean_of_squares, graph.add("Mul", mean, mean))
    return graph.add("Mul", graph.add("Sqrt", graph.add("Max", graph.add("Add", variance, POOL**2 / 12), 0.01)), spread)


def _score(graph: _Graph, mass: str, x: str, y: str) -> str:
    """Near 1 where there is enough of the shape and its centre is nearer to this anchor than to most others."""
    enough = graph.add("Sigmoid", graph.add("Mul", graph.add("Sub", mass, float(LEAST_AREA)), 1 / 15))
    distance = graph.add("Max", graph.add("Abs", x), graph.add("Abs", y))
    near = graph.add("Sigmoid", graph.add("Mul", graph.add("Sub", 0.85 * STRIDE, distance), 12 / STRIDE))
    return graph.add("Mul", enough, near)


def _by_row(graph: _Graph, value: str, rows: int) -> str:
    """(batch, classes, rows, anchors) → (batch, rows, classes x anchors)."""
    return graph.add("Reshape", graph.add("Transpose", value, perm=[0, 2, 1, 3]), np.array([0, rows, -1], np.int64))


def _model(graph: _Graph, detector: Detector) -> ModelProto:
    batch, size, classes = "batch" if detector.any_batch else 1, detector.size, len(detector.shapes)
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])
    output = [batch, 4 + classes, classes * detector.grid**2]
    outputs = [helper.make_tensor_value_info("output0", TensorProto.FLOAT, output)]
    body = helper.make_graph(graph.nodes, "shapes", [images], outputs, graph.constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, _metadata(detector))
    checker.check_model(model, full_check=True)
    return model


def _metadata(detector: Detector) -> dict[str, str]:
    """What Ultralytics writes into its exports, as it writes it."""
    return {
        "description": f"videoai demo detector of {len(detector.shapes)} coloured shapes",
        "task": "detect",
        "stride": str(STRIDE),
        "batch": "1",
        "imgsz": str([detector.size, detector.size]),
        "names": str({index: shape.name for index, shape in enumerate(detector.shapes)}),
    }


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Write the demo detectors to FOLDER/v1/model.onnx and FOLDER/v2/model.onnx."""
    for version, detector in VERSIONS.items():
        path = folder / f"v{version}" / "model.onnx"
        write(detector, path)
        click.echo(path)


if __name__ == "__main__":
    main()
