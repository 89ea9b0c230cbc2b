"""From encoded video or pictures to answers: decoder → batcher → answer, in order, each frame by one version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from inference_server import metrics
from inference_server.batcher import Answer
from inference_server.detection import Options, place
from inference_server.engine import LoadedModel
from inference_server.errors import InvalidField, Overloaded, RawTensorsOnly, ShuttingDown, TensorsOnly
from inference_server.fair_queue import Turn
from inference_server.serving import Lease, Running, ServedModel, ServedModels
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
    WallClock,
)


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is asked of every frame.

    `options` are the fields of `Options` that the caller chose; the version's own defaults stand for the others. With
    `class_names` only those classes count; `include_tensors` says whether raw outputs are wanted.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    include_tensors: bool = False

    def check(self, model: LoadedModel) -> None:
        """Raise where the version cannot do what is asked. Asked of the version that runs when a call begins."""
        unknown = sorted(set(self.class_names) - set(model.family.class_names))
        if unknown:
            known = ", ".join(model.family.class_names) or "none"
            raise InvalidField("class_names", f"classes of {_name(model)} ({known}), got {', '.join(unknown)}")
        if model.family.picture is None:
            raise TensorsOnly(_name(model))
        if model.family.name == "tensors" and not self.include_tensors:
            raise RawTensorsOnly(_name(model))

    def options_for(self, model: LoadedModel) -> Options:
        """The options with the version's defaults and class ids; names that a later version lacks match nothing."""
        options = replace(model.defaults, **self.options)
        if not self.class_names:
            return options
        wanted = {index for index, name in enumerate(model.family.class_names) if name in self.class_names}
        return replace(options, class_ids=frozenset(wanted))


@dataclass(frozen=True, slots=True)
class StartedVideo:
    """A video was recognised; `model` answers at this moment."""

    info: VideoInfo
    model: LoadedModel


@dataclass(frozen=True, slots=True)
class AnsweredFrame:
    """One frame or picture and what `model` made of it."""

    frame_index: int
    pts: int | None
    time_base: tuple[int, int]
    time_seconds: float
    width: int
    height: int
    decode_seconds: float
    prepare_seconds: float
    model: LoadedModel
    answer: Answer
    wall_clock: WallClock | None = None


@dataclass(frozen=True, slots=True)
class FinishedVideo:
    """Totals of a video."""

    summary: VideoSummary
    frames_per_version: Mapping[int, int]


