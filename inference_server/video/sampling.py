"""Which decoded frames are wanted. Pure: the same frames give the same choice every time."""

from __future__ import annotations

from enum import Enum
from fractions import Fraction
from math import floor

from inference_server.video.values import StreamRequest

# Timestamps are rounded to the container's clock: a frame this much (in frames) early still counts as on time.
_TOLERANCE = 1e-3
# Timestamps that step back by more seconds begin anew; by less, they are out of order.
_STEP_BACK = 1


class Choice(Enum):
    """What to do with a frame."""

    TAKE = "take"
    SKIP = "skip"
    STOP = "stop"  # neither this frame nor any after it is wanted


class Clock:
    """Seconds from the first frame by the timestamps; a frame that has none follows at the frame rate.

    Never goes back: for a frame whose timestamp is a little before the last one's it stands still; one that is far
    before it (a camera that was restarted) follows at the frame rate, and time goes on from there.
    """

    def __init__(self, frame_rate: float) -> None:
        self._step = 1 / frame_rate if frame_rate > 0 else 1 / 25
        self._origin: tuple[int, Fraction] | None = None  # a timestamp and its unit, whose time is `_offset`
        self._offset = self._last = self._next = 0.0

    def seconds(self, pts: int | None, time_base: Fraction) -> float:
        """The time of the next frame in presentation order."""
        seconds = self._next
        if pts is not None:
            time = self._time(pts, time_base)
            if time is None or time < self._last - _STEP_BACK:
                self._origin, self._offset = (pts, time_base), self._next
                time = self._next
            seconds = max(self._last, time)
        self._last, self._next = seconds, seconds + self._step
        return seconds

    def _time(self, pts: int, time_base: Fraction) -> float | None:
        """Rounded once; None before the first timestamp."""
        if self._origin is None:
            return None
        origin, unit = self._origin
        if time_base is unit and not self._offset:  # nearly always, and a sum of fractions costs as much as scaling
            return (pts - origin) * unit.numerator / unit.denominator
        return float(pts * time_base - origin * unit + Fraction(self._offset))


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


class Resumption:
    """Leaves out the frames up to and including the first with the timestamp `after`; none if that is None."""

    def __init__(self, after: int | None) -> None:
        self._after = after
        self.waiting = after is not None

    def leaves_out(self, pts: int | None) -> bool:
        """Of each frame in presentation order."""
        if not self.waiting:
            return False
        self.waiting = pts != self._after
        return True
