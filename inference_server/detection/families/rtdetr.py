"""RT-DETR as Ultralytics exports it. Pictures are stretched, nothing is suppressed.

One output, its boxes centre x, centre y, width and height in parts of the input. Today (batch, objects, 6): a box, its
score and its class, objects in order. Up to version 8.4.0 (batch, queries, 4 + classes): a box and a score in 0..1 for
each class.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.detection.description import Description
from inference_server.detection.detector import Detector, best_first, in_pixels
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Layout, Resize
from inference_server.detection.heads import (
    BOX,
    AnchorRows,
    BoxHead,
    Candidates,
    check_scores,
    numbered_classes,
    three_dimensions,
)
from inference_server.detection.metadata import MAX_CLASSES, of_rtdetr
from inference_server.detection.results import Options
from inference_server.detection.selected import EXTRAS, SelectedRows
from inference_server.detection.signature import TensorSpec
from inference_server.errors import ModelRefused

NAME = "rtdetr"


@dataclass(frozen=True, slots=True)
class Objects:
    """(objects, 6) for each frame."""

    rows: SelectedRows
    layout: Layout

    def check(self, outputs: Outputs) -> None:
        self.rows.check(outputs)

    def detect(self, outputs: Outputs, options: Options) -> Candidates:
        return in_pixels(self.rows.columns(outputs, options), self.layout)


@dataclass(frozen=True, slots=True)
class Queries:
    """(queries, 4 + classes) for each frame, of which `rows` sees rows and columns swapped."""

    rows: AnchorRows
    layout: Layout

    def check(self, outputs: Outputs) -> None:
        name = self.rows.output_name
        queries = outputs[name]
        if queries.ndim != 2 or queries.shape[1] != self.rows.count:
            raise ModelRefused(
                f"output {name}: expected (queries, {self.rows.count}) for each frame, got {queries.shape}"
            )
        check_scores(name, queries[:, BOX:])

    def detect(self, outputs: Outputs, options: Options) -> Candidates:
        name = self.rows.output_name
        found = self.rows.columns({name: outputs[name].T}, options)
        return in_pixels(best_first(found, options.max_detections), self.layout)


def build(description: Description) -> Detector:
    """A model whose metadata says that it is an RT-DETR, or that is declared to be one."""
    picture = description.picture_input(resize=Resize.STRETCH)
    output = description.output()
    if not description.declared and not of_rtdetr(description.signature.metadata):
        raise ModelRefused("expected metadata ('head' or 'description') that says that it is an RT-DETR")
    head, names = _read_head(description, output, picture.layout)
    return Detector(NAME, picture, head, names)


def _read_head(description: Description, output: TensorSpec, layout: Layout) -> tuple[BoxHead, tuple[str, ...]]:
    _, _, columns = three_dimensions(output)
    names = description.class_names()
    if columns == EXTRAS and (len(names or ()) != EXTRAS - BOX or "head" in description.signature.metadata):
        return Objects(SelectedRows(output.name, len(names or ()) or MAX_CLASSES), layout), names or ()
    if names is None and columns is not None:
        names = numbered_classes(columns - BOX)
    if not names or columns not in (BOX + len(names), None):
        many = f"{BOX} + {len(names)} classes" if names else f"{BOX} + classes"
        raise ModelRefused(f"output {output}: expected (batch, objects, {EXTRAS}) or (batch, queries, {many})")
    return Queries(AnchorRows(output.name, len(names)), layout), names


KIND = FamilyKind(NAME, "detect", build)
