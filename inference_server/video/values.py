"""What goes into a decoder and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.detection.geometry import Layout

MAX_FRAMES_PER_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """Which frames of a video are wanted, and how they are delivered.

    `stride`: every n-th decoded frame, counted from the first of the video. `frames_per_second`: the first frame of
    each 1/n seconds of video, by timestamp; instead of a stride. `start_seconds` (included) and `end_seconds`
    (excluded) count from the first frame; decoding ends at the first frame at or after the end. `max_frames`: stop
    after so many; 0 is no limit. `latest`: one frame is out at a time, the newest comes next, and those that had to
    wait are dropped and counted. `resume_after_pts`: the frames up to and including the first with this timestamp are
    left out, but count for all of the above.
    A live source that was lost goes on where it was: `first_index` and `first_seconds` are what its first frame now
    counts as. With `wall_clock`, frames say when they were taken or came.
    Raises ValueError naming the field that is out of range.
    """

    stride: int = 1
    frames_per_second: float | None = None
    start_seconds: float = 0.0
    end_seconds: float | None = None
    max_frames: int = 0
    latest: bool = False
    resume_after_pts: int | None = None
    first_index: int = 0
    first_seconds: float = 0.0
    wall_clock: bool = False

    @property
    def sampled(self) -> bool:
        """Whether most of the work is decoding frames that are not wanted."""
        return self.stride > 1 or self.frames_per_second is not None or self.start_seconds > 0

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride: expected 1 or more, got {self.stride}")
        rate = self.frames_per_second
        if rate is not None and not 0 < rate <= MAX_FRAMES_PER_SECOND:
            raise ValueError(f"frames_per_second: expected more than 0, at most {MAX_FRAMES_PER_SECOND}, got {rate}")
        if rate is not None and self.stride != 1:
            raise ValueError("stride, frames_per_second: expected one of them, got both")
        if not (isfinite(self.start_seconds) and self.start_seconds >= 0):
            raise ValueError(f"start_seconds: expected 0 or more, got {self.start_seconds}")
        if self.end_seconds is not None and not (isfinite(self.end_seconds) and self.end_seconds > self.start_seconds):
            raise ValueError(f"end_seconds: expected more than start_seconds, got {self.end_seconds}")
        if self.max_frames < 0:
            raise ValueError(f"max_frames: expected 0 or more, got {self.max_frames}")


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """Input that the decoder reads by itself, where it wants: an open regular file of `size` bytes."""

    fd: int
    size: int


@dataclass(frozen=True, slots=True)
class WallClock:
    """When a frame was taken by the camera's clock, or when it had arrived by ours; in seconds since 1970, UTC."""

    seconds: float
    camera: bool


@dataclass(frozen=True, slots=True)
class Target:
    """What frames are prepared for; `generation` grows with every change."""

    layout: Layout
    generation: int


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What was recognised: names as FFmpeg has them, size as displayed; 0 where the container states nothing."""

    container: str
    codec: str
    width: int
    height: int
    frame_rate: float
    duration_seconds: float
    frame_count: int


@dataclass(frozen=True, slots=True)
class VideoSummary:
    """Totals of a stream.

    `truncated`: the input ended in the middle of a frame or packet. `stopped`: decoding ended because no further frame
    is wanted. `gaps`, and `gap_seconds` in all: how often a live source was away and came back.
    """

    frames_decoded: int = 0
    frames_dropped: int = 0
    corrupt_packets: int = 0
    bytes_received: int = 0
    truncated: bool = False
    stopped: bool = False
    gaps: int = 0
    gap_seconds: float = 0.0


_NO_PIXELS: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)


@dataclass(slots=True, eq=False)
class PreparedFrame:
    """One frame or picture, placed in the input of a model.

    `frame_index` counts decoded frames in presentation order, or is the picture's position in the request. `pts` is in
    units of `time_base` (numerator, denominator) seconds; None where there is none. `time_seconds` counts from the
    first frame. `width` and `height` are of the picture as displayed (rotation and pixel shape applied).
    `pixels`: uint8 RGB (layout height, layout width, 3), read-only, valid until `release`.
    """

    frame_index: int
    pts: int | None
    time_base: tuple[int, int]
    time_seconds: float
    width: int
    height: int
    target: Target
    pixels: NDArray[np.uint8]
    decode_seconds: float
    prepare_seconds: float
    wall_clock: WallClock | None = None
    on_release: Callable[[], Any] | None = None

    def release(self) -> None:
        """Give the memory behind `pixels` back; the decoder may then fill it again. Only the first call counts."""
        self.pixels = _NO_PIXELS  # whoever still refers to this frame does not keep the memory of all of them
        on_release, self.on_release = self.on_release, None
        if on_release is not None:
            on_release()


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A JPEG or PNG file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class RawPicture:
    """Pixels: R, G, B, one byte each, row by row without padding, width x height x 3 bytes."""

    width: int
    height: int
    rgb: bytes

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or len(self.rgb) != self.width * self.height * 3:
            raise ValueError(f"rgb: expected {self.width} x {self.height} x 3 bytes, got {len(self.rgb)}")


Picture = EncodedPicture | RawPicture
