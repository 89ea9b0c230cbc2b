"""YOLOX: one output (batch, anchors, 5 + classes), then the objectness and a score for each class, all in 0..1.

`yolox`: the box is where its centre lies from its cell, in cells, and the logarithms of width and height in cells; this
is what YOLOX exports unless told otherwise. `yolox-decoded` (`--decode_in_inference`): centre x, centre y, width and
height in input pixels. The outputs of both look the same, so the graph tells: only one that decodes takes exponents.

The picture lies in the top left corner; its bytes go in as they are, blue first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from inference_server.detection.description import Description
from inference_server.detection.detector import Detector
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Layout, Resize
from inference_server.detection.heads import STRIDES, Candidates, anchors_of
from inference_server.detection.objectness import ObjectRows, object_rows, suppressed
from inference_server.detection.pixels import Colors, Pixels
from inference_server.detection.results import Options
from inference_server.errors import ModelRefused

NAME, NAME_DECODED = "yolox", "yolox-decoded"
OUTPUT = "output"
PIXELS = Pixels(Colors.BGR, scale=1.0)
DEFAULTS = Options(iou_threshold=0.45)
# The exponent of no size that a picture has, and far from overflowing.
LARGEST = np.float32(20)


@dataclass(frozen=True, slots=True)
class GridRows:
    """Rows whose boxes are relative to their cells: `cells` (anchors, 2) are x and y in cells, `strides` (anchors, 1)
    the cells' sides in pixels."""

    rows: ObjectRows
    cells: NDArray[np.float32] = field(repr=False, compare=False)
    strides: NDArray[np.float32] = field(repr=False, compare=False)

    def check(self, outputs: Outputs) -> None:
        self.rows.check(outputs)

    def detect(self, outputs: Outputs, options: Options) -> Candidates:
        found, anchors = self.rows.columns(outputs, options)
        centres = (found.boxes[:, :2] + self.cells[anchors]) * self.strides[anchors]
        sizes = np.exp(np.minimum(found.boxes[:, 2:], LARGEST)) * self.strides[anchors]
        return suppressed(replace(found, boxes=np.concatenate((centres, sizes), axis=1)), options)


def grid_rows(rows: ObjectRows, layout: Layout) -> GridRows:
    """The cells of each stride in turn, line by line."""
    cells, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[0 : layout.height // stride, 0 : layout.width // stride]
        cells.append(np.stack((x.ravel(), y.ravel()), axis=1).astype(np.float32))
        strides.append(np.full((x.size, 1), stride, np.float32))
    return GridRows(rows, np.concatenate(cells), np.concatenate(strides))


def build(name: str, description: Description) -> Detector:
    """A model with one output of one anchor for each cell."""
    decoded = name == NAME_DECODED
    picture = description.picture_input(resize=Resize.TOP_LEFT, pixels=PIXELS)
    output = description.output()
    if not description.declared:
        _require_evidence(output.name, description.signature.operators, decoded=decoded)
    anchors = () if decoded and description.declared else (anchors_of(picture.layout),)
    rows, names = object_rows(description, output, anchors)
    return Detector(name, picture, rows if decoded else grid_rows(rows, picture.layout), names, DEFAULTS)


def _require_evidence(output: str, operators: frozenset[str], *, decoded: bool) -> None:
    """Raise ModelRefused where the shape may as well be that of another model."""
    if output != OUTPUT:
        raise ModelRefused(f"expected an output called {OUTPUT}, found {output}")
    if "Softmax" in operators:
        raise ModelRefused("expected a graph without Softmax")
    if decoded != ("Exp" in operators):
        raise ModelRefused(f"expected a graph {'with' if decoded else 'without'} Exp")


KIND = FamilyKind(NAME, "detect", partial(build, NAME))
KIND_DECODED = FamilyKind(NAME_DECODED, "detect", partial(build, NAME_DECODED))
