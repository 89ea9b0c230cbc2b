"""Where decoders come from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Self
from weakref import WeakSet

from inference_server.detection.geometry import Layout
from inference_server.video.memory import Pin
from inference_server.video.pictures import PictureJob
from inference_server.video.processes import Nursery
from inference_server.video.settings import DecoderSettings
from inference_server.video.stream import DecodedStream
from inference_server.video.values import OpenedFile, Picture, PreparedFrame, StreamRequest, Target


class DecoderPool:
    """Gives every video, and every set of pictures, a process of its own. Use as an async context manager."""

    def __init__(
        self,
        settings: DecoderSettings | None = None,
        on_ready: Callable[[Collection[str]], None] = lambda _: None,
        pin: Pin | None = None,
    ) -> None:
        """`on_ready` is told which layers of the sandbox decoders are in, whenever a process to fork from is ready.

        `pin` is for the memory of streams; that of pictures is used once, and would cost more than it brings.
        """
        self._pin = pin
        self._settings = settings or DecoderSettings()
        self._nursery = Nursery(self._settings.decode_timeout_seconds, on_ready)
        self._streams: WeakSet[DecodedStream] = WeakSet()

    async def __aenter__(self) -> Self:
        self._nursery.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all decoders."""
        await self._nursery.close()

    async def open(self, request: StreamRequest, target: Target, file: OpenedFile | None = None) -> DecodedStream:
        """A stream that is ready to be fed, or that reads `file`. Nothing is waited for; close it when done.

        The decoder gets a descriptor of its own; the caller closes the one in `file`.
        """
        settings = replace(self._settings, threads=self.threads_for(request))
        stream = DecodedStream(self._nursery.fork(), request, target, settings, file, self._pin)
        self._streams.add(stream)
        return stream

    def threads_for(self, request: StreamRequest) -> int:
        """How many threads may decode one video more beside those that are being decoded."""
        share = self._settings.threads // (1 + sum(stream.decoding for stream in self._streams))
        return max(1, share if request.sampled else share - 1)  # one core is for what is done with the frames

    @asynccontextmanager
    async def prepare_pictures(self, pictures: Sequence[Picture], layout: Layout) -> AsyncIterator[list[PreparedFrame]]:
        """The pictures, decoded and placed in `layout`, in order; `frame_index` is the position.

        Raises InvalidPicture, UnsupportedVideo or VideoLimitExceeded, naming the picture as `frames[i]`, or
        DecoderFailed.
        """
        if not pictures:
            yield []
            return
        job = PictureJob(self._nursery.fork(), pictures, layout, self._settings)
        try:
            yield await job.run()
        finally:
            await job.close()
