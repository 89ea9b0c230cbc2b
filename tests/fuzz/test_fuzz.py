"""A bounded run of the fuzzer, and proof that its oracle sees what it is there to see."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from videoai.inference.v1 import inference_pb2 as pb

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import census  # noqa: E402
import fuzz  # noqa: E402
import mutations  # noqa: E402
import oracle  # noqa: E402

FILES = {
    "one": bytes(range(256)) * 8,
    "two": b"\0\0\0\1\x67" + b"\0\0\1\x65abcdef" * 50,
    "ts": (b"\x47" + bytes(187)) * 9,
}
LOST = "the process that decodes this video failed"


def test_a_server_stands_what_is_thrown_at_it() -> None:
    command = [sys.executable, str(HERE / "fuzz.py"), "--cases", "150", "--seconds", "12", "--seed", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    print(done.stdout)
    assert report["problems"] == []
    assert report["statuses"]["OK"] > 0
    assert report["statuses"]["INVALID_ARGUMENT"] > 0
    assert report["control"]["frames"] >= fuzz.CONTROL_FRAMES


def test_a_seed_gives_the_same_bytes() -> None:
    made = [mutations.mutate(FILES, random.Random(seed)) for seed in range(300)]  # noqa: S311 - choices, not secrets
    again = [mutations.mutate(FILES, random.Random(seed)) for seed in range(300)]  # noqa: S311
    assert made == again
    assert len(set(made)) > 250
    names = {function.__name__ for function in mutations.MUTATIONS}
    assert {word.split("(")[0] for _, what in made for word in what.split()[1:]} == names


@pytest.mark.parametrize("name", FILES)
def test_blocks_make_up_the_file(name: str) -> None:
    parts = mutations.blocks(FILES[name], random.Random(1))  # noqa: S311
    assert b"".join(parts) == FILES[name]
    assert len(parts) > 1


@pytest.mark.parametrize("mutation", set(mutations.MUTATIONS), ids=lambda function: function.__name__)
@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\1", bytes(8)])
def test_little_can_be_mutated_too(mutation: object, data: bytes) -> None:
    for seed in range(50):
        assert isinstance(mutation(data, b"", random.Random(seed)), bytes)  # type: ignore[operator] # noqa: S311


@pytest.mark.parametrize(
    ("status", "message", "contained", "wrong"),
    [
        ("OK", "", "", False),
        ("INVALID_ARGUMENT", "container: expected", "", False),
        ("RESOURCE_EXHAUSTED", "max_pixels: expected", "", False),
        ("INVALID_ARGUMENT", "", "", True),
        ("UNKNOWN", "oops", "", True),
        ("DEADLINE_EXCEEDED", "", "", True),
        ("UNAVAILABLE", "gone", "", True),
        ("CANCELLED", "", "", True),
        ("INTERNAL", "the decoder failed: TypeError: x", "", True),
        (
            "INTERNAL",
            "the process that decodes this video failed: it was killed by SIGSEGV",
            "killed by SIGSEGV",
            False,
        ),
        ("INTERNAL", "the process that decodes this video failed: it was killed by SIGSYS", "killed by SIGSYS", True),
    ],
)
def test_only_documented_ends_are_right(status: str, message: str, contained: str, *, wrong: bool) -> None:
    outcome = oracle.Outcome(1, "", 0, status, message)
    oracle.judge(outcome, cancelled=False)
    assert (outcome.contained, bool(outcome.problems)) == (contained, wrong)


def answers(*indices: int, summary: int | None = None) -> list[pb.AnalyzeVideoResponse]:
    frames = [pb.FrameResult(frame_index=index, width=8, height=8, model_version=1) for index in indices]
    made = [pb.AnalyzeVideoResponse(started=pb.Started()), *(pb.AnalyzeVideoResponse(frame=frame) for frame in frames)]
    if summary is not None:
        made.append(pb.AnalyzeVideoResponse(summary=pb.Summary(frames_analyzed=summary)))
    return made


def test_answers_out_of_order_or_missing_are_noticed() -> None:
    assert oracle.check_video(answers(0, 1, summary=2), whole=True) == []
    assert oracle.check_video(answers(0, 1), whole=False) == []
    assert oracle.check_video([], whole=False) == []
    assert oracle.check_video(answers(0, 1), whole=True), "no summary"
    assert oracle.check_video(answers(0, 1, summary=3), whole=True), "a frame is missing"
    assert oracle.check_video(answers(1, 0, summary=2), whole=True), "out of order"
    assert oracle.check_video(answers(0, summary=1)[1:], whole=True), "not started"


@pytest.mark.parametrize(("right", "score"), [(9.0, 0.5), (4.0, 1.5), (float("nan"), 0.5)])
def test_impossible_detections_are_noticed(right: float, score: float) -> None:
    frame = pb.FrameResult(width=8, height=8, model_version=1)
    frame.detections.add(class_name="thing", score=0.5, box=pb.BoundingBox(x_max=4, y_max=4))
    assert oracle.check_frame(frame) == []
    frame.detections.add(class_name="thing", score=score, box=pb.BoundingBox(x_max=right, y_max=4))
    assert oracle.check_frame(frame)


def test_a_control_that_finds_nothing_is_noticed() -> None:
    assert fuzz.control_problems(answers(*range(fuzz.CONTROL_FRAMES), summary=fuzz.CONTROL_FRAMES))
    assert fuzz.control_problems([])


def test_what_is_left_behind_is_noticed() -> None:
    before = census.Holdings(1, 20, 9, 0, 0, 0, 0)
    assert census.leaks(before, before) == {}
    assert census.leaks(before, census.Holdings(2, 26, 9, 0, 5, 0, 0)).keys() == {"processes", "descriptors", "mapped"}
    assert census.leaks(before, census.Holdings(1, 22, 9, 0, 2, 0, 0)) == {}
    growing = census.Memory([index << 20 for index in range(100)])
    assert growing.late - growing.early > fuzz.MEMORY_GROWTH
