"""Cases of AnalyzeVideo and AnalyzeFrames: mutated videos and pictures."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress

import grpc
from case import LIMIT_SECONDS, Case, Target, choose_config
from mutations import mutate
from oracle import Outcome, check_frame, check_video
from videoai.inference.v1 import inference_pb2 as pb
from videoai.inference.v1 import inference_pb2_grpc

PICTURE_SHARE, CANCELLED_SHARE = 0.1, 0.03
SERVICE = "/videoai.inference.v1.InferenceService"


class UploadCase(Case):
    """A video, or some pictures."""

    kind = "upload"

    def __init__(self, number: int, videos: Mapping[str, bytes], pictures: Mapping[str, bytes], model: str) -> None:
        super().__init__(number)
        self.is_video = self._rng.random() >= PICTURE_SHARE
        files = videos if self.is_video else pictures
        count = 1 if self.is_video else self._rng.choice((1, 1, 2, 5))
        mutated = [mutate(files, self._rng) for _ in range(count)]
        self.inputs = [data for data, _ in mutated]
        self.what = "; ".join(what for _, what in mutated)
        self.cancelled = self.is_video and self._rng.random() < CANCELLED_SHARE
        self._model = model
        self._config = choose_config(self._rng, model)
        self._chunks = list(_cut(self.inputs[0], self._rng))
        self._take = self._rng.randrange(4) if self.cancelled else None

    async def _send(self, target: Target, outcome: Outcome) -> None:
        await (self._video(target, outcome) if self.is_video else self._pictures(target, outcome))

    async def _video(self, target: Target, outcome: Outcome) -> None:
        outcome.method = f"{SERVICE}/AnalyzeVideo"
        stub = target.stub(inference_pb2_grpc.InferenceServiceStub)
        call = stub.AnalyzeVideo(self._requests(), timeout=LIMIT_SECONDS)
        responses: list[pb.AnalyzeVideoResponse] = await self._receive(target, call, outcome, self._take)
        outcome.frames = sum(response.HasField("frame") for response in responses)
        outcome.problems += check_video(responses, whole=outcome.status == "OK" or self._had_all(responses))

    def _had_all(self, responses: list[pb.AnalyzeVideoResponse]) -> bool:
        """Whether the call was cancelled when its last message had come."""
        return self.cancelled and bool(responses) and responses[-1].HasField("summary")

    async def _pictures(self, target: Target, outcome: Outcome) -> None:
        outcome.method = f"{SERVICE}/AnalyzeFrames"
        frames = [pb.Picture(encoded=data) for data in self.inputs]
        request = pb.AnalyzeFramesRequest(model_name=self._model, frames=frames)
        try:
            stub = target.stub(inference_pb2_grpc.InferenceServiceStub)
            answer = await stub.AnalyzeFrames(request, timeout=LIMIT_SECONDS)
        except grpc.aio.AioRpcError as error:
            self._note(target, outcome, error.code().name, error.details() or "")
            return
        self._note(target, outcome, "OK", "")
        outcome.frames = len(answer.results)
        if len(answer.results) != len(frames):
            outcome.problems.append(f"{len(frames)} pictures, {len(answer.results)} results")
        outcome.problems += [problem for frame in answer.results for problem in check_frame(frame)]

    async def _requests(self) -> AsyncIterator[pb.AnalyzeVideoRequest]:
        yield pb.AnalyzeVideoRequest(config=self._config)
        with suppress(asyncio.CancelledError):
            for chunk in self._chunks:
                yield pb.AnalyzeVideoRequest(chunk=chunk)


def _cut(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """The input in chunks: in one, byte by byte at first, of one size, or of any."""
    kind, at = rng.choice(("whole", "bytes", "even", "uneven")), 0
    size = rng.choice((188, 1000, 4096)) if kind == "even" else len(data)
    while at < len(data):
        if kind == "bytes":
            size = 1 if at < 40 else len(data)
        elif kind == "uneven":
            size = rng.choice((1, 100, 1500, 9000))
        yield data[at : at + size]
        at += size
