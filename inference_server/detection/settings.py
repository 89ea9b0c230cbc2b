"""What a registry entry says about its model where the file does not: the section `videoai` of its attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from inference_server.detection.geometry import Resize
from inference_server.detection.metadata import MAX_CLASSES, MAX_KEYPOINTS, MAX_SIDE
from inference_server.detection.pixels import Colors
from inference_server.detection.results import MAX_DETECTIONS
from inference_server.errors import ModelRefused

SECTION = "metadata.attributes.videoai"
TASKS = ("detect", "segment", "pose", "obb", "classify")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Settings:
    """One field for each key of the section; None where the entry leaves it to the file and the family.

    `family` and `task` say what the output means, `class_names` and `keypoint_shape` (points, 2 or 3 numbers each) what
    is in it. The input: `input_size` (height, width) in pixels, `resize`, `fill` 0..255, `color_order`; each value is
    (byte * `scale` - `mean`) / `std`, mean and std one for each channel in the model's order. The thresholds and
    `max_detections` are those of requests that name none.
    """

    family: str | None = None
    task: str | None = None
    class_names: tuple[str, ...] | None = None
    keypoint_shape: tuple[int, int] | None = None
    input_size: tuple[int, int] | None = None
    resize: Resize | None = None
    fill: int | None = None
    color_order: Colors | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    confidence_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None

    @property
    def of_pictures(self) -> bool:
        """Whether anything is set that only a model which takes pictures can have."""
        about = (self.input_size, self.resize, self.fill, self.color_order, self.scale, self.mean, self.std)
        return any(value is not None for value in about)

    @property
    def options(self) -> dict[str, Any]:
        """What is set of the fields of `Options`."""
        values = {
            "confidence_threshold": self.confidence_threshold,
            "iou_threshold": self.iou_threshold,
            "max_detections": self.max_detections,
        }
        return {key: value for key, value in values.items() if value is not None}


NOTHING_SAID = Settings()


def read_settings(attributes: Mapping[str, Any]) -> Settings:
    """The settings among a registry entry's attributes. Raises ModelRefused, naming the key and what was expected."""
    section = attributes.get("videoai", {})
    if not isinstance(section, Mapping):
        raise ModelRefused(f"{SECTION}: expected an object, got {section!r}")
    unknown = sorted(set(section) - set(_READERS))
    if unknown:
        raise ModelRefused(f"{SECTION}.{unknown[0]}: no such key; known: {', '.join(_READERS)}")
    return Settings(**{key: _read(key, value) for key, value in section.items()})


def _read(key: str, value: Any) -> Any:
    reader, expected = _READERS[key]
    try:
        return reader(value)
    except (ValueError, TypeError, OverflowError):
        raise ModelRefused(f"{SECTION}.{key}: expected {expected}, got {repr(value)[:100]}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return value


def _one_of(*known: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in known:
            raise ValueError(value)
        return _text(value)

    return read


def _number(least: float, most: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError(value)
        return float(value)

    return read


def _whole(least: int, most: int) -> Callable[[Any], int]:
    """Whole numbers, which may come as 640.0: the attributes know no other kind."""
    number = _number(least, most)

    def read(value: Any) -> int:
        if not number(value).is_integer():
            raise ValueError(value)
        return int(value)

    return read


def _list(item: Callable[[Any], Value], least: int, most: int) -> Callable[[Any], tuple[Value, ...]]:
    def read(value: Any) -> tuple[Value, ...]:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            raise ValueError(value)
        return tuple(item(part) for part in value)

    return read


def _keypoint_shape(value: Any) -> tuple[int, int]:
    points, numbers = _list(_whole(1, MAX_KEYPOINTS), 2, 2)(value)
    if numbers not in (2, 3):
        raise ValueError(value)
    return points, numbers


_FINITE = _number(-1e6, 1e6)
_POSITIVE = _number(1e-9, 1e6)

# How each key is read, and what it says was expected. Reading raises ValueError or TypeError for anything else.
_READERS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "family": (_text, "the name of a family"),
    "task": (_one_of(*TASKS), f"one of {', '.join(TASKS)}"),
    "class_names": (_list(_text, 1, MAX_CLASSES), f"a list of 1..{MAX_CLASSES} names"),
    "keypoint_shape": (_keypoint_shape, f"[1..{MAX_KEYPOINTS}, 2 or 3]"),
    "input_size": (_list(_whole(1, MAX_SIDE), 2, 2), f"[height, width] of 1..{MAX_SIDE} pixels"),
    "resize": (Resize, f"one of {', '.join(kind.value for kind in Resize)}"),
    "fill": (_whole(0, 255), "a whole number of 0..255"),
    "color_order": (Colors, f"one of {', '.join(order.value for order in Colors)}"),
    "scale": (_POSITIVE, "a number above 0"),
    "mean": (_list(_FINITE, 1, 3), "a list of one number for each channel"),
    "std": (_list(_POSITIVE, 1, 3), "a list of one number above 0 for each channel"),
    "confidence_threshold": (_number(0, 1), "0..1"),
    "iou_threshold": (_number(0, 1), "0..1"),
    "max_detections": (_whole(1, MAX_DETECTIONS), f"1..{MAX_DETECTIONS}"),
}
