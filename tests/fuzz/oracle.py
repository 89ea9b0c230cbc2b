"""What a call may end with, whatever its input was, and what its answers must look like."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from videoai.inference.v1 import inference_pb2 as pb

CONTAINED = re.compile(r"the process that decodes .* failed")
SIGNAL = re.compile(r"killed by (SIG[A-Z0-9]+|signal \d+)|exit code -?\d+")
# The last is no status of the server's: the client's gRPC lost that. The ledger asks the server what it was not.
ALLOWED = frozenset({"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "ENDED WHILE SENDING"})
# The kernel's word for a system call that the sandbox forbids: decoding sound or broken video must need none of those.
FORBIDDEN_CALL = "SIGSYS"


@dataclass(slots=True)
class Outcome:
    """How one case ended. `contained`: what became of the decoder process, if it did not end by itself.

    `method`: the call, as gRPC names it. `sound`: nothing was wrong with what was sent, so it had to be answered.
    """

    case: int
    what: str
    size: int
    status: str = "OK"
    message: str = ""
    seconds: float = 0.0
    frames: int = 0
    kind: str = ""
    method: str = ""
    sound: bool = False
    contained: str = ""
    problems: list[str] = field(default_factory=list)


def judge(outcome: Outcome, allowed: Collection[str] = ALLOWED, *, cancelled: bool) -> None:
    """Note what is wrong with the status, and whether a decoder was lost."""
    if outcome.status == "INTERNAL" and CONTAINED.search(outcome.message):
        note_lost_decoder(outcome, outcome.message)
    elif outcome.status not in {*allowed} | ({"CANCELLED"} if cancelled else set()):
        outcome.problems.append(f"{outcome.status}: {outcome.message}")
    if outcome.status != "OK" and not cancelled and not outcome.message:
        outcome.problems.append(f"{outcome.status} without a message")


def note_lost_decoder(outcome: Outcome, message: str) -> None:
    """Note whether `message` tells of a decoder that did not end by itself: a status, or the reason of a gap."""
    if not CONTAINED.search(message):
        return
    found = SIGNAL.search(message)
    outcome.contained = found.group(0) if found else message
    if FORBIDDEN_CALL in message:
        outcome.problems.append(f"the sandbox killed the decoder: {message}")


def check_video(
    responses: Sequence[pb.AnalyzeVideoResponse] | Sequence[pb.AnalyzeSourceResponse], *, whole: bool
) -> list[str]:
    """What is wrong with the answers to one video or source; `whole` if the call ended with OK."""
    kinds = [kind for response in responses if (kind := response.WhichOneof("result")) != "gap"]
    frames = [response.frame for response in responses if response.HasField("frame")]
    expected = ["started"] * bool(kinds) + ["frame"] * len(frames) + ["summary"] * whole
    problems = [f"messages: {kinds}"] if kinds != expected else []
    if whole and kinds[-1:] == ["summary"] and responses[-1].summary.frames_analyzed != len(frames):
        problems.append(f"summary of {responses[-1].summary.frames_analyzed} frames, got {len(frames)}")
    indices = [frame.frame_index for frame in frames]
    if any(one >= two for one, two in pairwise(indices)):
        problems.append(f"frame indices do not grow: {indices}")
    return problems + [problem for frame in frames for problem in check_frame(frame)]


def check_frame(frame: pb.FrameResult) -> list[str]:
    """What is wrong with one answer: numbers that are none, boxes outside the picture."""
    problems = []
    if not (math.isfinite(frame.time_seconds) and frame.width and frame.height and frame.model_version):
        problems.append(f"frame {frame.frame_index}: {frame.time_seconds} s, {frame.width}x{frame.height}")
    for detection in frame.detections:
        box = detection.box
        inside = 0 <= box.x_min <= box.x_max <= frame.width and 0 <= box.y_min <= box.y_max <= frame.height
        if not (inside and 0 <= detection.score <= 1 and detection.class_name):
            problems.append(f"frame {frame.frame_index}: detection {detection}")
    return problems


def comparable(responses: Sequence[Any]) -> list[bytes]:
    """Responses as bytes, without the timings, which differ each time."""
    kept = []
    for response in responses:
        copy = type(response)()
        copy.CopyFrom(response)
        if copy.HasField("frame"):
            copy.frame.ClearField("timings")
        kept.append(copy.SerializeToString(deterministic=True))
    return kept