Event = StartedVideo | AnsweredFrame | Gap | FinishedVideo


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
        with self._admit(model_name, analysis) as stream:
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
        with self._admit(model_name, analysis) as stream:
            async with (
                SourceStream(self._pool, source, request, stream.target, patience, stream.report) as decoded,
                aclosing(stream.run(decoded)) as events,
            ):
                async for event in events:
                    yield event

    @contextmanager
    def _admit(self, model_name: str, analysis: Analysis) -> Iterator[_Stream]:
        """A place for one more stream, and the version that runs now."""
        if len(self._streams) >= self._max_streams:
            raise Overloaded(f"max-streams: {self._max_streams} videos are being analysed, the limit of this server")
        served = self._models.find(model_name)
        with served.lease() as running:
            analysis.check(running.model)
            stream = _Stream(served, running.lease(), analysis)
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
                turn = Turn(caller=object())
                return await _all([_answer(served, running, analysis, frame, turn) for frame in prepared])

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

    def __init__(self, served: ServedModel, lease: Lease, analysis: Analysis) -> None:
        self._served = served
        self._analysis = analysis
        self._leases = {0: lease}
        self._turn = Turn(caller=self, bounded=False)
        self._ready: asyncio.Queue[StartedVideo | Gap | _Pending | Exception | None] = asyncio.Queue()
        self._in_flight: set[asyncio.Task[AnsweredFrame]] = set()
        self._per_version: dict[int, int] = {}

    @property
    def target(self) -> Target:
        """What frames are to be prepared for now."""
        generation = max(self._leases)
        return Target(self._leases[generation].running.model.layout, generation)

    def fail(self, error: Exception) -> None:
        """End the stream with `error`, after the answers that are already on their way."""
        self._ready.put_nowait(error)

    def report(self, gap: Gap) -> None:
        """Tell of a gap, after the answers that are already on their way."""
        self._ready.put_nowait(gap)

    def release(self) -> None:
        for lease in self._leases.values():
            lease.release()

    async def run(self, decoded: Frames, *feeding: Coroutine[Any, Any, None]) -> AsyncGenerator[Event, None]:
        """Yield what happens to the video, in order, while `feeding` gives the decoder its input."""
        parts = (*feeding, self._follow(decoded), self._read(decoded))
        tasks = [asyncio.create_task(self._guard(part)) for part in parts]
        try:
            while (item := await self._ready.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, StartedVideo | Gap):
                    yield item
                    continue
                answered = await item.answer
                self._count(answered.model.version.version)
                yield answered
                item.frame.release()
            self._report(decoded.summary)
            yield FinishedVideo(decoded.summary, self._per_version)
        finally:
            for task in (*tasks, *self._in_flight):
                task.cancel()
            # Frames are views of memory that goes with the decoder: wait for the session to be done with them.
            await asyncio.gather(*tasks, *self._in_flight, return_exceptions=True)

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
        self._ready.put_nowait(StartedVideo(info, self._leases[max(self._leases)].running.model))
        async for frame in decoded:
            lease = self._leases[frame.target.generation].running.lease()
            task = asyncio.create_task(_answer(self._served, lease.running, self._analysis, frame, self._turn))
            task.add_done_callback(lambda _, lease=lease: lease.release())  # type: ignore[misc]
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)
            self._ready.put_nowait(_Pending(frame, task))
        self._ready.put_nowait(None)

    def _count(self, version: int) -> None:
        self._per_version[version] = self._per_version.get(version, 0) + 1

    def _report(self, summary: VideoSummary) -> None:
        metrics.FRAMES_DROPPED.labels(self._served.model_name).inc(summary.frames_dropped)
        metrics.CORRUPT_PACKETS.labels(self._served.model_name).inc(summary.corrupt_packets)


@dataclass(frozen=True, slots=True)
class _Pending:
    frame: PreparedFrame
    answer: asyncio.Task[AnsweredFrame]


async def _upload(decoded: DecodedStream, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        await decoded.feed(chunk)
    await decoded.end_of_input()


async def _answer(
    served: ServedModel, running: Running, analysis: Analysis, frame: PreparedFrame, turn: Turn
) -> AnsweredFrame:
    model = running.model
    placement = place(model.layout, frame.width, frame.height)
    try:
        answer = await running.batcher.submit(
            frame.pixels,
            placement,
            analysis.options_for(model),
            include_outputs=analysis.include_tensors,
            turn=turn,
        )
    except Exception:
        served.frames_failed += 1
        metrics.FRAMES_FAILED.labels(served.model_name).inc()
        raise
    served.frames_answered += 1
    metrics.FRAMES_ANSWERED.labels(served.model_name, model.version.version).inc()
    return AnsweredFrame(
        frame.frame_index,
        frame.pts,
        frame.time_base,
        frame.time_seconds,
        frame.width,
        frame.height,
        frame.decode_seconds,
        frame.prepare_seconds,
        model,
        answer,
        frame.wall_clock,
    )


async def _all(answers: Sequence[Any]) -> list[AnsweredFrame]:
    """Await all of them even if one fails, since they use memory that goes when this returns."""
    done = await asyncio.gather(*answers, return_exceptions=True)
    for item in done:
        if isinstance(item, BaseException):
            raise item
    return [item for item in done if not isinstance(item, BaseException)]


def _name(model: LoadedModel) -> str:
    return f"{model.version.model_name} version {model.version.version}"
