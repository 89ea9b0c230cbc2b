"""A decoded picture on its way into a model's input: upright, scaled by libswscale, and placed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from av import VideoFrame
from av.sidedata.sidedata import Type as SideDataType
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from inference_server.detection.geometry import Layout, Placement, place
from inference_server.errors import VideoLimitExceeded

_SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True, slots=True)
class Pose:
    """How coded pixels become the picture as displayed: swap the axes, then flip.

    `pixel_shape` is the width of a coded pixel in heights of it.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False
    pixel_shape: Fraction = Fraction(1)

    def displayed(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as displayed of a picture coded in `width` x `height` pixels."""
        wide = max(1, round(width * self.pixel_shape))
        return (height, wide) if self.transpose else (wide, height)

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view of coded `pixels` (H, W, ...) as displayed."""
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


# By quarter turns against the clock.
_TURNS = (Pose(), Pose(transpose=True, flip_y=True), Pose(flip_x=True, flip_y=True), Pose(transpose=True, flip_x=True))


class PoseReader:
    """Reads the pose of each frame of a video from its display matrix, to the nearest quarter turn."""

    def __init__(self, pixel_shape: Fraction | None) -> None:
        self._shape = pixel_shape if pixel_shape is not None and pixel_shape > 0 else Fraction(1)
        self._seen: tuple[int, int, int] | None = None
        self._pose = Pose()

    def read(self, frame: VideoFrame) -> Pose:
        """The pose of `frame`.

        PyAV ties a frame and its side data into a cycle, which would keep the frame's memory until a garbage
        collection, so the matrix is looked at only when something cheap to see has changed.
        """
        sight = frame.rotation, frame.width, frame.height
        if sight != self._seen:
            self._seen = sight
            self._pose = replace(_pose(frame), pixel_shape=self._shape)
        return self._pose


def _pose(frame: VideoFrame) -> Pose:
    try:
        data = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    except ValueError:  # PyAV lists no side data if it does not know one of them, Exif for instance
        return _TURNS[round(frame.rotation / 90) % 4]
    if data is None:
        return Pose()
    # x' = a x + c y, y' = b x + d y, in 16.16 fixed point of the machine's byte order.
    matrix = np.frombuffer(bytes(data), np.int32)
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Pose(transpose=False, flip_x=a < 0, flip_y=d < 0)
    return Pose(transpose=True, flip_x=c < 0, flip_y=b < 0)


class Preparer:
    """Places pictures, whose sizes may change, in memory that is handed to it."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._scaler = VideoReformatter()
        # What lies around the picture in each slot, so that the border is filled only when it moves.
        self._borders: dict[int, tuple[Layout, Placement]] = {}

    def forget_borders(self) -> None:
        """The slots are in other memory now."""
        self._borders.clear()

    def check(self, width: int, height: int) -> None:
        """Raise VideoLimitExceeded for a picture that is too large."""
        if width * height > self._max_pixels:
            raise VideoLimitExceeded(f"max_pixels: expected at most {self._max_pixels}, got {width}x{height}")

    def prepare(
        self, frame: VideoFrame, pose: Pose, layout: Layout, slot: int, into: NDArray[np.uint8]
    ) -> tuple[int, int]:
        """Write `frame` into `into`, which is slot `slot`: uint8 (layout height, layout width, 3).

        Returns width and height of the picture as displayed. Raises VideoLimitExceeded.
        """
        width, height = pose.displayed(frame.width, frame.height)
        self.check(frame.width, frame.height)
        self.check(width, height)
        spot = place(layout, width, height)
        if self._borders.get(slot) != (layout, spot):
            into[:] = layout.fill
            self._borders[slot] = (layout, spot)
        # What a crop cuts off lies at negative positions of the input.
        top, left = max(0, spot.top), max(0, spot.left)
        size = (spot.height, spot.width) if pose.transpose else (spot.width, spot.height)
        for channels, pixels in self._scale(frame, *size):
            upright = pose.upright(pixels)[top - spot.top :, left - spot.left :]
            shown = upright[: layout.height - top, : layout.width - left]
            into[top : top + shown.shape[0], left : left + shown.shape[1], channels] = shown
        return width, height

    def _scale(self, frame: VideoFrame, width: int, height: int) -> list[tuple[int | slice, NDArray[np.uint8]]]:
        """The frame in RGB at `width` x `height`: which channels, and a view of what libswscale wrote of them.

        From YUV libswscale writes three planes in half the time that it takes for packed pixels, which it has no vector
        code for; putting them together is part of the copy that is needed anyway.
        """
        planar = frame.format.name.startswith("yuv")
        format_ = "gbrp" if planar else "rgb24"
        scaled = self._scaler.reformat(frame, width, height, format_, interpolation=_SCALING, threads=1)
        if planar:
            green, blue, red = (_rows(plane, height)[:, :width] for plane in scaled.planes)
            return [(0, red), (1, green), (2, blue)]
        packed = _rows(scaled.planes[0], height)[:, : width * 3]
        return [(slice(None), packed.reshape(height, width, 3))]


def _rows(plane: VideoPlane, height: int) -> NDArray[np.uint8]:
    """The bytes of a plane, row by row, with the padding at their ends."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height]
