"""Frames and tensors that wait for one loaded version, run together."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from threading import Lock, Semaphore
from time import monotonic, perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from inference_server import metrics
from inference_server.detection import Found, Options, Placement
from inference_server.engine import LoadedModel
from inference_server.errors import DeadlinePassed, InvalidField, QueueFull
from inference_server.fair_queue import FairQueue, Turn
from inference_server.pace import Pace

Arrays = Mapping[str, NDArray[Any]]
Result = TypeVar("Result")

MAX_QUEUE = 1024
ANY_TURN = Turn()
LATE = "its deadline passed while it waited for the session"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a version made of one frame, and how long that took; `inference_seconds` is for the whole batch.

    `outputs` are copies, and only there if asked for: the session's own arrays would keep all of its memory.
    """

    found: Found
    outputs: Arrays
    queue_seconds: float
    inference_seconds: float
    postprocess_seconds: float


@dataclass(frozen=True, slots=True)
class TensorAnswer:
    """The outputs of a request for tensors, as many rows as its inputs had, and how long that took.

    They are the session's own memory, or views of it: send them or copy them, and let go.
    """

    outputs: Arrays
    queue_seconds: float
    inference_seconds: float


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a frame's outputs are read."""

    placement: Placement
    options: Options
    include_outputs: bool


@dataclass(slots=True, eq=False)
class Job(Generic[Result]):
    """Rows that go through the session together. `alike` is what jobs of one batch have in common.

    `shapes` is what the time of a run depends on where it goes alone.
    """

    inputs: Arrays
    rows: int
    alike: Hashable
    outputs: Collection[str] | None
    reading: _Reading | None
    turn: Turn
    answer: asyncio.Future[Result]
    queued_at: float = field(default_factory=perf_counter)
    shapes: Hashable = field(init=False)

    def __post_init__(self) -> None:
        self.shapes = tuple((name, array.shape) for name, array in self.inputs.items())

    def wants(self, output: str) -> bool:
        return self.outputs is None or output in self.outputs


_Answers = list[tuple[Job[Any], Any]]
"""Jobs with what each ends with, an answer or an exception."""


