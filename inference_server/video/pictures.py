"""A handful of pictures being decoded and placed, in a process of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from inference_server.detection.geometry import Layout
from inference_server.errors import VideoError
from inference_server.video import wire
from inference_server.video.conversation import Conversation, share
from inference_server.video.memory import FrameMemory
from inference_server.video.processes import DecoderProcess
from inference_server.video.settings import DecoderSettings
from inference_server.video.values import Picture, PreparedFrame, RawPicture, Target

_INT32 = 2**31 - 1


class PictureJob:
    """One set of pictures. The process ends with it, so that no caller's picture can reach another's."""

    def __init__(
        self, process: DecoderProcess, pictures: Sequence[Picture], layout: Layout, settings: DecoderSettings
    ) -> None:
        self._process = process
        self._pictures = pictures
        self._target = Target(layout, 0)
        self._prepared: list[PreparedFrame] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._decoder = Conversation(process, settings, self._receive, self._end)
        self._decoder.send(
            type="pictures",
            pictures=[_describe(picture) for picture in pictures],
            max_pixels=settings.max_pixels,
            memory_limit_bytes=settings.memory_limit_bytes,
            max_frame_cpu_seconds=settings.max_frame_cpu_seconds,
        )
        fd, memory = share(layout, len(pictures))
        self._memory: FrameMemory | None = memory
        self._decoder.send_target(self._target, len(pictures), memory.slot_bytes, fd)
        os.close(fd)

    async def run(self) -> list[PreparedFrame]:
        """The pictures, in order. Raises VideoError naming the one that is bad."""
        for picture in self._pictures:
            if not await self._process.write(picture.rgb if isinstance(picture, RawPicture) else picture.data):
                break
        await asyncio.wait((self._done,))
        self._done.result()
        return self._prepared

    async def close(self) -> None:
        """End the process, and let go of the frames: who has taken one may go on reading it."""
        await self._decoder.close()
        # An error refers to this job in circles; frame memory must not wait for the garbage collector.
        self._prepared.clear()
        self._memory = None

    def _receive(self, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "picture":
                self._prepared.append(self._frame(message))
            case "finished" if len(self._prepared) != len(self._pictures):
                raise wire.ProtocolError(f"expected {len(self._pictures)} pictures, got {len(self._prepared)}")
            case "finished" | "retargeted":
                pass
            case kind:
                raise wire.ProtocolError(f"type: expected one that a decoder sends, got {kind!r}")

    def _frame(self, message: dict[str, Any]) -> PreparedFrame:
        index = len(self._prepared)
        if index == len(self._pictures) or self._memory is None:
            raise wire.ProtocolError(f"expected {index} pictures, got more")
        return PreparedFrame(
            frame_index=index,
            pts=None,
            time_base=(1, 1),
            time_seconds=0.0,
            width=wire.integer(message, "width", 1, _INT32),
            height=wire.integer(message, "height", 1, _INT32),
            target=self._target,
            pixels=self._memory.view(index, self._target.layout),
            decode_seconds=wire.number(message, "decode_seconds"),
            prepare_seconds=wire.number(message, "prepare_seconds"),
        )

    def _end(self, error: VideoError | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)
            self._done.exception()  # nobody has to look: who has gone does not want to know


def _describe(picture: Picture) -> dict[str, int]:
    if isinstance(picture, RawPicture):
        return {"size": len(picture.rgb), "width": picture.width, "height": picture.height}
    return {"size": len(picture.data), "width": 0, "height": 0}
