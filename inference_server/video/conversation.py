"""The server's side of talking to one decoder: who is dead, who hangs, and why."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from inference_server import errors
from inference_server.detection.geometry import Layout
from inference_server.errors import DecoderFailed, VideoError, VideoLimitExceeded
from inference_server.video import memory, wire
from inference_server.video.channel import Channel
from inference_server.video.memory import FrameMemory, Pin, frame_bytes
from inference_server.video.processes import DecoderProcess, describe
from inference_server.video.settings import DecoderSettings
from inference_server.video.values import Target

_FAILURES: dict[str, type[VideoError]] = {
    kind.__name__: kind
    for kind in (
        errors.UnsupportedVideo,
        errors.CorruptVideo,
        errors.FrameNotFound,
        errors.InvalidPicture,
        errors.VideoLimitExceeded,
        errors.DecoderFailed,
    )
}


class Conversation:
    """Hands what the decoder says to `on_message`, until it has finished or failed: then `on_end` is called, once.

    A decoder answers between any two steps of its work; one silent for `decode_timeout_seconds` is killed.
    """

    def __init__(
        self,
        process: DecoderProcess,
        settings: DecoderSettings,
        on_message: Callable[[dict[str, Any]], None],
        on_end: Callable[[VideoError | None], None],
    ) -> None:
        self._process = process
        self._settings = settings
        self._on_message = on_message
        self._on_end = on_end
        self._heard = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent_too_long = False
        self.ended = False
        self._channel = Channel(process.control, self._receive, self._lost)
        self._spawn(self._watch(settings.decode_timeout_seconds))

    def send(self, fds: Sequence[int] = (), /, **message: Any) -> None:
        self._channel.send(message, fds)

    def send_target(self, target: Target, slots: int, slot_bytes: int, fd: int | None) -> None:
        """Tell the decoder what to prepare for, and in which memory if that is new."""
        layout = target.layout
        message = {
            "type": "target",
            "generation": target.generation,
            "width": layout.width,
            "height": layout.height,
            "resize": layout.resize.value,
            "fill": layout.fill,
            "slots": slots if fd is not None else 0,
            "slot_bytes": slot_bytes,
        }
        self._channel.send(message, () if fd is None else (fd,))

    async def close(self) -> None:
        """End it, whatever it is doing, and wait until the process is gone."""
        self._end(DecoderFailed("the stream was closed"))
        self._channel.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._process.close()

    def _receive(self, message: dict[str, Any]) -> None:
        self._heard.set()
        if self.ended or message.get("type") == "pong":
            return
        if message.get("type") == "failed":
            kind = _FAILURES.get(wire.text(message, "kind"), DecoderFailed)
            self._end(kind(wire.text(message, "reason")))
            return
        self._on_message(message)
        if message.get("type") == "finished":
            self._end(None)

    def _lost(self, reason: str) -> None:
        if not self.ended:
            self._spawn(self._explain(reason))

    async def _explain(self, reason: str) -> None:
        if reason:
            self._process.kill()
        await asyncio.wait((self._process.exited,), timeout=1)
        exit_status = self._process.exited.result() if self._process.exited.done() else "it closed its connection"
        self._end(self._failure(reason or exit_status))

    def _failure(self, cause: int | str) -> VideoError:
        if cause == -signal.SIGPROF:
            seconds = self._settings.max_frame_cpu_seconds
            return VideoLimitExceeded(f"max_frame_cpu_seconds: a frame needs more than {seconds:g} s of the processor")
        if self._silent_too_long:
            return VideoLimitExceeded(f"decode_timeout_seconds: the process that decodes this video {cause}")
        return DecoderFailed(f"the process that decodes this video failed: {describe(cause)}")

    async def _watch(self, timeout_seconds: float) -> None:
        """After a while of silence ask; kill a decoder that leaves the question unanswered."""
        await self._process.forked.wait()
        while not self.ended:
            if await self._silent(timeout_seconds / 2):
                self.send(type="ping")
                if await self._silent(timeout_seconds):
                    self._silent_too_long = True
                    self._channel.close(f"did not answer for {timeout_seconds:g} s")
                    return
            await asyncio.sleep(timeout_seconds / 2)

    async def _silent(self, seconds: float) -> bool:
        """Whether the decoder says nothing for so long."""
        self._heard.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        # Not whether the wait timed out: a busy event loop may see the answer and the end of the time at once.
        return not self._heard.is_set()

    def _end(self, error: VideoError | None) -> None:
        if not self.ended:
            self.ended = True
            self._on_end(error)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def share(layout: Layout, slots: int, pin: Pin | None = None) -> tuple[int, FrameMemory]:
    """Make memory for `slots` frames of `layout`: its descriptor, which the caller closes, and the server's view."""
    size = frame_bytes(layout)
    fd = memory.create(slots * size)
    return fd, FrameMemory(fd, slots, size, writable=False, pin=pin)