class Batcher:
    """Runs what all callers ask of one loaded version.

    It never waits for a batch to fill: whenever the session is free for another run it takes what is queued, as
    `FairQueue` orders it, up to as many rows as the version has `room` for. A thread takes the next batch itself,
    without asking the event loop. At most `max_queue` rows wait. What is given up, by its caller or for its deadline,
    leaves the queue at once.

    At most `runs` batches run at a time. `turns` is held while one does, so that the versions of one model take turns;
    with one thread more than `runs` in `executor` one reads the outputs of a batch while others run the next.

    What comes to an idle session and is known to be over at once is run where it is, in the thread of the event loop:
    the way to another and back would take longer. Not so where callers crowd, for their batches take less than each of
    them alone: when others come in the same turn of the event loop, or the last batch was of several.
    """

    def __init__(
        self,
        model: LoadedModel,
        executor: Executor,
        turns: Semaphore,
        *,
        runs: int = 1,
        max_queue: int = MAX_QUEUE,
    ) -> None:
        self._model = model
        self._executor = executor
        self._turns = turns
        self._runs = runs
        self._max_queue = max_queue
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics.of_queue(model.version.model_name)
        self._frames_alike = _frames_alike(model)
        self._pace = Pace()
        self._crowded = False
        self._lock = Lock()  # of what follows
        self._queue: FairQueue[Job[Any]] = FairQueue()
        self._bounded_rows = 0
        self._steps = 0  # under way, until their batches have run

    async def submit(
        self,
        pixels: NDArray[Any],
        placement: Placement,
        options: Options,
        *,
        include_outputs: bool = False,
        turn: Turn = ANY_TURN,
    ) -> Answer:
        """Answer one frame, (H, W, 3) uint8 RGB in the version's layout.

        `pixels` must stay as they are until this ends, also when it is cancelled. Raises QueueFull, DeadlinePassed.
        """
        return await self.wait(self.ask(pixels, placement, options, include_outputs=include_outputs, turn=turn))

    def ask(
        self,
        pixels: NDArray[Any],
        placement: Placement,
        options: Options,
        *,
        include_outputs: bool = False,
        turn: Turn = ANY_TURN,
    ) -> Job[Answer]:
        """As `submit`, for who needs no task to wait in: `answer` of what this returns ends as `submit` does.

        It must not be cancelled: to give it up, `withdraw` it. `pixels` must stay as they are until it is done.
        """
        outputs = None if include_outputs else self._model.read_outputs
        reading = _Reading(placement, options, include_outputs)
        inputs = {self._model.frames_input: pixels[None]}
        return self._ask(inputs, 1, self._frames_alike, outputs, reading, turn)

    def withdraw(self, job: Job[Any]) -> bool:
        """Cancel the answer, unless the session has begun with it: then False, and its arrays are in use until then."""
        if not self._remove(job):
            return False
        job.answer.cancel()
        return True

    async def submit_tensors(
        self, inputs: Arrays, rows: int, *, outputs: Collection[str] | None = None, turn: Turn = ANY_TURN
    ) -> TensorAnswer:
        """Run `inputs`, arrays of `rows` rows, and give the outputs called so (all of them if None).

        Requests whose inputs have the same names, types and further dimensions are run together, frames included; each
        is run as a whole, and by a version of fixed batch alone. The arrays must stay as they are until this ends.
        Raises InvalidField, QueueFull, DeadlinePassed.
        """
        if self._model.batch is not None:
            alike: Hashable = object()
        elif rows > self._model.max_batch:
            raise InvalidField("inputs", f"at most {self._model.max_batch} rows for this server and model, got {rows}")
        else:
            alike = _alike(inputs)
        job: Job[TensorAnswer] = self._ask(inputs, rows, alike, outputs, None, turn)
        return await self.wait(job)

    def _ask(
        self,
        inputs: Arrays,
        rows: int,
        alike: Hashable,
        outputs: Collection[str] | None,
        reading: _Reading | None,
        turn: Turn,
    ) -> Job[Any]:
        job: Job[Any] = Job(inputs, rows, alike, outputs, reading, turn, self._loop.create_future())
        self._push(job)
        if turn.deadline is not None and not job.answer.done():
            late = self._loop.call_at(turn.deadline, self._give_up, job)
            job.answer.add_done_callback(lambda _: late.cancel())
        return job

    async def wait(self, job: Job[Result]) -> Result:
        """The answer; when cancelled, this ends only once the arrays are not in use any more."""
        try:
            return await asyncio.shield(job.answer)
        except asyncio.CancelledError:
            if not self.withdraw(job):
                await asyncio.wait((job.answer,))  # the session is reading the arrays
            raise

    def _push(self, job: Job[Any]) -> None:
        if self._may_run_here(job) and self._turns.acquire(blocking=False):
            self._run_here(job)
            return
        with self._lock:
            if job.turn.bounded and self._bounded_rows and self._bounded_rows + job.rows > self._max_queue:
                self._metrics.rejected.inc()
                raise QueueFull(self._model.version.model_name, self._max_queue)
            self._queue.push(job)
            self._count(job, 1)
            if self._steps == self._runs:
                return
            self._steps += 1
        self._executor.submit(self._step)

    def _may_run_here(self, job: Job[Any]) -> bool:
        # Steps begin in this thread alone: there is none, and so nothing in the queue, until this one begins one.
        return not self._steps and not self._crowded and self._pace.is_quick(job.shapes)

    def _run_here(self, job: Job[Any]) -> None:
        self._crowded = True  # for all that comes in this turn of the event loop
        self._loop.call_soon(self._disperse)
        try:
            batch = _Batch(self._model.room(1))
            batch.takes(job)
            batch.run(self._model)
        finally:
            self._turns.release()
        self._settle(batch, batch.read(self._model, self._metrics))

    def _disperse(self) -> None:
        self._crowded = False

    def _remove(self, job: Job[Any]) -> bool:
        with self._lock:
            was_there = self._queue.remove(job)
            if was_there:
                self._count(job, -1)
        return was_there

    def _give_up(self, job: Job[Any]) -> None:
        if self._remove(job):
            self._metrics.expired.inc()
            job.answer.set_exception(DeadlinePassed(LATE))

    def _count(self, job: Job[Any], sign: int) -> None:
        if job.turn.bounded:
            self._bounded_rows += sign * job.rows
        self._metrics.waiting.inc(sign * job.rows)

    def _step(self) -> None:
        """Run the batch whose turn it is; in a thread of the executor. The next step begins while this one reads."""
        with self._turns:
            batch = self._take()
            batch.run(self._model)
        with self._lock:
            more = bool(self._queue.size)
            self._steps -= not more
        if more:
            self._executor.submit(self._step)
        self._loop.call_soon_threadsafe(self._settle_step, batch, batch.read(self._model, self._metrics))

    def _settle_step(self, batch: _Batch, answers: _Answers) -> None:
        self._crowded = batch.alone is None
        self._settle(batch, answers)

    def _settle(self, batch: _Batch, answers: _Answers) -> None:
        """Tell who waits; in the thread of the event loop."""
        if batch.alone is not None:
            self._pace.learn(batch.alone, batch.total_seconds)
        for job, answer in answers:
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)

    def _take(self) -> _Batch:
        with self._lock:
            batch = _Batch(self._model.room(self._queue.size))
            for job in self._queue.take(batch.takes):
                self._count(job, -1)
        return batch


