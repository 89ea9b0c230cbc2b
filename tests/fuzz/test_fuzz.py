"""A bounded run of the fuzzer, and proof that its oracle sees what it is there to see."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from videoai.inference.v1 import inference_pb2 as pb
from videoai.open_inference.v2 import open_inference_pb2 as pb2

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import census  # noqa: E402
import control  # noqa: E402
import distortions  # noqa: E402
import fuzz  # noqa: E402
import ledger  # noqa: E402
import material  # noqa: E402
import mixed  # noqa: E402
import mutations  # noqa: E402
import oracle  # noqa: E402
import sources  # noqa: E402
import tensors  # noqa: E402
from recordings import Dialogue  # noqa: E402
from shared_memory import SIZE, Memories  # noqa: E402

FILES = {
    "one": bytes(range(256)) * 8,
    "two": b"\0\0\0\1\x67" + b"\0\0\1\x65abcdef" * 50,
    "ts": (b"\x47" + bytes(187)) * 9,
    "rtp": b"$\0\0\3abc" * 20,
}
MEMORIES = Memories("fuzz-", bytes(SIZE))
DIALOGUES = {"rtsp": Dialogue((b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n",) * 3, (b"RTSP/1.0 200 OK\r\n\r\n", FILES["rtp"]))}
LOST = "the process that decodes this video failed"


def test_a_server_stands_what_is_thrown_at_it() -> None:
    command = [sys.executable, str(HERE / "fuzz.py"), "--cases", "300", "--seconds", "14", "--seed", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=118)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    print(done.stdout)
    assert report["problems"] == []
    for kind in ("upload", "source", "tensors"):
        assert report["statuses"][kind]["OK"] > 0
        assert report["statuses"][kind]["INVALID_ARGUMENT"] > 0
    assert report["sound"] > 0
    assert report["control"]["frames"] >= control.FRAMES
    assert report["server's count"].get("INTERNAL", 0) <= len(report["contained"])
    assert "UNKNOWN" not in report["server's count"]
    assert report["server's count"]["INVALID_ARGUMENT"] > 0


def test_a_seed_gives_the_same_bytes() -> None:
    made = [mutations.mutate(FILES, random.Random(seed)) for seed in range(300)]  # noqa: S311 - choices, not secrets
    again = [mutations.mutate(FILES, random.Random(seed)) for seed in range(300)]  # noqa: S311
    assert made == again
    assert len(set(made)) > 250
    names = {function.__name__ for function in mutations.MUTATIONS}
    assert {word.split("(")[0] for _, what in made for word in what.split()[1:]} == names


def test_a_number_is_the_same_case_everywhere() -> None:
    def made(number: int) -> tuple[str, str, list[bytes]]:
        found = sources.Sources(FILES, {"jpeg": b"\xff\xd8\xff\xd9"}, DIALOGUES, HERE)
        gathered = material.Material("shapes", found, [], MEMORIES, pb2.ModelInferRequest(model_name="shapes"))
        case = gathered.case(number, material.SHARES)
        assert number % 9 or gathered.case(number, [case.kind]).inputs == case.inputs
        return case.kind, case.what, case.inputs

    cases = [made(number) for number in range(300)]
    assert cases == [made(number) for number in range(300)]
    assert {kind for kind, _, _ in cases} == {*material.SHARES}
    assert len({what for _, what, _ in cases}) > 200


def test_text_is_mutated_line_by_line() -> None:
    text = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 3\r\n\r\nabc"
    made = [mutations.mutate_text(text, random.Random(seed)) for seed in range(300)]  # noqa: S311
    assert made == [mutations.mutate_text(text, random.Random(seed)) for seed in range(300)]  # noqa: S311
    assert len(set(made)) > 150
    assert any(b"RTSP/1.0 401" in one for one in made)
    assert any(b"9" * 5000 in one for one in made)


@pytest.mark.parametrize("distortion", set(distortions.DISTORTIONS), ids=lambda function: function.__name__)
def test_each_distortion_makes_requests_that_differ(distortion: Any) -> None:
    different = 0
    for seed in range(60):
        rng = random.Random(seed)  # noqa: S311
        request = mixed.sound_request(rng, MEMORIES, "1").request
        before = request.SerializeToString()
        distortion(request, rng)
        different += request.SerializeToString() != before
        distortion(pb2.ModelInferRequest(), rng)
    assert different > 10


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


def test_gaps_may_come_between_frames_and_tell_of_lost_decoders() -> None:
    gap = pb.AnalyzeSourceResponse(gap=pb.Gap(reason=f"{LOST}: it was killed by SIGSEGV"))
    sent = [one.SerializeToString() for one in answers(0, 1, summary=2)]
    started, first, second, summary = map(pb.AnalyzeSourceResponse.FromString, sent)
    assert oracle.check_video([started, first, gap, second, summary], whole=True) == []
    outcome = oracle.Outcome(1, "", 0)
    oracle.note_lost_decoder(outcome, gap.gap.reason)
    assert outcome.contained == "killed by SIGSEGV"


def answer_to(request: pb2.ModelInferRequest) -> pb2.ModelInferResponse:
    answer = pb2.ModelInferResponse(id=request.id, raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        answer.outputs.add(name=mixed.again(tensor.name), datatype=tensor.datatype, shape=tensor.shape)
    return answer


def test_wrong_answers_to_tensors_are_noticed() -> None:
    made = (mixed.sound_request(random.Random(seed), MEMORIES, "1") for seed in range(50))  # noqa: S311
    sound = next(one for one in made if len(one.request.raw_input_contents) == len(mixed.INPUTS))
    answer = answer_to(sound.request)
    assert sound.problems(answer) == tensors.check_response(answer) == []
    answer.outputs[0].shape.append(7)
    assert sound.problems(answer)
    answer = answer_to(sound.request)
    index = next(at for at, output in enumerate(answer.outputs) if output.datatype == "FP16")
    answer.raw_output_contents[index] += b"ab"
    assert sound.problems(answer)
    assert tensors.check_response(answer)
    assert sound.problems(pb2.ModelInferResponse(id="2"))
    answer.raw_output_contents.append(b"")
    assert tensors.check_response(answer)


def test_books_that_differ_are_noticed() -> None:
    book = ledger.Ledger()
    for code in ("OK", "OK", "INVALID_ARGUMENT", "INTERNAL", ""):
        book.saw("method", code)
    counts = {"OK": 2, "INVALID_ARGUMENT": 1, "INTERNAL": 1}
    for right in ({**counts, "INVALID_ARGUMENT": 2}, counts, {**counts, "CANCELLED": 1}):
        assert book.differences({"method": right, "other": {"INTERNAL": 5}}) == []
    for wrong in ({"OK": 4}, {"OK": 1}, {"INTERNAL": 2}, {"INTERNAL": 0}, {"UNKNOWN": 1}, {"INVALID_ARGUMENT": 3}):
        assert book.differences({"method": {**counts, **wrong}}), wrong
    assert book.differences({}), "none was counted"
    assert ledger.between({"a": {"OK": 2}}, {"a": {"OK": 5}, "b": {"OK": 1}}) == {"a": {"OK": 3}, "b": {"OK": 1}}


@pytest.mark.parametrize(("right", "score"), [(9.0, 0.5), (4.0, 1.5), (float("nan"), 0.5)])
def test_impossible_detections_are_noticed(right: float, score: float) -> None:
    frame = pb.FrameResult(width=8, height=8, model_version=1)
    frame.detections.add(class_name="thing", score=0.5, box=pb.BoundingBox(x_max=4, y_max=4))
    assert oracle.check_frame(frame) == []
    frame.detections.add(class_name="thing", score=score, box=pb.BoundingBox(x_max=right, y_max=4))
    assert oracle.check_frame(frame)


def test_a_control_that_finds_nothing_is_noticed() -> None:
    assert control.control_problems(answers(*range(control.FRAMES), summary=control.FRAMES))
    assert control.control_problems([])


def test_what_is_left_behind_is_noticed() -> None:
    before = census.Holdings(1, 20, 9, 0, 0, 0, 0)
    assert census.leaks(before, before) == {}
    assert census.leaks(before, census.Holdings(2, 26, 9, 0, 5, 0, 0)).keys() == {"processes", "descriptors", "mapped"}
    assert census.leaks(before, census.Holdings(1, 22, 9, 0, 2, 0, 0)) == {}
    growing = census.Memory([index << 20 for index in range(100)])
    assert growing.late - growing.early > fuzz.MEMORY_GROWTH
