"""Classification models of Ultralytics: one output (batch, classes), the probability of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference_server.detection.description import Description
from inference_server.detection.family import FamilyKind, Outputs
from inference_server.detection.geometry import Placement, Resize
from inference_server.detection.heads import numbered_classes
from inference_server.detection.pixels import PictureInput
from inference_server.detection.results import Classes, Options, chosen_classes
from inference_server.errors import ModelRefused

NAME = "yolo-classify"
LIKELIEST = Options(confidence_threshold=0, max_detections=5)
# How far the probabilities of half precision may be from adding up to 1.
ROUNDING = 0.05


@dataclass(frozen=True, slots=True)
class YoloClassify:
    """A model that says what the picture as a whole shows: unless asked otherwise, the five likeliest classes."""

    picture: PictureInput
    output_name: str
    class_names: tuple[str, ...]
    defaults: Options = LIKELIEST
    name: str = NAME

    def check(self, outputs: Outputs) -> None:
        scores = outputs[self.output_name]
        if scores.shape != (len(self.class_names),):
            raise ModelRefused(
                f"output {self.output_name}: expected ({len(self.class_names)},) for each frame, got {scores.shape}"
            )
        in_range = scores.min() >= -ROUNDING and scores.max() <= 1 + ROUNDING
        if not in_range or abs(float(scores.sum(dtype=np.float64)) - 1) > ROUNDING:
            raise ModelRefused(
                f"output {self.output_name}: expected probabilities, which add up to 1, got numbers of"
                f" {scores.min():.4g}..{scores.max():.4g}; some exporters (Ultralytics 8.3.40 among them) leave the"
                " softmax out of the graph, newer ones do not"
            )

    def decode(self, outputs: Outputs, placement: Placement, options: Options) -> Classes:
        scores = outputs[self.output_name].astype(np.float32, copy=False)
        class_ids = np.flatnonzero((scores > options.confidence_threshold) & np.isfinite(scores))
        class_ids = class_ids[chosen_classes(class_ids, options)]
        best = class_ids[np.argsort(-scores[class_ids], kind="stable")[: options.max_detections]]
        return Classes(scores[best], best)


def build(description: Description) -> YoloClassify:
    """A model with one output of two dimensions; its classes are those of the file, or numbered."""
    if not description.tasked:
        raise ModelRefused("the file has no metadata key 'task', expected 'classify'")
    output = description.output()
    names = description.class_names()
    if not output.fits(None, None if names is None else len(names)):
        classes = "classes" if names is None else len(names)
        raise ModelRefused(f"output {output}: expected float32 or float16 (batch, {classes})")
    if names is None:
        _, count = output.shape or (None, None)
        if count is None:
            raise ModelRefused(f"output {output}: the file has no metadata key 'names', and the output has no size")
        names = numbered_classes(count)
    return YoloClassify(_picture(description), output.name, names)


def _picture(description: Description) -> PictureInput:
    """Ultralytics crops to a square; it stretches a picture where the input is none."""
    picture = description.picture_input(resize=Resize.CENTER_CROP)
    if picture.layout.width == picture.layout.height:
        return picture
    return description.picture_input(resize=Resize.STRETCH)


KIND = FamilyKind(NAME, "classify", build)
