"""An animated scene of coloured shapes whose boxes are known for every frame.

Each shape moves within a cell of its own, so shapes never touch, never leave the picture, and those of one class stay
far apart. One grey disc belongs to no class. Everything is a function of the frame's index and the picture's size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import pi, sin, sqrt
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Plane = NDArray[np.floating[Any]]
Size = tuple[int, int]
Box = tuple[float, float, float, float]
# How far (pixels, negative inside) points are from the edge of a shape that reaches `radius` from its middle.
Distance = Callable[[Plane, Plane, float], Plane]

SIZE = (1280, 720)
COLUMNS, ROWS = 3, 2
X264 = MappingProxyType({"preset": "veryfast", "crf": "20"})


@dataclass(frozen=True, slots=True)
class Actor:
    """A shape in the scene: its cell, its size in 1280ths of the picture's longer side, and how it moves (frames)."""

    class_name: str
    distance: Distance
    colour: tuple[int, int, int]
    column: int
    row: int
    radius: float
    periods: tuple[int, int, int]  # of x, y and size


def _circle(x: Plane, y: Plane, radius: float) -> Plane:
    distance: Plane = np.hypot(x, y) - radius
    return distance


def _square(x: Plane, y: Plane, radius: float) -> Plane:
    distance: Plane = np.maximum(np.abs(x), np.abs(y)) - radius
    return distance


def _diamond(x: Plane, y: Plane, radius: float) -> Plane:
    return (np.abs(x) + np.abs(y) - radius) / sqrt(2)


RED, GREEN, BLUE, GREY = (224, 32, 36), (34, 190, 52), (40, 60, 228), (150, 150, 154)
ACTORS = (
    Actor("red circle", _circle, RED, 0, 0, 58, (151, 97, 73)),
    Actor("green square", _square, GREEN, 1, 0, 50, (113, 89, 131)),
    Actor("blue diamond", _diamond, BLUE, 2, 0, 60, (139, 107, 83)),
    Actor("blue diamond", _diamond, BLUE, 0, 1, 52, (109, 127, 79)),
    Actor("", _circle, GREY, 1, 1, 54, (103, 137, 101)),
    Actor("red circle", _circle, RED, 2, 1, 50, (127, 83, 149)),
)


def ground_truth(index: int, size: Size = SIZE) -> list[tuple[str, Box]]:
    """Class name and box (x_min, y_min, x_max, y_max in pixels) of every shape in frame `index`, 0 or greater."""
    truth = []
    for actor in ACTORS:
        if actor.class_name:
            x, y, radius = _pose(actor, index, size)
            truth.append((actor.class_name, (x - radius, y - radius, x + radius, y + radius)))
    return truth


def render(index: int, size: Size = SIZE) -> Picture:
    """Frame `index` as (height, width, 3) uint8 RGB; `size` is (width, height)."""
    picture = _background(size).copy()
    for actor in ACTORS:
        _draw(picture, actor, *_pose(actor, index, size))
    return picture


def encode(
    path: Path,
    frames: int,
    fps: int = 30,
    size: Size = SIZE,
    *,
    codec_options: Mapping[str, str] = X264,
    container_options: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the scene's first `frames` frames as H.264 (yuv420p); the suffix of `path` chooses the container.

    An MP4 gets its index in front, so that it can be analysed while it is uploaded. Width and height must be even.
    """
    if path.suffix == ".mp4":
        container_options = {"movflags": "+faststart", **container_options}
    with av.open(str(path), "w", options=dict(container_options)) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=dict(codec_options))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(render(index, size), format="rgb24")))
        container.mux(stream.encode())


def _pose(actor: Actor, index: int, size: Size) -> tuple[float, float, float]:
    """Middle and radius of an actor in frame `index`, in pixels."""
    width, height = size[0] / COLUMNS, size[1] / ROWS
    largest = min(actor.radius * max(size) / 1280, 0.45 * min(width, height))
    reach_x, reach_y = width / 2 - largest - 1, height / 2 - largest - 1
    x_period, y_period, size_period = actor.periods
    x = (actor.column + 0.5) * width + reach_x * sin(2 * pi * index / x_period)
    y = (actor.row + 0.5) * height + reach_y * sin(2 * pi * index / y_period + 1)
    return x, y, largest * (0.9 + 0.1 * sin(2 * pi * index / size_period))


def _draw(picture: Picture, actor: Actor, x: float, y: float, radius: float) -> None:
    left, top = int(x - radius) - 2, int(y - radius) - 2
    side = int(2 * radius) + 5
    patch = picture[max(top, 0) : top + side, max(left, 0) : left + side]
    columns = np.arange(max(left, 0), max(left, 0) + patch.shape[1], dtype=np.float32) + np.float32(0.5 - x)
    rows = np.arange(max(top, 0), max(top, 0) + patch.shape[0], dtype=np.float32) + np.float32(0.5 - y)
    distance = actor.distance(columns[None, :], rows[:, None], radius)
    covered = np.clip(0.5 - distance, 0, 1)[..., None]  # pixels on the edge are covered in part
    patch[:] = np.rint(patch + covered * (np.array(actor.colour, np.float32) - patch))


@lru_cache(maxsize=8)
def _background(size: Size) -> Picture:
    """Muted stripes and grain: something to encode, nothing to detect."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32))
    waves = np.sin(9 * x + 5 * y) + np.sin(23 * y - 7 * x) + 0.5 * np.sin(61 * x + 3 * y)
    grain = np.random.default_rng(7).normal(0, 3, (height, width)).astype(np.float32)
    grey = 104 + 14 * waves + grain
    picture: Picture = np.rint(grey[..., None] + np.array([4, 0, -3], np.float32)).clip(0, 255).astype(np.uint8)
    return picture
