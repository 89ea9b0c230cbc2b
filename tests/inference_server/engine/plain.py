"""What models of Ultralytics find, read the straightforward way: one anchor, object and pair at a time.

Written from what the formats mean and from nothing of the server's, as dictionaries: class_id, score, box, and what
the task adds: points, mask, oriented.
"""

from __future__ import annotations

from math import atan2, ceil, cos, exp, gcd, hypot, isfinite, log, pi, sin, sqrt
from typing import Any

import numpy as np

PROTOTYPE = 4  # input pixels for each cell
EPSILON = 1e-7


def letterbox(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a picture (width, height) lies in an input (width, height): left, top, width, height."""
    scale = min(size[0] / source[0], size[1] / source[1])
    width, height = max(1, round(source[0] * scale)), max(1, round(source[1] * scale))
    return round((size[0] - width) / 2 - 0.1), round((size[1] - height) / 2 - 0.1), width, height


def find(
    task: str, outputs: list[Any], source: tuple[int, int], *, classes: int, end2end: bool, options: Any, **more: Any
) -> list[dict[str, Any]]:
    """The objects in one picture's outputs, best first. `more` is `size` of the input, and `keypoints` of a pose."""
    size = more.get("size", (64, 64))
    found = rows_of(outputs[0], classes, options) if not end2end else selected_of(outputs[0], options)
    found.sort(key=lambda one: -one["score"])
    if end2end:
        for one in found:
            one["corners"] = one["numbers"]
    else:
        clash = near if task == "obb" else overlapping
        found = suppress(found, clash, options.iou_threshold, kept_only=task != "obb")
    found = found[: options.max_detections]
    way = Way(source, size)
    for one in found:
        if task == "obb":
            one["oriented"] = way.turned([*one["numbers"], *one["extras"]])
            one["box"] = way.clipped(around(one["oriented"]))
        else:
            one["box"] = way.clipped(way.back(one["corners"]))
        if task == "pose":
            one["points"] = points_of(one["extras"], more["keypoints"], way)
        if task == "segment":
            one["mask"] = mask_of(one, outputs[1], way)
    return [one for one in found if task != "segment" or one["mask"].any()]


def rows_of(output: Any, classes: int, options: Any) -> list[dict[str, Any]]:
    found = []
    for row in output.astype(float).T.tolist():
        scores = row[4 : 4 + classes]
        class_id = scores.index(max(scores))
        if scores[class_id] > options.confidence_threshold and wanted(class_id, options) and all(map(isfinite, row)):
            x, y, width, height = row[:4]
            box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            found.append(
                {"class_id": class_id, "score": scores[class_id], "numbers": row[:4], "corners": box}
                | {"extras": row[4 + classes :]}
            )
    return found


def selected_of(output: Any, options: Any) -> list[dict[str, Any]]:
    return [
        {"class_id": int(row[5]), "score": row[4], "numbers": row[:4], "extras": row[6:]}
        for row in output.astype(float).tolist()
        if row[4] > options.confidence_threshold and wanted(int(row[5]), options)
    ]


def wanted(class_id: int, options: Any) -> bool:
    return options.class_ids is None or class_id in options.class_ids


def suppress(found: list[dict[str, Any]], clash: Any, threshold: float, *, kept_only: bool) -> list[dict[str, Any]]:
    """Drop what clashes with a better one of its class: one that is kept, or any."""
    kept: list[dict[str, Any]] = []
    for index, one in enumerate(found):
        better = kept if kept_only else found[:index]
        if all(one["class_id"] != other["class_id"] or clash(one, other) <= threshold for other in better):
            kept.append(one)
    return kept


def overlapping(one: dict[str, Any], other: dict[str, Any]) -> float:
    a, b = one["corners"], other["corners"]
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared) if shared else 0.0


def near(one: dict[str, Any], other: dict[str, Any]) -> float:
    """How alike the normal distributions of two turned boxes are, 0..1."""
    (x1, y1, a1, b1, c1), (x2, y2, a2, b2, c2) = (spread(box) for box in (one, other))
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    area = a * b - c * c
    first = (a * (y1 - y2) ** 2 + b * (x1 - x2) ** 2) / (area + EPSILON) / 4
    second = c * (x2 - x1) * (y1 - y2) / (area + EPSILON) / 2
    own = sqrt(max(a1 * b1 - c1 * c1, 0) * max(a2 * b2 - c2 * c2, 0))
    third = log(area / (4 * own + EPSILON) + EPSILON) / 2
    distance = min(max(first + second + third, EPSILON), 100)
    return 1 - sqrt(1 - exp(-distance) + EPSILON)


def spread(one: dict[str, Any]) -> tuple[float, float, float, float, float]:
    (x, y, width, height), angle = one["numbers"], one["extras"][0]
    a, b = width**2 / 12, height**2 / 12
    c, s = cos(angle), sin(angle)
    return x, y, a * c * c + b * s * s, a * s * s + b * c * c, (a - b) * c * s


def points_of(numbers: list[float], shape: tuple[int, int], way: Way) -> list[list[float]]:
    points = []
    for start in range(0, shape[0] * shape[1], shape[1]):
        x, y, *seen = numbers[start : start + shape[1]]
        points.append([*way.clipped(way.back([x, y])), *(seen or [1.0])])
    return points


def around(turned: list[float]) -> list[float]:
    x, y, width, height, angle = turned
    xs, ys = [], []
    for along, beside in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        xs.append(x + along * width / 2 * cos(angle) - beside * height / 2 * sin(angle))
        ys.append(y + along * width / 2 * sin(angle) + beside * height / 2 * cos(angle))
    return [min(xs), min(ys), max(xs), max(ys)]


