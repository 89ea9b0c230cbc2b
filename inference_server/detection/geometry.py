"""Where a picture lies in a model's input, and the way back from there to the picture's own pixels.

Coordinates are continuous: x to the right, y down, (0, 0) the top left corner of the top left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Resize(Enum):
    """How a picture is brought to the size of a model's input."""

    LETTERBOX = "letterbox"  # scaled evenly, centred, the rest filled
    TOP_LEFT = "letterbox-top-left"  # scaled evenly, in the top left corner, the rest filled
    STRETCH = "stretch"  # each side scaled on its own
    CENTER_CROP = "center-crop"  # scaled evenly until it covers the input, what reaches beyond is cut off


@dataclass(frozen=True, slots=True)
class Layout:
    """The picture a model takes: RGB, `width` x `height` pixels, `fill` (0..255) where the source does not reach."""

    width: int
    height: int
    resize: Resize = Resize.LETTERBOX
    fill: int = 114

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"layout: expected at least 1x1 pixels, got {self.width}x{self.height}")
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill: expected 0..255, got {self.fill}")


@dataclass(frozen=True, slots=True)
class Placement:
    """A source picture in a model's input: its scaled copy covers `width` x `height` pixels from (`left`, `top`).

    `left` and `top` are negative where the copy reaches beyond the input and is cut off.
    """

    left: int
    top: int
    width: int
    height: int
    source_width: int
    source_height: int

    @property
    def scale(self) -> NDArray[np.float32]:
        """(2,): source pixels for each input pixel, across and down, after rounding to whole pixels."""
        return np.array([self.source_width / self.width, self.source_height / self.height], np.float32)

    def to_source(self, coordinates: NDArray[Any]) -> NDArray[np.float32]:
        """Turn input pixels into pixels of the source picture, clipped to it.

        `coordinates` is (..., 2k): x and y alternate along the last axis, so boxes (N, 4) as corners and points
        (N, 2) both fit. Each axis is scaled by what it was really scaled by.
        """
        return self.clip(self.beyond_source(coordinates))

    def beyond_source(self, coordinates: NDArray[Any]) -> NDArray[np.float32]:
        """As `to_source`, but not clipped."""
        pairs = coordinates.reshape(*coordinates.shape[:-1], coordinates.shape[-1] // 2, 2)
        source = (pairs - np.array([self.left, self.top], np.float32)) * self.scale
        return source.astype(np.float32, copy=False).reshape(coordinates.shape)

    def clip(self, coordinates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move source pixels (..., 2k) that lie outside the picture to its edge."""
        pairs = coordinates.reshape(*coordinates.shape[:-1], coordinates.shape[-1] // 2, 2)
        limit = np.array([self.source_width, self.source_height], np.float32)
        return np.clip(pairs, 0, limit).reshape(coordinates.shape)


@lru_cache(64)
def place(layout: Layout, source_width: int, source_height: int) -> Placement:
    """Where a picture of `source_width` x `source_height` pixels goes in `layout`.

    Sizes are rounded as the models' own tools do it, so that a model sees what it saw in training: the letterbox as
    Ultralytics does, the one in the corner as YOLOX, the crop as torchvision. Raises ValueError for a picture without
    pixels.
    """
    if source_width < 1 or source_height < 1:
        raise ValueError(f"picture: expected at least 1x1 pixels, got {source_width}x{source_height}")
    if layout.resize is Resize.STRETCH:
        return Placement(0, 0, layout.width, layout.height, source_width, source_height)
    if layout.resize is Resize.CENTER_CROP:
        return _crop(layout, source_width, source_height)
    scale = min(layout.width / source_width, layout.height / source_height)
    if layout.resize is Resize.TOP_LEFT:
        width, height = max(1, int(source_width * scale)), max(1, int(source_height * scale))
        return Placement(0, 0, width, height, source_width, source_height)
    width, height = max(1, round(source_width * scale)), max(1, round(source_height * scale))
    # The 0.1 sends an odd pixel of padding to the right and the bottom.
    left, top = round((layout.width - width) / 2 - 0.1), round((layout.height - height) / 2 - 0.1)
    return Placement(left, top, width, height, source_width, source_height)


def _crop(layout: Layout, source_width: int, source_height: int) -> Placement:
    """Cover the input, and cut the longer side off evenly; rounded as torchvision's Resize and CenterCrop do."""
    scale = max(layout.width / source_width, layout.height / source_height)
    # The side that fits exactly must not lose a pixel to floating point.
    width, height = max(layout.width, int(source_width * scale)), max(layout.height, int(source_height * scale))
    left, top = -round((width - layout.width) / 2), -round((height - layout.height) / 2)
    return Placement(left, top, width, height, source_width, source_height)
