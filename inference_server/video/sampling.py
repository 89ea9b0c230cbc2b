"""Which decoded frames are wanted. Pure: the same frames give the same choice every time."""

from __future__ import annotations

from enum import Enum
from fractions import Fraction
from math import floor

from inference_server.video.values import StreamRequest

# Timestamps are rounded to the container's clock: a frame this much (in frames) early still counts as on time.
_TOLERANCE = 1e-3


class Choice(Enum):
    """What to do with a frame."""

    TAKE = "take"
    SKIP = "skip"
    STOP = "stop"  # neither this frame nor any after it is wanted


class Clock:
    """Seconds from the first frame that has a timestamp, never negative; the others follow at the frame rate."""

    def __init__(self, frame_rate: float) -> None:
        self._step = 1 / frame_rate if frame_rate > 0 else 1 / 25
        self._origin: Fraction | None = None
        self._next = 0.0

    def seconds(self, pts: int | None, time_base: Fraction) -> float:
        """The time of the next frame in presentation order."""
        seconds = self._next
        if pts is not None:
            if self._origin is None:
                self._origin = pts * time_base - Fraction(self._next)
            seconds = max(0.0, float(pts * time_base - self._origin))
        self._next = seconds + self._step
        return seconds


class Sampler:
    """Applies a StreamRequest to frames in presentation order."""

    def __init__(self, request: StreamRequest) -> None:
        self._request = request
        self._last_slot = -1

    def choose(self, index: int, seconds: float) -> Choice:
        """`index` counts decoded frames from 0; `seconds` is the frame's time from the start of the video."""
        request = self._request
        if request.end_seconds is not None and seconds >= request.end_seconds:
            return Choice.STOP
        if seconds < request.start_seconds or not self._due(index, seconds):
            return Choice.SKIP
        return Choice.TAKE

    def _due(self, index: int, seconds: float) -> bool:
        rate = self._request.frames_per_second
        if rate is None:
            return index % self._request.stride == 0
        slot = floor(seconds * rate + _TOLERANCE)
        if slot <= self._last_slot:
            return False
        self._last_slot = slot
        return True
