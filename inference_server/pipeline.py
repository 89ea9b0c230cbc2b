"""From encoded video or pictures to answers: decoder → batcher → answer, in order, each frame by one version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Protocol

from inference_server import metrics
from inference_server.asking import Analysis, AnsweredFrame, Asking, Pending
from inference_server.batcher import Answer
from inference_server.engine import LoadedModel
from inference_server.errors import Overloaded, ShuttingDown
from inference_server.fair_queue import Turn
from inference_server.outbox import Outbox
from inference_server.serving import Lease, ServedModel, ServedModels
from inference_server.sources import Gap, Patience, Source, SourceStream
from inference_server.video import (
    DecodedStream,
    DecoderPool,
    Picture,
    PreparedFrame,
    StreamRequest,
    Target,
    VideoInfo,
    VideoSummary,
)


@dataclass(frozen=True, slots=True)
class StartedVideo:
    """A video was recognised; `model` answers at this moment."""

    info: VideoInfo
    model: LoadedModel


@dataclass(frozen=True, slots=True)
class FinishedVideo:
    """Totals of a video."""

    summary: VideoSummary
    frames_per_version: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class AnsweredFrames:
    """One or several frames to be told of together, in order."""

    frames: Sequence[AnsweredFrame]


Event = StartedVideo | AnsweredFrames | Gap | FinishedVideo

# Answers that wait to be sent while the memory of their frames is already free for the next ones.
MAX_UNSENT = 64


class Frames(Protocol):
    """A video being decoded; see DecodedStream."""

    summary: VideoSummary

    async def started(self) -> VideoInfo: ...
    async def retarget(self, target: Target) -> None: ...
    def __aiter__(self) -> AsyncIterator[PreparedFrame]: ...


class Pipeline:
    """Everything that a call to the inference service needs, behind three methods."""

    def __init__(self, models: ServedModels, pool: DecoderPool, max_streams: int) -> None:
        self._models = models
        self._pool = pool
        self._max_streams = max_streams
        self._streams: set[_Stream] = set()

    @property
    def active_streams(self) -> int:
        return len(self._streams)

    async def analyze_video(
        self, model_name: str, request: StreamRequest, analysis: Analysis, chunks: AsyncIterator[bytes]
    ) -> AsyncGenerator[Event, None]:
        """Decode `chunks` and answer the frames sampled, while more chunks come in."""
        with self._admit(model_name, analysis, latest=request.latest) as stream:
            async with (
                await self._pool.open(request, stream.target) as decoded,
                aclosing(stream.run(decoded, _upload(decoded, chunks))) as events,
            ):
                async for event in events:
                    yield event

    async def analyze_source(
        self, model_name: str, request: StreamRequest, analysis: Analysis, source: Source, patience: Patience
    ) -> AsyncGenerator[Event, None]:
        """The same for a source that this server reads by itself, over all gaps of a live one."""
        with self._admit(model_name, analysis, latest=request.latest) as stream:
            async with (
                SourceStream(self._pool, source, request, stream.target, patience, stream.report) as decoded,
                aclosing(stream.run(decoded)) as events,
            ):
                async for event in events:
                    yield event

    @contextmanager
    def _admit(self, model_name: str, analysis: Analysis, *, latest: bool) -> Iterator[_Stream]:
        """A place for one more stream, and the version that runs now."""
        if len(self._streams) >= self._max_streams:
            raise Overloaded(f"max-streams: {self._max_streams} videos are being analysed, the limit of this server")
        served = self._models.find(model_name)
        with served.lease() as running:
            analysis.check(running.model)
            # Where only the newest frame counts, or an answer is as large as its frame, the caller sets the pace.
            unsent = 0 if latest or analysis.include_tensors else MAX_UNSENT
            stream = _Stream(served, running.lease(), analysis, unsent)
        self._streams.add(stream)
        metrics.STREAMS.inc()
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            metrics.STREAMS.dec()
            stream.release()

    async def analyze_pictures(
        self, model_name: str, analysis: Analysis, pictures: Sequence[Picture]
    ) -> list[AnsweredFrame]:
        """Answer all pictures by the version that runs now."""
        served = self._models.find(model_name)
        with served.lease() as running:
            analysis.check(running.model)
            async with self._pool.prepare_pictures(pictures, running.model.layout) as prepared:
                asking = Asking(served, running, analysis, Turn(caller=object()))
                return await _all([asking.answer(frame) for frame in prepared])

    def stop(self) -> None:
        """End the streams that are still running: each gets the answers that are ready, then ShuttingDown."""
        for stream in self._streams:
            stream.fail(ShuttingDown())


class _Stream:
    """One video on its way through.

    Frames are prepared for a generation: a version of the model, leased. When the model is swapped, a new generation
    begins; the old one's lease is kept until the decoder has said that no more frames for it will come, and each of its
    frames holds a lease of its own until it is answered. So every frame is answered by the version that it was prepared
    for, versions never go back, and a stream that stands still keeps no old version loaded.
    """

    def __init__(self, served: ServedModel, lease: Lease, analysis: Analysis, max_unsent: int) -> None:
        self._served = served
        self._analysis = analysis
        self._max_unsent = max_unsent
        self._leases = {0: lease}
        self._turn = Turn(caller=object(), bounded=False)  # not itself: memory must not wait for a collection
        self._asking = Asking(served, lease.running, analysis, self._turn)
        # Where frames keep their memory until they are told of, none can follow one that waits.
        together = analysis.together if max_unsent else 1
        self._outbox: Outbox[StartedVideo | Gap | Exception | _End, Pending] = Outbox(together)
        self._per_version: dict[int, int] = {}

    @property
    def target(self) -> Target:
        """What frames are to be prepared for now."""
        generation = max(self._leases)
        return Target(self._leases[generation].running.model.layout, generation)

    def fail(self, error: Exception) -> None:
        """End the stream with `error`, after the answers that are already on their way."""
        self._outbox.put(error)

    def report(self, gap: Gap) -> None:
        """Tell of a gap, after the answers that are already on their way."""
        self._outbox.put(gap)

    def release(self) -> None:
        for lease in self._leases.values():
            lease.release()

    async def run(self, decoded: Frames, *feeding: Coroutine[Any, Any, None]) -> AsyncGenerator[Event, None]:
        """Yield what happens to the video, in order, while `feeding` gives the decoder its input."""
        parts = (*feeding, self._follow(decoded), self._read(decoded))
        tasks = [asyncio.create_task(self._guard(part)) for part in parts]
        try:
            while (taken := await self._outbox.take()) is not _END:
                if isinstance(taken, Exception):
                    raise taken
                if isinstance(taken, StartedVideo | Gap):
                    yield taken
                elif isinstance(taken, list):
                    yield AnsweredFrames([self._answered(pending) for pending in taken])
                    for pending in taken:
                        pending.frame.release()
            self._report(decoded.summary)
            yield FinishedVideo(decoded.summary, self._per_version)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._give_up()

    async def _give_up(self) -> None:
        """Take back what is still to be answered."""
        begun = [pending.answer for pending in self._outbox.unanswered() if not pending.withdraw()]
        if begun:  # frames are views of memory that goes with the decoder: wait for the session to be done with them
            await asyncio.wait(begun)
        # The error that ends a stream may keep it, in circles, until the garbage collector comes.
        for pending in self._outbox.clear():
            pending.frame.release()

    async def _guard(self, part: Any) -> None:
        try:
            await part
        except Exception as error:  # noqa: BLE001 - raised again where the results are read
            self.fail(error)

    async def _follow(self, decoded: Frames) -> None:
        """Begin a new generation whenever the model is swapped."""
        generation, lease = 0, self._leases[0]
        while True:
            running = await self._served.successor(lease.running)
            generation, previous, lease = generation + 1, lease, running.lease()
            self._leases[generation] = lease
            await decoded.retarget(Target(running.model.layout, generation))
            del self._leases[generation - 1]
            previous.release()

    async def _read(self, decoded: Frames) -> None:
        """Send every frame to its version once it is prepared; the decoder's slots bound how many are on the way."""
        info = await decoded.started()
        self._outbox.put(StartedVideo(info, self._leases[max(self._leases)].running.model))
        async for frame in decoded:
            lease = self._leases[frame.target.generation].running.lease()
            if lease.running is not self._asking.running:
                self._asking = Asking(self._served, lease.running, self._analysis, self._turn)
            pending = Pending(frame, lease, self._asking, self._asking.ask(frame))
            pending.answer.add_done_callback(partial(self._settle, pending))
            self._outbox.expect(pending)
        self._outbox.put(_END)

    def _settle(self, pending: Pending, answer: asyncio.Future[Answer]) -> None:
        """The session is done with a frame: its version may go, and its memory unless too many answers wait already."""
        pending.lease.release()
        if not answer.cancelled():
            pending.asking.count(failed=answer.exception() is not None)
        if len(self._outbox) <= self._max_unsent:
            pending.frame.release()
        self._outbox.answered()

    def _answered(self, pending: Pending) -> AnsweredFrame:
        version = pending.asking.model.version.version
        answered = pending.asking.answered(pending.frame, pending.answer.result())
        self._per_version[version] = self._per_version.get(version, 0) + 1
        return answered

    def _report(self, summary: VideoSummary) -> None:
        metrics.FRAMES_DROPPED.labels(self._served.model_name).inc(summary.frames_dropped)
        metrics.CORRUPT_PACKETS.labels(self._served.model_name).inc(summary.corrupt_packets)


class _End(Enum):
    """After the last frame."""

    END = "end"


_END = _End.END


async def _upload(decoded: DecodedStream, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        await decoded.feed(chunk)
    await decoded.end_of_input()


async def _all(answers: Sequence[Any]) -> list[AnsweredFrame]:
    """Await all of them even if one fails, since they use memory that goes when this returns."""
    done = await asyncio.gather(*answers, return_exceptions=True)
    for item in done:
        if isinstance(item, BaseException):
            raise item
    return [item for item in done if not isinstance(item, BaseException)]