def mask_of(one: dict[str, Any], prototypes: Any, way: Way) -> Any:
    """(height, width) of the source: whole pictures of numbers, enlarged, cut and scaled, then cropped to the box."""
    cells = np.tensordot(np.array(one["extras"]), prototypes.astype(float), 1)
    enlarge = PROTOTYPE // gcd(PROTOTYPE, way.left, way.top, way.width, way.height)
    left, top, width, height = (value * enlarge // PROTOTYPE for value in (way.left, way.top, way.width, way.height))
    enlarged = resized(cells, cells.shape[0] * enlarge, cells.shape[1] * enlarge)
    rows = np.clip(np.arange(top, top + height), 0, enlarged.shape[0] - 1)
    columns = np.clip(np.arange(left, left + width), 0, enlarged.shape[1] - 1)
    mask = resized(enlarged[np.ix_(rows, columns)], way.source[1], way.source[0]) > 0
    x_min, y_min, x_max, y_max = map(ceil, np.array(one["box"], np.float32).tolist())
    inside = np.zeros_like(mask)
    inside[y_min:y_max, x_min:x_max] = True
    return mask & inside


def resized(picture: Any, height: int, width: int) -> Any:
    """Bilinear between the middles of pixels."""
    y, x = (
        np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
        for target, source in ((height, picture.shape[0]), (width, picture.shape[1]))
    )
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    y1, x1 = np.minimum(y0 + 1, picture.shape[0] - 1), np.minimum(x0 + 1, picture.shape[1] - 1)
    fy, fx = (y - y0)[:, None], (x - x0)[None]
    upper = picture[np.ix_(y0, x0)] * (1 - fx) + picture[np.ix_(y0, x1)] * fx
    lower = picture[np.ix_(y1, x0)] * (1 - fx) + picture[np.ix_(y1, x1)] * fx
    return upper * (1 - fy) + lower * fy


class Way:
    """From an input's pixels back to those of the source."""

    def __init__(self, source: tuple[int, int], size: tuple[int, int]) -> None:
        self.source = source
        self.left, self.top, self.width, self.height = letterbox(source, size)
        self.scales = source[0] / self.width, source[1] / self.height

    def back(self, numbers: list[float]) -> list[float]:
        shifts = self.left, self.top
        return [(value - shifts[index % 2]) * self.scales[index % 2] for index, value in enumerate(numbers)]

    def clipped(self, numbers: list[float]) -> list[float]:
        return [min(max(value, 0), self.source[index % 2]) for index, value in enumerate(numbers)]

    def turned(self, numbers: list[float]) -> list[float]:
        """A turned box by its two axes, its angle in -pi/4..3*pi/4."""
        x, y, width, height, angle = numbers
        along = cos(angle) * self.scales[0], sin(angle) * self.scales[1]
        beside = -sin(angle) * self.scales[0], cos(angle) * self.scales[1]
        angle = atan2(along[1], along[0])
        while angle < -pi / 4:
            angle += pi
        while angle >= 3 * pi / 4:
            angle -= pi
        return [*self.back([x, y]), width * hypot(*along), height * hypot(*beside), angle]


def same(found: Any, expected: list[dict[str, Any]], *, pixels: float = 1.0, scores: float = 1e-3) -> None:
    """Raise AssertionError unless the server found the same objects: all of them, best first."""
    assert len(found) == len(expected)
    assert np.all(np.diff(found.scores) <= 0)
    assert (found.boxes.dtype, found.scores.dtype, found.class_ids.dtype) == (np.float32, np.float32, np.int64)
    left = list(range(len(found)))
    for one in expected:  # the order is free where scores are the same but for rounding
        alike = [index for index in left if abs(found.scores[index] - one["score"]) <= scores]
        alike = [index for index in alike if found.class_ids[index] == one["class_id"]]
        assert alike, f"{one} is not found"
        index = min(alike, key=lambda index: np.abs(found.boxes[index] - one["box"]).max())
        close(found.boxes[index], one["box"], pixels)
        same_extras(found, index, one, pixels, scores)
        left.remove(index)


def same_extras(found: Any, index: int, one: dict[str, Any], pixels: float, scores: float) -> None:
    if "points" in one:
        close(found.keypoints[index, :, :2], [point[:2] for point in one["points"]], pixels)
        close(found.keypoints[index, :, 2], [point[2] for point in one["points"]], scores)
    if "oriented" in one:
        close(found.oriented_boxes[index, :4], one["oriented"][:4], pixels)
        apart = abs(float(found.oriented_boxes[index, 4]) - one["oriented"][4])
        assert min(apart, pi - apart) < 1e-3
        assert -pi / 4 - 1e-6 <= found.oriented_boxes[index, 4] <= 3 * pi / 4 + 1e-6
    if "mask" in one:
        different = (pixels_of(found.masks[index], one["mask"].shape) ^ one["mask"]).sum()
        assert different <= max(2, 0.002 * one["mask"].sum())


def close(found: Any, expected: Any, most: float) -> None:
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.size == expected.size
    assert found.size == 0 or np.abs(found - expected.reshape(found.shape)).max() <= most


def pixels_of(counts: Any, shape: tuple[int, int]) -> Any:
    """(height, width) of run lengths, column by column."""
    assert counts[0] >= 0
    assert all(count > 0 for count in counts[1:])
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(shape[1], shape[0]).T