def _frames_alike(model: LoadedModel) -> Hashable:
    """What frames have in common; nothing where the model takes none."""
    if model.family.picture is None:
        return None
    return _alike({model.frames_input: np.empty((1, model.layout.height, model.layout.width, 3), np.uint8)})


def _alike(inputs: Arrays) -> Hashable:
    return tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in inputs.items()))


class _Batch:
    """Jobs that go together, at most `most` rows, and those that came too late to go at all."""

    def __init__(self, most: int) -> None:
        self._room = most
        self._now = monotonic()
        self._jobs: list[Job[Any]] = []
        self._late: list[Job[Any]] = []
        self._ran: list[tuple[Arrays | Exception, int]] = []  # each job's outputs, and its first row in them
        self._started = 0.0
        self._seconds = 0.0
        self.total_seconds = 0.0  # all that it took, reading included; infinite if it failed, however soon that was

    @property
    def alone(self) -> Hashable:
        """The shapes of the only job that ran, None if several did or none."""
        return self._jobs[0].shapes if len(self._jobs) == 1 else None

    def takes(self, job: Job[Any]) -> bool | None:
        """Add a job and return True; False if it does not go with the others, None if no more do."""
        if not self._room:
            return None
        if job.turn.deadline is not None and job.turn.deadline <= self._now:
            self._late.append(job)
            return True
        if self._jobs and (job.rows > self._room or job.alike != self._jobs[0].alike):
            return False
        self._jobs.append(job)
        self._room = max(0, self._room - job.rows)
        return True

    def run(self, model: LoadedModel) -> None:
        """Run all jobs together; if that fails, each alone, so that none fails for what another brought."""
        self._started = perf_counter()
        if self._jobs:
            together = self._run(model, self._jobs)
            failed = isinstance(together, Exception) and len(self._jobs) > 1
            self._ran = [(self._run(model, [job]), 0) for job in self._jobs] if failed else self._shared(together)
        self._seconds = perf_counter() - self._started

    def _run(self, model: LoadedModel, jobs: Sequence[Job[Any]]) -> Arrays | Exception:
        try:
            return model.run_rows([job.inputs for job in jobs], _outputs(jobs))
        except Exception as error:  # noqa: BLE001 - raised again where the answers are awaited
            return error

    def _shared(self, together: Arrays | Exception) -> list[tuple[Arrays | Exception, int]]:
        firsts = accumulate((job.rows for job in self._jobs), initial=0)
        return [(together, first) for first, _ in zip(firsts, self._jobs, strict=False)]

    def read(self, model: LoadedModel, seen: metrics.OfQueue) -> _Answers:
        """Each job with its answer, or with the exception that it ends with. What the session gave is let go of."""
        seen.ran(self._started, self._seconds, [(job.rows, job.queued_at) for job in self._jobs])
        if self._late:
            seen.expired.inc(len(self._late))
        ran, self._ran = self._ran, []
        answers = [
            outputs if isinstance(outputs, Exception) else self._answer(model, job, outputs, first)
            for job, (outputs, first) in zip(self._jobs, ran, strict=True)
        ]
        failed = any(isinstance(answer, Exception) for answer in answers)
        self.total_seconds = inf if failed else perf_counter() - self._started
        return [*((job, DeadlinePassed(LATE)) for job in self._late), *zip(self._jobs, answers, strict=True)]

    def _answer(self, model: LoadedModel, job: Job[Any], ran: Arrays, first: int) -> Any:
        try:
            if job.reading is None:
                return self._tensors(job, ran, first, whole=model.batch is not None)
            return self._found(model, job, job.reading, ran, first)
        except Exception as error:  # noqa: BLE001 - of this job alone; raised again where it is awaited
            return error

    def _tensors(self, job: Job[Any], ran: Arrays, first: int, *, whole: bool) -> TensorAnswer:
        wanted = {name: array for name, array in ran.items() if job.wants(name)}
        outputs = wanted if whole else {name: array[first : first + job.rows] for name, array in wanted.items()}
        return TensorAnswer(outputs, self._started - job.queued_at, self._seconds)

    def _found(self, model: LoadedModel, job: Job[Any], reading: _Reading, ran: Arrays, first: int) -> Answer:
        started = perf_counter()
        kept = {name: array[first].copy() for name, array in ran.items()} if reading.include_outputs else {}
        found = model.read(ran, first, reading.placement, reading.options)
        queued = self._started - job.queued_at
        return Answer(found, kept, queued, self._seconds, perf_counter() - started)


def _outputs(jobs: Sequence[Job[Any]]) -> Collection[str] | None:
    wanted: set[str] = set()
    for job in jobs:
        if job.outputs is None:
            return None
        wanted.update(job.outputs)
    return wanted
