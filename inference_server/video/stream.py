"""One video being decoded, as the pipeline sees it."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Self

from inference_server.errors import CorruptVideo, VideoError
from inference_server.video import wire
from inference_server.video.conversation import Conversation, share
from inference_server.video.memory import FrameMemory, Pin, frame_bytes
from inference_server.video.processes import DecoderProcess
from inference_server.video.settings import DecoderSettings
from inference_server.video.values import (
    OpenedFile,
    PreparedFrame,
    StreamRequest,
    Target,
    VideoInfo,
    VideoSummary,
    WallClock,
)

# A decoder whose frames fill more than half of the slots is ahead. It hears of free ones together, so that it wakes
# half as often; but no later than this, for a frame may be held for as long as one likes.
AHEAD_SECONDS = 0.1

_INT32, _INT63 = 2**31 - 1, 2**63 - 1


class DecodedStream:
    """Bytes in by `feed`, frames out by iteration, both at once. Use as an async context manager.

    Iterate once. The iteration, and `started`, raise a VideoError if the video or its decoder fails; `feed` does not.
    `summary` is complete when the iteration has ended.
    """

    def __init__(
        self,
        process: DecoderProcess,
        request: StreamRequest,
        target: Target,
        settings: DecoderSettings,
        file: OpenedFile | None = None,
        pin: Pin | None = None,
    ) -> None:
        self.summary = VideoSummary()
        self._process = process
        self._pin = pin
        self._bytes_received = file.size if file else 0
        # More than one slot would let frames wait that are not the newest.
        self._slots = 1 if request.latest else settings.slots
        self._frames: deque[PreparedFrame] = deque()
        self._last_index = request.first_index - 1
        self._changed = asyncio.Event()
        self._info: VideoInfo | None = None
        self._error: VideoError | None = None
        # What frames on their way may be prepared for: the newest target, and older ones not yet acknowledged as over.
        self._aims: dict[int, tuple[Target, FrameMemory]] = {}
        self._generation = target.generation
        self._released: list[int] = []  # slots of the newest memory that the decoder has not been told of
        self._telling: asyncio.TimerHandle | None = None
        self._decoder = Conversation(process, settings, self._receive, self._end)
        fds = (file.fd,) if file else ()
        self._decoder.send(fds, type="video", file=file is not None, request=asdict(request), **settings.message())
        self._aim(target, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def decoding(self) -> bool:
        """Whether frames may still come from its decoder."""
        return not self._decoder.ended

    async def close(self) -> None:
        """Stop decoding; returns when the process is gone. Frames not yet released stay readable."""
        await self._decoder.close()
        # Tasks and callbacks refer to this stream in circles; frame memory must not wait for the garbage collector.
        self._aims.clear()
        self._frames.clear()
        self._stop_telling()
        self._notify()

    async def feed(self, chunk: bytes) -> None:
        """Add encoded bytes. Returns once they are on their way: a decoder that waits makes this wait.

        Bytes that come after the last frame wanted are dropped.
        """
        if await self._process.write(chunk):
            self._bytes_received += len(chunk)

    async def end_of_input(self) -> None:
        """Say that no more bytes will come."""
        await self._process.end_of_input()

    async def started(self) -> VideoInfo:
        """What was recognised, once the first frame is decoded. Raises VideoError."""
        await self._until(lambda: self._info is not None)
        if self._info is None:
            raise self._error or CorruptVideo("there is no picture in it")
        return self._info

    async def retarget(self, target: Target) -> None:
        """Prepare frames for `target`. Returns once the iteration will give no more frames for an older one.

        Also returns when the stream has ended. Raises ValueError if the generation does not grow.
        """
        if target.generation <= self._generation:
            raise ValueError(f"generation: expected more than {self._generation}, got {target.generation}")
        self._aim(target, self._aims[self._generation][1])
        await self._until(lambda: min(self._aims) >= target.generation)
        # A stream that has ended may have frames that nobody has taken yet.
        while self._frames and self._frames[0].target.generation < target.generation:
            await self._changed.wait()

    async def __aiter__(self) -> AsyncIterator[PreparedFrame]:
        while True:
            await self._until(lambda: bool(self._frames))
            if not self._frames:
                break
            frame = self._frames.popleft()
            self._notify()
            yield frame
        if self._error is not None:
            raise self._error

    def _aim(self, target: Target, memory: FrameMemory | None) -> None:
        """Send the target, with new memory unless its frames fit into `memory`."""
        fd = None
        if memory is None or frame_bytes(target.layout) > memory.slot_bytes:
            fd, memory = share(target.layout, self._slots, self._pin)
            self._released.clear()
        self._aims[target.generation] = target, memory
        self._generation = target.generation
        self._decoder.send_target(target, memory.slots, memory.slot_bytes, fd)
        if fd is not None:
            os.close(fd)

    async def _until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready`, or until nothing more can come."""
        while not ready() and not self._decoder.ended:
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _receive(self, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "started":
                self._info = _info(message)
            case "frame":
                self._frames.append(self._frame(message))
            case "retargeted":
                self._acknowledge(wire.integer(message, "generation", 0, self._generation))
            case "finished":
                self.summary = self._summary(message)
            case kind:
                raise wire.ProtocolError(f"type: expected one that a decoder sends, got {kind!r}")
        self._notify()

    def _end(self, error: VideoError | None) -> None:
        self._error = error
        if error is not None:
            self.summary = VideoSummary(bytes_received=self._bytes_received)
        self._notify()

    def _acknowledge(self, generation: int) -> None:
        if generation not in self._aims:
            raise wire.ProtocolError(f"generation: expected one of {sorted(self._aims)}, got {generation}")
        for older in [known for known in self._aims if known < generation]:
            del self._aims[older]

    def _frame(self, message: dict[str, Any]) -> PreparedFrame:
        generation = wire.integer(message, "generation", 0, self._generation)
        if generation not in self._aims:
            raise wire.ProtocolError(f"generation: expected one of {sorted(self._aims)}, got {generation}")
        target, memory = self._aims[generation]
        slot = wire.integer(message, "slot", 0, memory.slots - 1)
        memory.take(slot)
        self._last_index = wire.integer(message, "frame_index", self._last_index + 1, _INT63)
        return PreparedFrame(
            frame_index=self._last_index,
            pts=None if message.get("pts") is None else wire.integer(message, "pts", -_INT63, _INT63),
            time_base=_time_base(message),
            time_seconds=wire.number(message, "time_seconds"),
            width=wire.integer(message, "width", 1, _INT32),
            height=wire.integer(message, "height", 1, _INT32),
            target=target,
            pixels=memory.view(slot, target.layout),
            decode_seconds=wire.number(message, "decode_seconds"),
            prepare_seconds=wire.number(message, "prepare_seconds"),
            wall_clock=_wall_clock(message),
            on_release=partial(self._release, memory, slot),
        )

    def _release(self, memory: FrameMemory, slot: int) -> None:
        memory.give_back(slot)
        # Slots of memory that the decoder was told to leave need no word.
        if self._generation in self._aims and memory is self._aims[self._generation][1]:
            self._released.append(slot)
            if memory.taken <= memory.slots // 2:
                self._tell_released()
            elif self._telling is None:
                self._telling = asyncio.get_running_loop().call_later(AHEAD_SECONDS, self._tell_released)

    def _tell_released(self) -> None:
        self._stop_telling()
        if self._released:
            self._decoder.send(type="release", slots=self._released)
            self._released.clear()

    def _stop_telling(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None

    def _summary(self, message: dict[str, Any]) -> VideoSummary:
        return VideoSummary(
            frames_decoded=wire.integer(message, "frames_decoded", 0, _INT63),
            frames_dropped=wire.integer(message, "frames_dropped", 0, _INT63),
            corrupt_packets=wire.integer(message, "corrupt_packets", 0, _INT63),
            bytes_received=self._bytes_received,
            truncated=wire.flag(message, "truncated"),
            stopped=wire.flag(message, "stopped"),
        )


def _info(message: dict[str, Any]) -> VideoInfo:
    return VideoInfo(
        container=wire.text(message, "container"),
        codec=wire.text(message, "codec"),
        width=wire.integer(message, "width", 1, _INT32),
        height=wire.integer(message, "height", 1, _INT32),
        frame_rate=wire.number(message, "frame_rate"),
        duration_seconds=wire.number(message, "duration_seconds"),
        frame_count=wire.integer(message, "frame_count", 0, _INT63),
    )


def _time_base(message: dict[str, Any]) -> tuple[int, int]:
    pair = message.get("time_base")
    if not isinstance(pair, list) or len(pair) != 2:
        raise wire.ProtocolError(f"time_base: expected two numbers, got {pair!r}")
    parts = {"numerator": pair[0], "denominator": pair[1]}
    return wire.integer(parts, "numerator", 1, _INT32), wire.integer(parts, "denominator", 1, _INT32)


def _wall_clock(message: dict[str, Any]) -> WallClock | None:
    if "wall_clock" not in message:
        return None
    return WallClock(wire.number(message, "wall_clock"), wire.flag(message, "camera"))
