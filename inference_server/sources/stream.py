"""A source being decoded, as the pipeline sees it: one stream of frames over as many connections as it takes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import Self

import structlog

from inference_server.errors import (
    CorruptVideo,
    DecoderFailed,
    InvalidField,
    SourceError,
    SourceNotAllowed,
    SourceUnavailable,
)
from inference_server.sources.source import Connection, Gap, Patience, Source, SourceLost
from inference_server.video import (
    DecodedStream,
    DecoderPool,
    PreparedFrame,
    StreamRequest,
    Target,
    VideoInfo,
    VideoSummary,
    WallClock,
)

log = structlog.get_logger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


@dataclass(slots=True)
class _Position:
    """How far the stream has come: what the next connection goes on from."""

    first_index: int = 0
    next_index: int = 0
    seconds: float = 0.0
    at: float = 0.0  # when the last frame came, by the loop's clock
    frames: int = 0


class SourceStream:
    """Like DecodedStream, but it fetches its input by itself. Use as an async context manager; iterate once.

    A live source that breaks off is connected to again, with growing pauses; `on_gap` is told how that goes, before the
    iteration gives any frame that comes after it. Then frame indices and times go on. `started` raises a SourceError or
    VideoError if the source cannot be opened; the iteration raises SourceUnavailable when patience is at its end.
    """

    def __init__(
        self,
        pool: DecoderPool,
        source: Source,
        request: StreamRequest,
        target: Target,
        patience: Patience,
        on_gap: Callable[[Gap], None],
    ) -> None:
        self.summary = VideoSummary()
        self._pool = pool
        self._source = source
        self._request = request
        self._target = target
        self._patience = patience
        self._on_gap = on_gap
        self._live = False
        self._position = _Position()
        self._open = AsyncExitStack()
        self._decoded: DecodedStream | None = None
        self._connection: Connection
        self._pump: asyncio.Task[str | None]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def started(self) -> VideoInfo:
        """What was recognised, once the first frame is decoded."""
        try:
            return await self._connect()
        except SourceLost as lost:
            raise SourceUnavailable(f"the source broke off before its first picture: {lost}") from None

    async def retarget(self, target: Target) -> None:
        """Prepare frames for `target`; see DecodedStream. In a gap, what comes after it is meant."""
        self._target = target
        if self._decoded is not None:
            await self._decoded.retarget(target)

    async def __aiter__(self) -> AsyncIterator[PreparedFrame]:
        failure: str | None = None
        while True:
            decoded = self._decoded
            assert decoded is not None  # noqa: S101 - started() or _resume() has returned
            try:
                async for frame in decoded:
                    self._note(frame)
                    yield frame
            except (CorruptVideo, DecoderFailed) as error:
                if not self._live:
                    raise
                failure = str(error)
            self._add_up(decoded.summary)
            reason = failure or await self._why_ended(decoded)
            if reason is None:
                return
            await self._resume(reason)
            failure = None

    def _note(self, frame: PreparedFrame) -> None:
        position = self._position
        position.next_index = frame.frame_index + 1
        position.seconds, position.at = frame.time_seconds, asyncio.get_running_loop().time()
        position.frames += 1
        clock = self._connection.clock
        if frame.wall_clock is not None and clock is not None and frame.pts is not None:
            numerator, denominator = frame.time_base
            frame.wall_clock = WallClock(clock + frame.pts * numerator / denominator, camera=True)

    def _add_up(self, part: VideoSummary) -> None:
        """Add a connection's totals; a decoder that failed told none, so its frames are those that came out of it."""
        position, so_far = self._position, self.summary
        position.next_index = max(position.next_index, position.first_index + part.frames_decoded)
        self.summary = replace(
            so_far,
            frames_decoded=position.next_index,
            frames_dropped=so_far.frames_dropped + part.frames_dropped,
            corrupt_packets=so_far.corrupt_packets + part.corrupt_packets,
            bytes_received=so_far.bytes_received + part.bytes_received,
            truncated=part.truncated,
        )

    async def _why_ended(self, decoded: DecodedStream) -> str | None:
        """Why a decoder that has finished got no more input; None if nothing more was wanted or to be had."""
        if decoded.summary.stopped:
            return None
        if not self._pump.done():  # the decoder was told inside its input that this is the end
            return "the source ended the stream" if self._live else None
        reason = self._pump.result()
        if reason is not None and not self._live:
            raise SourceUnavailable(f"the source broke off: {reason}")
        return reason

    async def _connect(self) -> VideoInfo:
        """Open the source and wait for its first picture. Raises SourceError, SourceLost and VideoError."""
        self._open = AsyncExitStack()
        connection = await self._open.enter_async_context(self._source.connect())
        self._connection, self._live = connection, connection.live
        if connection.live and self._request.resume_after_pts is not None:
            raise InvalidField("resume_after_pts", "none, since the frames of a live source do not come again")
        decoded = await self._pool.open(self._next_request(), self._target, connection.file)
        self._decoded = decoded
        self._open.push_async_callback(self._leave, decoded)
        self._pump = asyncio.create_task(_pump(connection, decoded))
        self._open.push_async_callback(_cancel, self._pump)
        try:
            info = await decoded.started()
            return replace(info, container=connection.container or info.container)
        except (CorruptVideo, DecoderFailed) as error:
            if self._pump.done() and (reason := self._pump.result()) is not None:
                raise SourceLost(reason) from error
            raise

    def _next_request(self) -> StreamRequest:
        position, request = self._position, replace(self._request, wall_clock=self._live)
        if not position.frames:
            return request
        position.first_index = position.next_index
        return replace(
            request,
            first_index=position.first_index,
            first_seconds=position.seconds + asyncio.get_running_loop().time() - position.at,
            max_frames=request.max_frames and request.max_frames - position.frames,
        )

    async def _leave(self, decoded: DecodedStream) -> None:
        self._decoded = None
        await decoded.close()

    async def _close(self) -> None:
        await self._open.aclose()

    async def _resume(self, reason: str) -> None:
        """Connect again until there is a picture, and tell how that goes. Raises SourceUnavailable."""
        await self._close()
        loop, patience = asyncio.get_running_loop(), self._patience
        start, attempts = loop.time(), 0
        gap = Gap(self.summary.gaps, reason, 0.0, 0, resumed=False, began=time.time())
        self._on_gap(gap)
        log.info("source lost", reason=reason)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(start + patience.give_up_seconds):
                while patience.max_reconnects is None or attempts < patience.max_reconnects:
                    await asyncio.sleep(_pause(attempts))
                    attempts += 1
                    failure = await self._attempt()
                    gap = replace(
                        gap,
                        seconds=loop.time() - start,
                        attempts=attempts,
                        reason=failure or reason,
                        resumed=failure is None,
                    )
                    self._on_gap(gap)
                    if failure is None:
                        self.summary = replace(
                            self.summary, gaps=gap.index + 1, gap_seconds=self.summary.gap_seconds + gap.seconds
                        )
                        return
        limit = "give_up_seconds" if attempts != patience.max_reconnects else "max_reconnects"
        away = loop.time() - start
        raise SourceUnavailable(
            f"{limit}: the source was lost and did not come back in {away:.1f} s and {attempts} attempts: {gap.reason}"
        )

    async def _attempt(self) -> str | None:
        """Connect once; why that failed, if it did and may go better another time."""
        try:
            await self._connect()
        except SourceNotAllowed:
            raise
        except (SourceError, SourceLost, CorruptVideo, DecoderFailed) as error:
            await self._close()
            return str(error)
        except BaseException:
            await self._close()
            raise
        return None


async def _pump(connection: Connection, decoded: DecodedStream) -> str | None:
    """Move the input; why it broke off, or None if it has come to its end."""
    try:
        await connection.pump(decoded)
    except SourceLost as lost:
        return str(lost)
    finally:
        await decoded.end_of_input()
    return None


async def _cancel(task: asyncio.Task[str | None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _pause(attempts: int) -> float:
    """Seconds to wait before the next attempt: twice as long each time, a random half to whole of that."""
    return min(_FIRST_PAUSE * 2.0**attempts, _LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311 - no secret
