"""One case: what its seed sends, and how the server took it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

import grpc
from mutations import mutate
from oracle import Outcome, check_frame, check_video, judge
from videoai.inference.v1 import inference_pb2 as pb

LIMIT_SECONDS = 60.0
"""A call that takes longer hangs: a decoder may think for 10 s and be asked, and another 10 s pass, in between."""
SENDING_FAILED = "Internal error from Core"
"""What grpc.aio's own client says, with INTERNAL, of some calls that the server ends while a message is on its way."""
PICTURE_SHARE, CANCELLED_SHARE = 0.1, 0.03


class Case:
    """What the seed `number` makes of the corpus."""

    def __init__(self, number: int, videos: Mapping[str, bytes], pictures: Mapping[str, bytes], model: str) -> None:
        self._rng = random.Random(number)  # noqa: S311 - choices, not secrets
        self.number = number
        self.is_video = self._rng.random() >= PICTURE_SHARE
        files = videos if self.is_video else pictures
        count = 1 if self.is_video else self._rng.choice((1, 1, 2, 5))
        mutated = [mutate(files, self._rng) for _ in range(count)]
        self.inputs = [data for data, _ in mutated]
        self.what = "; ".join(what for _, what in mutated)
        self.cancelled = self.is_video and self._rng.random() < CANCELLED_SHARE
        self._model = model
        self._config = self._choose_config()
        self._chunks = list(self._cut(self.inputs[0]))
        self._take = self._rng.randrange(4) if self.cancelled else None

    async def run(self, stub: Any) -> Outcome:
        """Send it, and judge what comes back."""
        outcome = Outcome(self.number, self.what, sum(map(len, self.inputs)))
        began = monotonic()
        try:
            async with asyncio.timeout(LIMIT_SECONDS + 10):
                await (self._video(stub, outcome) if self.is_video else self._pictures(stub, outcome))
        except TimeoutError:
            outcome.status, outcome.message = "HANGS", "it did not even end with its deadline"
        outcome.seconds = monotonic() - began
        if outcome.message == SENDING_FAILED:
            outcome.status = "ENDED WHILE SENDING"
        judge(outcome, cancelled=self.cancelled)
        return outcome

    async def _video(self, stub: Any, outcome: Outcome) -> None:
        call = stub.AnalyzeVideo(self._requests(), timeout=LIMIT_SECONDS)
        responses: list[pb.AnalyzeVideoResponse] = []
        try:
            async for response in call:
                responses.append(response)
                if len(responses) == self._take:
                    call.cancel()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            if not call.done():
                raise
        outcome.status, outcome.message = (await call.code()).name, await call.details()
        outcome.frames = sum(response.HasField("frame") for response in responses)
        outcome.problems += check_video(responses, whole=outcome.status == "OK" or self._had_all(responses))

    def _had_all(self, responses: list[pb.AnalyzeVideoResponse]) -> bool:
        """Whether the call was cancelled when its last message had come."""
        return self.cancelled and bool(responses) and responses[-1].HasField("summary")

    async def _pictures(self, stub: Any, outcome: Outcome) -> None:
        frames = [pb.Picture(encoded=data) for data in self.inputs]
        request = pb.AnalyzeFramesRequest(model_name=self._model, frames=frames)
        try:
            answer = await stub.AnalyzeFrames(request, timeout=LIMIT_SECONDS)
        except grpc.aio.AioRpcError as error:
            outcome.status, outcome.message = error.code().name, error.details() or ""
            return
        outcome.frames = len(answer.results)
        if len(answer.results) != len(frames):
            outcome.problems.append(f"{len(frames)} pictures, {len(answer.results)} results")
        outcome.problems += [problem for frame in answer.results for problem in check_frame(frame)]

    async def _requests(self) -> AsyncIterator[pb.AnalyzeVideoRequest]:
        yield pb.AnalyzeVideoRequest(config=self._config)
        with suppress(asyncio.CancelledError):
            for chunk in self._chunks:
                yield pb.AnalyzeVideoRequest(chunk=chunk)

    def _choose_config(self) -> pb.AnalyzeConfig:
        config = pb.AnalyzeConfig(model_name=self._model)
        match self._rng.randrange(10):
            case 0:
                config.stride = self._rng.choice((2, 3, 1000))
            case 1:
                config.frames_per_second = self._rng.choice((0.01, 5, 10_000))
            case 2:
                config.start_seconds, config.end_seconds = 0.1, 0.2
            case 3:
                config.max_frames = 2
            case 4:
                config.delivery = pb.DELIVERY_LATEST
        return config

    def _cut(self, data: bytes) -> Iterator[bytes]:
        """The input in chunks: in one, byte by byte at first, of one size, or of any."""
        kind, at = self._rng.choice(("whole", "bytes", "even", "uneven")), 0
        size = self._rng.choice((188, 1000, 4096)) if kind == "even" else len(data)
        while at < len(data):
            if kind == "bytes":
                size = 1 if at < 40 else len(data)
            elif kind == "uneven":
                size = self._rng.choice((1, 100, 1500, 9000))
            yield data[at : at + size]
            at += size
