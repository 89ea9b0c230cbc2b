"""The sound video that is analysed beside the cases."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

import corpus
import grpc
from case import Target
from demo import scene
from harness import NAME
from mutant import SERVICE
from oracle import comparable
from videoai.inference.v1 import inference_pb2 as pb
from videoai.inference.v1 import inference_pb2_grpc

RECIPE = corpus.Recipe("mp4", "libx264", {"preset": "veryfast", "threads": "1"}, {"movflags": "faststart"})
FRAMES, SIZE = 40, (320, 240)
METHOD = f"{SERVICE}/AnalyzeVideo"


class Control:
    """Analyses it again and again; what is wrong is in `problems`."""

    def __init__(self, target: Target) -> None:
        self.runs = 0
        self.frames = 0
        self.slowest = 0.0  # seconds that one took: how busy the machine was
        self.problems: list[str] = []
        self._target = target
        self._video = corpus.encode(RECIPE, FRAMES, SIZE)
        self._expected: list[bytes] = []

    async def first(self) -> None:
        """What it shows must be found; the other runs are held against this one."""
        answers = await self._analyze()
        self.problems += control_problems(answers)
        self._expected = comparable(answers)

    async def again(self) -> bool:
        """Whether there was an answer."""
        began = monotonic()
        try:
            found = await self._analyze()
        except grpc.aio.AioRpcError as error:
            self._target.ledger.saw(METHOD, error.code().name)
            self.problems.append(f"control: {error.code().name}: {error.details()}")
            return False
        if comparable(found) != self._expected:
            self.problems.append("control: answered otherwise than before")
        self.slowest = max(self.slowest, monotonic() - began)
        self.runs += 1
        self.frames += len(found) - 2
        return True

    async def _analyze(self) -> list[Any]:
        requests = [
            pb.AnalyzeVideoRequest(config=pb.AnalyzeConfig(model_name=NAME)),
            *(pb.AnalyzeVideoRequest(chunk=self._video[at : at + 4096]) for at in range(0, len(self._video), 4096)),
        ]
        stub = self._target.stub(inference_pb2_grpc.InferenceServiceStub)
        answers = [response async for response in stub.AnalyzeVideo(iter(requests), timeout=120)]
        self._target.ledger.saw(METHOD, "OK")
        return answers


def control_problems(responses: Sequence[pb.AnalyzeVideoResponse]) -> list[str]:
    """Where the answers to the control differ from what its scene shows."""
    frames = [response.frame for response in responses if response.HasField("frame")]
    problems = [] if len(frames) == FRAMES else [f"control: {len(frames)} of {FRAMES} frames"]
    for frame in frames:
        found = [(one.class_name, one.box) for one in frame.detections]
        for name, (left, top, right, bottom) in scene.ground_truth(frame.frame_index, SIZE):
            apart = [
                max(abs(box.x_min + box.x_max - left - right), abs(box.y_min + box.y_max - top - bottom)) / 2
                for other, box in found
                if other == name
            ]
            if min(apart, default=99) > 3:
                problems.append(f"control: frame {frame.frame_index}: no {name}, found {found}")
    return problems
