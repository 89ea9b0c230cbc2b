"""Frames that wait for one loaded version, run together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from inference_server import metrics
from inference_server.detection import Found, Options, Placement
from inference_server.engine import LoadedModel


@dataclass(frozen=True, slots=True)
class Answer:
    """What a version made of one frame, and how long that took; `inference_seconds` is for the whole batch.

    `outputs` are copies, and only there if asked for: the session's own arrays would keep all of its memory.
    """

    found: Found
    outputs: Mapping[str, NDArray[Any]]
    queue_seconds: float
    inference_seconds: float
    postprocess_seconds: float


@dataclass(slots=True)
class Job:
    """One frame, (H, W, 3) uint8 RGB in the version's layout, and what is asked of it."""

    pixels: NDArray[Any]
    placement: Placement
    options: Options
    include_outputs: bool
    answer: asyncio.Future[Answer]
    taken: bool = False
    queued_at: float = field(default_factory=perf_counter)


class Batcher:
    """Runs the frames of all streams through one loaded version.

    It never waits for a batch to fill: whenever the session is free it takes what is queued, oldest first, up to the
    version's `max_batch`. Frames whose caller has gone are left out.
    """

    def __init__(self, model: LoadedModel, executor: Executor) -> None:
        self._model = model
        self._executor = executor
        self._queue: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"batcher {model.version.model_name}")

    async def submit(
        self, pixels: NDArray[Any], placement: Placement, options: Options, *, include_outputs: bool = False
    ) -> Answer:
        """Answer one frame. `pixels` must stay as they are until this ends, also when it is cancelled."""
        job = Job(pixels, placement, options, include_outputs, asyncio.get_running_loop().create_future())
        self._queue.append(job)
        self._wake.set()
        try:
            return await asyncio.shield(job.answer)
        except asyncio.CancelledError:
            if job.taken:
                await asyncio.wait((job.answer,))  # the session is reading the pixels
            else:
                job.answer.cancel()
            raise

    async def close(self) -> None:
        """Stop; nothing may be queued any more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._take():
                metrics.BATCH_SIZE.labels(self._model.version.model_name).observe(len(batch))
                running = loop.run_in_executor(self._executor, _answer, self._model, batch)
                _settle(batch, *await asyncio.gather(running, return_exceptions=True))

    def _take(self) -> list[Job]:
        batch: list[Job] = []
        while self._queue and len(batch) < self._model.max_batch:
            job = self._queue.popleft()
            if not job.answer.cancelled():
                job.taken = True
                batch.append(job)
        return batch


def _answer(model: LoadedModel, batch: Sequence[Job]) -> list[Answer]:
    """Run one batch and read each frame's outputs; in the session's thread."""
    started = perf_counter()
    outputs = model.run([job.pixels for job in batch])
    inference_seconds = perf_counter() - started
    metrics.INFERENCE_SECONDS.labels(model.version.model_name).observe(inference_seconds)
    answers = []
    for job, frame_outputs in zip(batch, outputs, strict=True):
        decode_started = perf_counter()
        found = model.family.decode(frame_outputs, job.placement, job.options)
        answers.append(
            Answer(
                found,
                {name: array.copy() for name, array in frame_outputs.items()} if job.include_outputs else {},
                queue_seconds=started - job.queued_at,
                inference_seconds=inference_seconds,
                postprocess_seconds=perf_counter() - decode_started,
            )
        )
    return answers


def _settle(batch: Sequence[Job], answers: list[Answer] | BaseException) -> None:
    for index, job in enumerate(batch):
        if isinstance(answers, BaseException):
            job.answer.set_exception(answers)
        else:
            job.answer.set_result(answers[index])
