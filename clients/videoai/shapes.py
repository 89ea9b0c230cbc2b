"""Shapes other than upright boxes, as lines and points. Needs the extra "video"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageDraw

    from videoai.inference.v1 import inference_pb2

Point = tuple[float, float]

# Keypoints below it are taken for hidden.
VISIBLE = 0.5
# Which of the 17 keypoints of COCO's persons belong together: head, arms, trunk, legs.
PERSON = 17
_BONES = (
    (0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    (5, 7), (7, 9), (6, 8), (8, 10),
    (5, 6), (5, 11), (6, 12), (11, 12),
    (11, 13), (13, 15), (12, 14), (14, 16),
)  # fmt: skip


def corners(box: inference_pb2.OrientedBox) -> list[Point]:
    """Return the four corners in pixels, clockwise, from the one that is top left where the angle is 0."""
    cos, sin = math.cos(box.angle), math.sin(box.angle)
    return [
        (
            box.center_x + right * box.width / 2 * cos - down * box.height / 2 * sin,
            box.center_y + right * box.width / 2 * sin + down * box.height / 2 * cos,
        )
        for right, down in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]


def on_pixels(point: Point) -> Point:
    """Return the same point where whole numbers are the middles of pixels, as in Pillow, and not their corners."""
    return point[0] - 0.5, point[1] - 0.5


def keypoints(
    draw: ImageDraw.ImageDraw, detection: inference_pb2.Detection, shade: tuple[int, int, int], scale: int
) -> None:
    """Draw the keypoints that can be seen, and the bones between those of a person."""
    points = [on_pixels((point.x, point.y)) if point.score >= VISIBLE else None for point in detection.keypoints]
    for start, end in _BONES if len(points) == PERSON else ():
        first, second = points[start], points[end]
        if first is not None and second is not None:
            draw.line((first, second), fill=shade, width=2 * scale)
    for seen in filter(None, points):
        draw.circle(seen, 2 * scale, fill=shade, outline=(0, 0, 0))
