"""What FFmpeg says of a video only in its log: that a picture is too large, or that part of one is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import av.logging

# "Picture size 65500x65500 is invalid", "Picture size 640x480 exceeds specified max pixel count 4000", and of dav1d
# "Frame size 640x480 exceeds limit 4000".
_SIZE = re.compile(r"(?:Picture|Frame) size (\d+)x(\d+) (?:is invalid|exceeds)")
# "error while decoding MB 8 11, bytestream -8", "ac-tex damaged at 5 2", "overread 8", and of HEVC, as a warning alone,
# "Skipping invalid undecodable NALU: 1".
_DAMAGE = re.compile(r"error while decoding MB|damaged at|overread|undecodable NALU")
# Its warnings are about formats, never about damage.
_SCALER = "swscaler"


class Complaints:
    """`too_large`: width and height of the first picture over `max_pixels` that was refused; None if there is none.

    `damage`: whether a picture was decoded in part only; set it to False to hear of the next one.
    """

    def __init__(self, max_pixels: int, said: list[tuple[int, str, str]]) -> None:
        self.too_large: tuple[int, int] | None = None
        self.damage = False
        self._max_pixels = max_pixels
        self._said = said

    def heard(self) -> bool:
        """Whether anything has been said of the video since the last reading, by others than the scaler."""
        return any(name != _SCALER for _, name, _ in self._said)

    def forget(self) -> None:
        """As if nothing had been said so far."""
        self._said.clear()

    def read(self) -> None:
        """Take note of what has been said by now."""
        for _, _, text in self._said:
            self.damage |= _DAMAGE.search(text) is not None
            if (found := _SIZE.search(text)) and self.too_large is None:
                width, height = int(found[1]), int(found[2])
                # What FFmpeg prints of a negative number is no size.
                if self._max_pixels < width * height and max(width, height) < 2**31:
                    self.too_large = width, height
        self._said.clear()


@contextmanager
def listen(max_pixels: int) -> Iterator[Complaints]:
    """Listen to FFmpeg meanwhile, in any thread; it costs nothing while all is well."""
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.INFO)  # that a picture was mended is not even a warning
    try:
        with av.logging.Capture(local=False) as said:
            yield Complaints(max_pixels, said)
    finally:
        av.logging.set_level(None)
