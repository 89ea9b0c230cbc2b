"""What a call asks of frames, and one version that answers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from inference_server import metrics
from inference_server.batcher import Answer, Job
from inference_server.detection import Options, place
from inference_server.engine import LoadedModel
from inference_server.errors import InvalidField, RawTensorsOnly, TensorsOnly
from inference_server.fair_queue import Turn
from inference_server.serving import Lease, Running, ServedModel
from inference_server.video import PreparedFrame, WallClock


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is asked of every frame.

    `options` are the fields of `Options` that the caller chose; the version's own defaults stand for the others. With
    `class_names` only those classes count; `include_tensors` says whether raw outputs are wanted. `together`: how many
    frames of a video may be told of in one event.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    include_tensors: bool = False
    together: int = 1

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


class Asking:
    """Frames of one call and the version that answers them, with what is the same for all of these frames."""

    def __init__(self, served: ServedModel, running: Running, analysis: Analysis, turn: Turn) -> None:
        self.running = running
        self.model = running.model
        self._served = served
        self._options = analysis.options_for(running.model)
        self._include_outputs = analysis.include_tensors
        self._turn = turn
        self._frames_answered = metrics.FRAMES_ANSWERED.labels(served.model_name, running.model.version.version)

    def ask(self, frame: PreparedFrame) -> Job[Answer]:
        """Queue a frame; its pixels must stay until it is answered."""
        spot = place(self.model.layout, frame.width, frame.height)
        ask = self.running.batcher.ask
        return ask(frame.pixels, spot, self._options, include_outputs=self._include_outputs, turn=self._turn)

    async def answer(self, frame: PreparedFrame) -> AnsweredFrame:
        """Wait until a frame is answered, or, when cancelled, until its pixels are not read any more."""
        job = self.ask(frame)
        try:
            answer = await self.running.batcher.wait(job)
        except Exception:
            self.count(failed=True)
            raise
        self.count(failed=False)
        return self.answered(frame, answer)

    def count(self, *, failed: bool) -> None:
        if failed:
            self._served.frames_failed += 1
            metrics.FRAMES_FAILED.labels(self._served.model_name).inc()
        else:
            self._served.frames_answered += 1
            self._frames_answered.inc()

    def answered(self, frame: PreparedFrame, answer: Answer) -> AnsweredFrame:
        return AnsweredFrame(
            frame.frame_index,
            frame.pts,
            frame.time_base,
            frame.time_seconds,
            frame.width,
            frame.height,
            frame.decode_seconds,
            frame.prepare_seconds,
            self.model,
            answer,
            frame.wall_clock,
        )


class Pending:
    """A frame of a stream on its way."""

    __slots__ = ("_job", "answer", "asking", "frame", "lease")

    def __init__(self, frame: PreparedFrame, lease: Lease, asking: Asking, job: Job[Answer]) -> None:
        self.frame = frame
        self.lease = lease
        self.asking = asking
        self.answer = job.answer
        self._job = job

    def withdraw(self) -> bool:
        return self.asking.running.batcher.withdraw(self._job)


def _name(model: LoadedModel) -> str:
    return f"{model.version.model_name} version {model.version.version}"
