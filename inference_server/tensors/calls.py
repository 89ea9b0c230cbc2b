"""Answers requests for tensors: the version that runs when a request comes answers all of it."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any
from weakref import ReferenceType, ref

from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server.errors import DeadlinePassed, InvalidField, NotSupported, TimedOut, VersionNotRunning
from inference_server.fair_queue import Turn
from inference_server.serving import Lease, Running, ServedModel, ServedModels
from inference_server.tensors.convert import Plan, plan
from inference_server.tensors.messages import Head, InferRequest, InferResponse
from inference_server.tensors.shared_memory import Regions
from inference_server.tensors.statistics import AllStatistics, Statistics, Timing

MICROSECONDS = 1_000_000
SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")


def lease(models: ServedModels, name: str, version: str) -> Lease:
    """Hold the running version of a model. Raises ModelNotServed, ModelNotReady, VersionNotRunning, InvalidField."""
    served = models.find(name)
    wanted = read_version(version)
    held = served.lease()
    running = held.running.model.version.version
    if wanted not in (None, running):
        held.release()
        raise VersionNotRunning(served.model_name, wanted, running)
    return held


def read_version(version: str) -> int | None:
    """The version that a request names, None where it leaves it open. Raises InvalidField."""
    if not version:
        return None
    if not (version.isascii() and version.isdigit() and len(version) < 11 and int(version) > 0):
        raise InvalidField("version", f"a whole number of 1 or more, or nothing, got {version[:50]!r}")
    return int(version)


def read_turn(request: pb.ModelInferRequest) -> tuple[int, float]:
    """Priority and seconds to wait at most (0 = as long as it takes) as the parameters say.

    Raises InvalidField, NotSupported.
    """
    for name in SEQUENCE:
        if _value(request, name):
            raise NotSupported(f"parameters: {name} is not supported: each request is answered by itself")
    priority, timeout = (_whole(request, name) for name in ("priority", "timeout"))
    # 1 is the highest, and requests that name none go with those that say 2.
    return 2 - priority if priority else 0, timeout / MICROSECONDS


@dataclass(frozen=True, slots=True)
class _Known:
    """What the head of a request asks, for as long as the same version runs. Heads are kept, but keep no version."""

    served: ServedModel
    asked: ReferenceType[Running]
    statistics: Statistics
    plan: Plan
    priority: int
    timeout: float

    @property
    def running(self) -> Running | None:
        """The version, if it still runs."""
        running = self.served.running
        return running if running is self.asked() else None

    def turn(self, caller: str) -> Turn:
        return Turn(caller, self.priority, monotonic() + self.timeout if self.timeout else None)


class Calls:
    """All requests for tensors."""

    def __init__(self, models: ServedModels, regions: Regions) -> None:
        self._models = models
        self._regions = regions
        self.statistics = AllStatistics()

    async def answer(self, request: InferRequest, caller: str) -> InferResponse:
        """Answer one request by one version; callers take turns. Raises what the domain raises."""
        started = perf_counter()
        known: _Known | None = request.head.known
        if known is None or (running := known.running) is None:
            known, running = self._look_at(request.head, started)
        with running.lease():
            try:
                response = await self._answer(request, known, running, caller, started)
            except Exception:
                _failed(known.served, known.statistics, started)
                raise
            known.served.requests_answered += 1
            return response

    def _look_at(self, head: Head, started: float) -> tuple[_Known, Running]:
        """What `head` asks of the version that runs; kept there, unless it leaves open which model it means."""
        message = head.message
        served = self._models.find(message.model_name)
        with lease(self._models, message.model_name, message.model_version) as running:
            statistics = self.statistics.of(running)
            try:
                turn = read_turn(message)
                known = _Known(served, ref(running), statistics, plan(message, running.model, self._regions), *turn)
            except Exception:
                _failed(served, statistics, started)
                raise
        if message.model_name:
            head.known = known
        return known, running

    async def _answer(
        self, request: InferRequest, known: _Known, running: Running, caller: str, started: float
    ) -> InferResponse:
        plan = known.plan
        inputs = plan.read(request.raw, self._regions)
        read = perf_counter()
        try:
            answer = await running.batcher.submit_tensors(
                inputs, plan.rows, outputs=plan.names, turn=known.turn(caller)
            )
        except DeadlinePassed as error:
            raise TimedOut(str(error)) from None
        ran = perf_counter()
        response = plan.answer(answer.outputs, request.id, self._regions)
        done = perf_counter()
        known.statistics.answered(
            Timing(
                plan.rows, read - started, answer.queue_seconds, answer.inference_seconds, done - ran, done - started
            )
        )
        return response


def _failed(served: ServedModel, statistics: Statistics, started: float) -> None:
    statistics.failed(perf_counter() - started)
    served.requests_failed += 1


def _whole(request: pb.ModelInferRequest, name: str) -> int:
    value = _value(request, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidField(f"parameters[{name!r}]", f"a whole number of 0 or more, got {value!r}")
    return value


def _value(request: pb.ModelInferRequest, name: str) -> Any:
    if name not in request.parameters:
        return 0
    parameter = request.parameters[name]
    choice = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, choice) if choice else 0
