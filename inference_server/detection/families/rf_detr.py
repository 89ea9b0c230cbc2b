"""RF-DETR as Roboflow's package exports it. Pictures are stretched, nothing is suppressed.

`rf-detr`: outputs `dets` (batch, queries, 4): centre x, centre y, width and height in parts of the input; `labels`
(batch, queries, slots): for each class slot the logit of a score of its own. The best pairs of a query and a slot are
taken.

`rf-detr-segment`: the same and `masks` (batch, queries, height / 4, width / 4), above 0 where the object is.

A slot is a class id. The published COCO models have 91, numbered as COCO numbers its categories, with gaps; those that
were trained further have one for each class and a last one that stands for no object, which is left out where the
names of the classes are known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.detection.description import Description
from inference_server.detection.detector import Detector, best_first, in_pixels
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Layout, Placement, Resize
from inference_server.detection.heads import BOX, Candidates, near, numbered_classes
from inference_server.detection.masks import CELL, run_lengths
from inference_server.detection.metadata import MAX_CLASSES, MAX_LENGTH
from inference_server.detection.pixels import PictureInput, Pixels
from inference_server.detection.results import DEFAULTS, Detections, Options, chosen_classes
from inference_server.detection.signature import TensorSpec
from inference_server.errors import ModelRefused

NAME, NAME_SEGMENT = "rf-detr", "rf-detr-segment"
INPUT, BOXES, LABELS, MASKS = "input", "dets", "labels", "masks"
METADATA = "rfdetr_inference"
# ImageNet's, which its backbone was trained with.
PIXELS = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# Beyond it a score is 0 or 1 in single precision, and its exponential is still a number.
CERTAIN = np.float32(88)


@dataclass(frozen=True, slots=True)
class QuerySlots:
    """Boxes and logits for each query; `classes` slots count, all of them where it is 0.

    The extra of each object is the number of the query that it comes from.
    """

    layout: Layout
    classes: int

    def check(self, outputs: Outputs) -> None:
        boxes, logits = outputs[BOXES], outputs[LABELS]
        if boxes.ndim != 2 or boxes.shape[1] != BOX or logits.ndim != 2 or len(logits) != len(boxes):
            raise ModelRefused(
                f"outputs {BOXES} and {LABELS}: expected (queries, {BOX}) and (queries, slots) for each frame, got"
                f" {boxes.shape} and {logits.shape}"
            )
        _check_slots(self.classes, logits.shape[1])

    def detect(self, outputs: Outputs, options: Options) -> Candidates:
        """As the original: the best pairs, as many as there are queries, and of them what is asked for."""
        logits = outputs[LABELS].astype(np.float32, copy=False)
        logits = logits[:, : self.classes or None]
        scores = _sigmoid(logits).ravel()
        # In the order of their numbers, so that of equal scores the lower query, then the lower slot comes first.
        pairs = np.flatnonzero(scores > options.confidence_threshold)
        queries, class_ids = np.divmod(pairs, logits.shape[1])
        boxes = outputs[BOXES].astype(np.float32, copy=False)[queries]
        numbers = queries[:, None].astype(np.float32)
        found = best_first(Candidates(boxes, scores[pairs], class_ids, numbers), len(logits))
        wanted = chosen_classes(found.class_ids, options) & np.isfinite(found.boxes).all(axis=1)
        found = found.take(np.flatnonzero(wanted)[: options.max_detections])
        return in_pixels(Candidates(near(found.boxes), found.scores, found.class_ids, found.extras), self.layout)


@dataclass(frozen=True, slots=True)
class RfDetrSegment:
    """A detector whose queries have masks: each a picture of the whole input, brought to the source's size."""

    picture: PictureInput
    head: QuerySlots
    class_names: tuple[str, ...]
    defaults: Options = DEFAULTS
    name: str = NAME_SEGMENT

    def check(self, outputs: Outputs) -> None:
        self.head.check(outputs)
        layout, shape = self.picture.layout, outputs[MASKS].shape
        expected = len(outputs[BOXES]), layout.height // CELL, layout.width // CELL
        if shape != expected:
            raise ModelRefused(f"output {MASKS}: expected {expected} for each frame, got {shape}")

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Detections:
        found = self.head.detect(outputs, options)
        masks = outputs[MASKS][found.extras[:, 0].astype(np.intp)].astype(np.float32, copy=False)
        masks = near(np.nan_to_num(masks))
        # Each mask is a prototype that nobody shares.
        runs = run_lengths(np.eye(len(masks), dtype=np.float32), masks, placement.to_source(_around(masks)), placement)
        return Detections(placement.to_source(found.boxes), found.scores, found.class_ids, masks=tuple(runs))


