"""Several threads decode one video, each a picture of its own, for as long as nothing is wrong with it.

How FFmpeg's threads deal with damage depends on how many there are. So what they give counts only while it is what one
thread would give: every picture comes, in its order, and FFmpeg has no complaint. When anything else is seen, nothing
of it has been handed on; one thread then decodes again what came since a picture from which decoding can begin, leaves
out what has been handed on, and does all that follows.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import TypeAlias

import av
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from inference_server.video.complaints import Complaints

Packet: TypeAlias = "av.Packet[VideoStream]"

# More do not help one video: its frames are scaled by one thread.
_MOST_THREADS = 8
# What may be decoded again, twice as much as lies between two pictures to begin from: where they are rarer, one thread
# decodes.
_MOST_PACKETS = 1000
# The part of a decoder's memory that this may take, and that each of the threads may need.
_SHARE_OF_PACKETS = 32
_BYTES_PER_PIXEL = 32

# The only codec whose decoder says of every picture that something is missing.
CODEC = "h264"
# ISO/IEC 14496-15, 5.3.3.1: which byte of the decoder's configuration has the length of a unit's length.
_LENGTH_SIZE = 4
# Rec. ITU-T H.264, table 7-1: types of units with slices of a picture, and of those from which decoding can begin.
_SLICES, _FRESH_SLICE = range(1, 6), 5


class Parallel:
    """Decodes with `threads` threads; packets go in in the order of decoding, all with timestamps.

    `codec` must not be used otherwise, and must not be freed while it works: its threads may wait for Python's lock.
    """

    def __init__(self, codec: VideoCodecContext, threads: int, memory_limit_bytes: int) -> None:
        codec.thread_type = "FRAME"
        codec.thread_count = self.threads = threads
        self._most_bytes = memory_limit_bytes // _SHARE_OF_PACKETS
        self.shown: int | None = None  # timestamp of the last frame that was given
        self._codec = codec
        self._sound = True
        self._expected: list[int] = []  # timestamps of pictures that have not come, as a heap
        self._since: deque[Packet] = deque()  # since the last but one picture to begin from that has been given
        self._bytes = 0
        self._beginnings: deque[int] = deque()  # timestamps of pictures to begin from in it, but for the first

    def decode(self, packet: Packet, complaints: Complaints) -> list[av.VideoFrame] | None:
        """The frames that come now; an empty packet ends the video. None: these must be left to one thread."""
        frames = self._decode(packet) if self._keep(packet) else None
        if frames is None or complaints.heard():
            self._sound = False
            return None
        complaints.forget()
        for frame in frames:
            self._give(frame)
        return frames

    def stop(self) -> list[Packet]:
        """Wait until the threads rest, and return the packets that one thread must begin with."""
        self._codec.flush_buffers()
        # What is missing of a picture FFmpeg takes from those before, even before one to begin from.
        if self._sound and self._has_shown(0):
            self._drop()
        return [*self._since]

    def _decode(self, packet: Packet) -> list[av.VideoFrame] | None:
        try:
            frames = self._codec.decode(packet)
        except (av.FFmpegError, ValueError, MemoryError):
            return None
        for frame in frames:
            if not self._expected or heappop(self._expected) != frame.pts or frame.is_corrupt:
                return None
        return frames if packet.size or not self._expected else None

    def _keep(self, packet: Packet) -> bool:
        if not packet.size:
            self._since.append(packet)
            return True
        self._bytes += packet.size
        self._since.append(packet)
        # Only times that differ tell where one thread must go on.
        if packet.pts is None or packet.pts in self._expected or (self.shown is not None and packet.pts <= self.shown):
            return False
        heappush(self._expected, packet.pts)
        first = len(self._since) == 1
        if not first and packet.is_keyframe and can_begin(self._codec.extradata or b"", bytes(packet)):
            self._beginnings.append(packet.pts)
        return len(self._since) <= _MOST_PACKETS and self._bytes <= self._most_bytes

    def _give(self, frame: av.VideoFrame) -> None:
        self.shown = frame.pts
        while self._has_shown(1):
            self._drop()

    def _has_shown(self, beginning: int) -> bool:
        return (
            len(self._beginnings) > beginning and self.shown is not None and self._beginnings[beginning] <= self.shown
        )

    def _drop(self) -> None:
        """Let it begin with the next picture that decoding can begin from."""
        beginning = self._beginnings.popleft()
        while self._since[0].pts != beginning:
            self._bytes -= self._since.popleft().size


def most_threads(pixels: int, memory_limit_bytes: int) -> int:
    """How many threads there is memory for with pictures of so many pixels, and use for one video."""
    return min(_MOST_THREADS, memory_limit_bytes // (_BYTES_PER_PIXEL * max(1, pixels)))


def can_begin(configuration: bytes, packet: bytes) -> bool:
    """Whether `packet` holds a picture after which, in the order of decoding, none is needed that came before (IDR).

    Of H.264 as MP4 has it, with lengths in front of the units; `configuration` is the decoder's.
    """
    if len(configuration) <= _LENGTH_SIZE or configuration[0] != 1:
        return False
    size = (configuration[_LENGTH_SIZE] & 3) + 1
    at = 0
    while at + size < len(packet):
        kind = packet[at + size] & 31
        if kind in _SLICES:
            return kind == _FRESH_SLICE
        at += size + int.from_bytes(packet[at : at + size], "big")
    return False
