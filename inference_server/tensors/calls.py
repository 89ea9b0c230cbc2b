"""Answers requests for tensors: the version that runs when a request comes answers all of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from numpy.typing import NDArray
from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server.errors import DeadlinePassed, InvalidField, NotSupported, VersionNotRunning
from inference_server.serving import Lease, Running, ServedModel, ServedModels
from inference_server.tensors.convert import Call, read_call, write_response
from inference_server.tensors.messages import InferRequest, InferResponse
from inference_server.tensors.shared_memory import Regions
from inference_server.tensors.statistics import AllStatistics, Timing

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


@dataclass(frozen=True, slots=True)
class Wish:
    """How a request is to be treated: larger `priority` first, given up `timeout` seconds after it came."""

    priority: int = 0
    timeout: float | None = None


def read_wish(request: pb.ModelInferRequest) -> Wish:
    """What the parameters ask for. Raises InvalidField, NotSupported."""
    for name in SEQUENCE:
        if name in request.parameters and _value(request, name):
            raise NotSupported(f"parameters: {name} is not supported: each request is answered by itself")
    priority, timeout = (_whole(request, name) for name in ("priority", "timeout"))
    # 1 is the highest, and requests that name none go with those that say 2.
    return Wish(2 - priority if priority else 0, timeout / MICROSECONDS if timeout else None)


class Calls:
    """All requests for tensors."""

    def __init__(self, models: ServedModels, regions: Regions) -> None:
        self._models = models
        self._regions = regions
        self.statistics = AllStatistics()

    async def answer(self, request: InferRequest) -> InferResponse:
        """Answer one request by one version. Raises what the domain raises."""
        message = request.message
        served = self._models.find(message.model_name)
        with lease(self._models, message.model_name, message.model_version) as running:
            started = perf_counter()
            try:
                response = await self._answer(request, served, running, started)
            except Exception:
                self.statistics.of(running).failed(perf_counter() - started)
                served.requests_failed += 1
                raise
            served.requests_answered += 1
            return response

    async def _answer(
        self, request: InferRequest, served: ServedModel, running: Running, started: float
    ) -> InferResponse:
        wish = read_wish(request.message)
        call = read_call(request, running.model, self._regions)
        read = perf_counter()
        arrays, began, ended = await _run(served, running, call, wish)
        response = write_response(request.message, running.model, call, arrays)
        done = perf_counter()
        timing = Timing(call.rows, read - started, began - read, ended - began, done - ended, done - started)
        self.statistics.of(running).answered(timing)
        return response


async def _run(
    served: ServedModel, running: Running, call: Call, wish: Wish
) -> tuple[dict[str, NDArray[Any]], float, float]:
    """The outputs, when the session began and when it ended."""
    queued = perf_counter()

    def run() -> tuple[dict[str, NDArray[Any]], float, float]:
        began = perf_counter()
        if wish.timeout is not None and began - queued > wish.timeout:
            raise DeadlinePassed("its timeout passed while it waited for the session")
        arrays = running.model.infer(call.inputs, call.outputs)
        return dict(zip(call.outputs, arrays, strict=True)), began, perf_counter()

    # The session reads the inputs where they lie: they must outlive it even if the caller goes away.
    return await asyncio.shield(asyncio.get_running_loop().run_in_executor(served.executor, run))


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