def _around(masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4): the boxes in input pixels outside of which masks, enlarged, cannot be above 0: one cell more than is."""
    inside = masks > 0
    (left, right), (top, bottom) = _extent(np.any(inside, axis=1)), _extent(np.any(inside, axis=2))
    return np.stack([left, top, right, bottom], axis=1).astype(np.float32) * CELL


def _extent(seen: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """One before the first of each row that is true, and one after the last."""
    return seen.argmax(axis=1) - 1, seen.shape[1] - seen[:, ::-1].argmax(axis=1) + 1


def build(description: Description) -> Detector:
    """A model with the inputs and outputs that these names stand for."""
    return Detector(NAME, *_read_model(description, BOXES, LABELS))


def build_segment(description: Description) -> RfDetrSegment:
    """As `build`, with masks."""
    picture, head, names = _read_model(description, BOXES, LABELS, MASKS)
    masks = description.output(MASKS)
    if not masks.fits(None, None, picture.layout.height // CELL, picture.layout.width // CELL):
        raise ModelRefused(f"output {masks}: expected (batch, queries, height / {CELL}, width / {CELL})")
    return RfDetrSegment(picture, head, names)


def _read_model(description: Description, *expected: str) -> tuple[PictureInput, QuerySlots, tuple[str, ...]]:
    """The picture, the head and the names of the classes of a model with these outputs. Raises ModelRefused."""
    outputs = {output.name: output for output in description.signature.outputs}
    if set(outputs) != set(expected):
        raise ModelRefused(f"expected outputs {', '.join(expected)}")
    if not outputs[BOXES].fits(None, None, BOX) or not outputs[LABELS].fits(None, None, None):
        raise ModelRefused(
            f"expected outputs (batch, queries, {BOX}) and (batch, queries, slots), found {outputs[BOXES]} and"
            f" {outputs[LABELS]}"
        )
    said = _metadata(description)
    pixels = Pixels(mean=said.get("means", PIXELS.mean), std=said.get("stds", PIXELS.std))
    picture = description.picture_input(None if description.declared else INPUT, resize=Resize.STRETCH, pixels=pixels)
    names = description.class_names() or said.get("names", ())
    slots = _slots(outputs[LABELS])
    if slots is not None:
        _check_slots(len(names), slots)
    return picture, QuerySlots(picture.layout, len(names)), names or numbered_classes(slots or 0)


def _sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    one = np.float32(1)
    result: NDArray[np.float32] = one / (one + np.exp(-np.clip(values, -CERTAIN, CERTAIN)))
    return result


def _slots(labels: TensorSpec) -> int | None:
    return None if labels.shape is None else labels.shape[2]


def _check_slots(names: int, slots: int) -> None:
    """Raise ModelRefused where there is neither a name for every slot nor for all but the last."""
    if names not in (0, slots, slots - 1) or not slots:
        raise ModelRefused(
            f"output {LABELS}: expected {names} or {names + 1} class slots, as {names} class names say, found {slots}"
        )


def _metadata(description: Description) -> dict[str, Any]:
    """The names, means and stds that newer exports carry, each where it is there. Raises ModelRefused."""
    text = description.signature.metadata.get(METADATA)
    if text is None:
        return {}
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError(len(text))  # noqa: TRY301 - one answer for all that is wrong with it
        return _read(json.loads(text))
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ModelRefused(
            f"the file's metadata key {METADATA!r}: expected an object with class_id_to_name, means and stds, got"
            f" {text[:100]}"
        ) from None


def _read(value: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for key in ("means", "stds"):
        if value.get(key) is not None:
            numbers = tuple(float(number) for number in value[key])
            if len(numbers) != 3 or not np.isfinite(numbers).all() or (key == "stds" and min(numbers) <= 0):
                raise ValueError(key)
            said[key] = numbers
    names = value.get("class_id_to_name")
    if names:
        by_id = {int(class_id): name for class_id, name in names.items()}
        if not 0 <= min(by_id) <= max(by_id) < MAX_CLASSES or not all(isinstance(name, str) for name in names.values()):
            raise ValueError(names)
        said["names"] = tuple(by_id.get(index, f"class{index}") for index in range(max(by_id) + 1))
    return said


KIND = FamilyKind(NAME, "detect", build)
KIND_SEGMENT = FamilyKind(NAME_SEGMENT, "segment", build_segment)
