"""Cases of the Open Inference Protocol: requests that do not fit, that lie, and that are no requests."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping

from case import LIMIT_SECONDS, Case, Target
from distortions import distort
from google.protobuf.message import Message
from mixed import MIXED, SoundRequest, sound_request
from mutations import MUTATIONS
from oracle import ALLOWED, Outcome
from shared_memory import SERVICE, WRITTEN, Memories
from videoai.inference.v1 import inference_pb2
from videoai.open_inference.v2 import open_inference_pb2 as pb

INFER, STREAM = f"{SERVICE}/ModelInfer", f"{SERVICE}/ModelStreamInfer"
REFUSED = {"NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION", "UNAVAILABLE", "ALREADY_EXISTS"}
STREAM_SHARE, WIRE_SHARE, SOUND_SHARE = 0.25, 0.3, 0.1


class TensorCase(Case):
    """A request, or a stream of some, and a sound one behind it, whose answer must be right."""

    kind = "tensors"
    allowed = ALLOWED | REFUSED

    def __init__(self, number: int, memories: Memories, pictures: pb.ModelInferRequest) -> None:
        super().__init__(number)
        self._memories, self._pictures = memories, pictures
        self._streamed = self._rng.random() < STREAM_SHARE
        count = self._rng.choice((1, 3, 20)) if self._streamed else 1
        made = [self._make(index) for index in range(count)]
        self._requests = [request for request, _, _ in made]
        self._sound = [sound for _, sound, _ in made]
        self.sound = not self._streamed and self._sound[0] is not None
        self.what = ("stream: " if self._streamed else "") + "; ".join(what for _, _, what in made)
        self._control = sound_request(self._rng, memories, f"{number}-control")
        self.inputs = self._requests

    def _make(self, index: int) -> tuple[bytes, SoundRequest | None, str]:
        """The bytes of a request, what it must be answered with if it is sound, and what was done to it."""
        rng, name = self._rng, f"{self.number}-{index}"
        sound = sound_request(rng, self._memories, name)
        if rng.random() < SOUND_SHARE:
            return sound.request.SerializeToString(), sound, "sound"
        request = sound.request
        if rng.random() < 0.2:
            request = pb.ModelInferRequest()
            request.CopyFrom(self._pictures)
            request.id = name
        done = [distort(request, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        data = request.SerializeToString()
        if rng.random() < WIRE_SHARE:
            data, wire = damage(data, rng)
            done.append(wire)
        return data, None, " ".join(done)

    async def _send(self, target: Target, outcome: Outcome) -> None:
        if self._streamed:
            await self._stream(target, outcome)
        else:
            outcome.method = INFER
            answer = await self._ask(target, INFER, self._requests[0], outcome)
            outcome.problems += self._check(answer, self._sound[0], outcome)
        await self._beside(target, outcome)

    async def _beside(self, target: Target, outcome: Outcome) -> None:
        """A sound request, on the same connection."""
        control = Outcome(self.number, "control", 0)
        answer = await self._ask(target, INFER, self._control.request.SerializeToString(), control)
        wrong = self._control.problems(pb.ModelInferResponse.FromString(answer or b""))
        outcome.problems += [
            f"sound request behind it: {control.status} {control.message}: {problem}" for problem in wrong
        ]

    def _check(self, answer: bytes | None, sound: SoundRequest | None, outcome: Outcome) -> list[str]:
        if answer is None:
            return [] if sound is None else [f"it is sound: {outcome.status}: {outcome.message}"]
        response = pb.ModelInferResponse.FromString(answer)
        return check_response(response) if sound is None else sound.problems(response)

    async def _stream(self, target: Target, outcome: Outcome) -> None:
        outcome.method = STREAM
        call = target.channel.stream_stream(STREAM)(iter(self._requests), timeout=LIMIT_SECONDS)
        answers = await self._receive(target, call, outcome)
        if outcome.status == "OK" and len(answers) != len(self._requests):
            outcome.problems.append(f"{len(self._requests)} requests, {len(answers)} answers")
        for data, sound in zip(answers, self._sound, strict=False):
            answer = pb.ModelStreamInferResponse.FromString(data)
            if sound is not None:
                outcome.problems += [*filter(None, [answer.error_message]), *sound.problems(answer.infer_response)]
            elif not answer.error_message:
                outcome.problems += check_response(answer.infer_response)


class MessageCase(Case):
    """The bytes of some other request of either service, damaged."""

    kind = "message"
    allowed = ALLOWED | REFUSED | {"PERMISSION_DENIED"}

    def __init__(self, number: int, memories: Memories, model: str, picture: bytes) -> None:
        super().__init__(number)
        requests = dict(_requests(number, memories, model, picture, self._rng))
        self.method = self._rng.choice([*requests])
        data, wire = damage(requests[self.method].SerializeToString(), self._rng)
        self.inputs = [data]
        self.what = f"{self.method.rpartition('/')[2]} {wire}"

    async def _send(self, target: Target, outcome: Outcome) -> None:
        outcome.method = self.method
        if self.method.endswith(("AnalyzeVideo", "AnalyzeSource")):
            call = target.channel.stream_stream(self.method)(iter(self.inputs), timeout=LIMIT_SECONDS)
            await self._receive(target, call, outcome)
        else:
            await self._ask(target, self.method, self.inputs[0], outcome)


def _requests(
    number: int, memories: Memories, model: str, picture: bytes, rng: random.Random
) -> Iterator[tuple[str, Message]]:
    """Sound requests, by method. Those that would change what others see are left out."""
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        yield f"{SERVICE}/{method}", getattr(pb, f"{method}Request")(name=rng.choice((model, MIXED)), version="1")
    for method in ("ServerLive", "ServerReady", "ServerMetadata", "CudaSharedMemoryStatus"):
        yield f"{SERVICE}/{method}", getattr(pb, f"{method}Request")()
    yield f"{SERVICE}/RepositoryIndex", pb.RepositoryIndexRequest(ready=True)
    yield f"{SERVICE}/TraceSetting", pb.TraceSettingRequest(model_name=MIXED)
    yield f"{SERVICE}/SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name=WRITTEN)
    yield (
        f"{SERVICE}/SystemSharedMemoryRegister",
        pb.SystemSharedMemoryRegisterRequest(
            name=f"case-{number}",
            key=rng.choice((memories.key(WRITTEN), "/", "", "../etc/passwd", "/dev/zero", "x" * 300)),
            offset=rng.choice((0, 1, 2**63, 2**64 - 1)),
            byte_size=rng.choice((0, 1, 2**16, 2**63, 2**64 - 1)),
        ),
    )
    ours = "/videoai.inference.v1.InferenceService"
    config = inference_pb2.AnalyzeConfig(model_name=model, stride=1, confidence_threshold=0.5, class_names=["a"])
    frames = [inference_pb2.Picture(encoded=picture)]
    yield (
        f"{ours}/AnalyzeFrames",
        inference_pb2.AnalyzeFramesRequest(model_name=model, frames=frames, iou_threshold=0.5),
    )
    yield f"{ours}/AnalyzeVideo", inference_pb2.AnalyzeVideoRequest(config=config)
    yield f"{ours}/AnalyzeSource", inference_pb2.AnalyzeSourceRequest(uri="file:///nowhere", config=config)


def damage(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Bytes of a message, mutated without regard to what they mean."""
    mutation = rng.choice(MUTATIONS)
    return mutation(data, data, rng), f"wire {mutation.__name__}"


def check_response(response: pb.ModelInferResponse) -> list[str]:
    """What is wrong with the form of an answer, whatever was asked."""
    raw, outputs = response.raw_output_contents, response.outputs
    if len(raw) != len(outputs):
        return [f"{len(outputs)} outputs, {len(raw)} contents"]
    problems = []
    for output, content in zip(outputs, raw, strict=True):
        size = _ITEM_SIZES.get(output.datatype)
        elsewhere = "shared_memory_region" in output.parameters
        if size is not None and len(content) != (0 if elsewhere else size * math.prod(output.shape)):
            problems.append(f"{output.name}: {list(output.shape)} of {output.datatype} in {len(content)} bytes")
    return problems


_ITEM_SIZES: Mapping[str, int] = {
    "BOOL": 1, "UINT8": 1, "INT64": 8, "FP16": 2, "FP32": 4,
}  # fmt: skip
