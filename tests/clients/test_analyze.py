"""videoai analyze, and the drawing behind --save-video, on videos that are really encoded."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image
from videoai import annotating, cli, drawing
from videoai.inference.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, HEIGHT, GREY = 128, 96, 90
BOX = (16, 32, 64, 80)


def encode(path: Path, pts: list[int], time_base: Fraction) -> Path:
    """Write one frame for each of `pts`: grey, with white at the top left."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = time_base
        for value in pts:
            pixels = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
            pixels[: HEIGHT // 4, : WIDTH // 2] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = value, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def result(index: int, *, width: int = WIDTH, height: int = HEIGHT, version: int = 1) -> inference_pb2.FrameResult:
    box = inference_pb2.BoundingBox(x_min=BOX[0], y_min=BOX[1], x_max=BOX[2], y_max=BOX[3])
    detection = inference_pb2.Detection(box=box, class_id=1, class_name="square", score=0.9)
    return inference_pb2.FrameResult(
        frame_index=index, width=width, height=height, model_name="m", model_version=version, detections=[detection]
    )


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def distance(picture: Any, point: tuple[int, int], colour: tuple[int, ...]) -> int:
    return int(np.abs(np.asarray(picture, np.int16)[point[1], point[0]] - np.array(colour)).max())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_copy_keeps_the_timing_of_the_source(tmp_path: Path, suffix: str) -> None:
    uneven = [0, 40, 80, 200, 210, 500]
    source = encode(tmp_path / f"source{suffix}", uneven, Fraction(1, 1000))
    annotating.save_video(source, [result(index) for index in range(6)], tmp_path / "out.mp4")
    assert times(tmp_path / "out.mp4") == times(source) == [Fraction(value, 1000) for value in uneven]


def test_boxes_and_labels_are_drawn_where_they_belong(tmp_path: Path) -> None:
    source = encode(tmp_path / "source.mp4", [0, 1, 2], Fraction(1, 25))
    annotating.save_video(source, [result(index) for index in range(3)], tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert distance(picture, (BOX[0], 60), drawing.colour(1)) < 60
    assert distance(picture, (40, 60), (GREY,) * 3) < 10
    assert distance(picture, (120, 90), (GREY,) * 3) < 10


def test_frames_between_results_show_the_earlier_one_and_the_rest_is_left_out(tmp_path: Path) -> None:
    source = encode(tmp_path / "source.mp4", list(range(8)), Fraction(1, 25))
    results = [result(2, version=1), result(5, version=2)]
    frames = list(annotating.annotated_frames(source, results))
    assert [frame.pts * frame.time_base * 25 for frame, _ in frames] == [2, 3, 4, 5]
    pictures = [np.asarray(picture) for _, picture in frames]
    assert (pictures[0] == pictures[2]).all()
    assert (pictures[2] != pictures[3]).any()


def test_a_picture_of_another_displayed_size_is_fitted(tmp_path: Path) -> None:
    source = encode(tmp_path / "source.mp4", [0, 1], Fraction(1, 25))
    annotating.save_video(
        source, [result(0, width=257, height=95), result(1, width=257, height=95)], tmp_path / "o.mp4"
    )
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (256, 94)


def test_rotation_is_applied(tmp_path: Path) -> None:
    source = encode(tmp_path / "source.mp4", [0, 1], Fraction(1, 25))
    content = bytearray(source.read_bytes())
    matrix = content.index(b"tkhd") + 44
    quarter_turn = (0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)  # clockwise
    content[matrix : matrix + 36] = struct.pack(">9i", *quarter_turn)
    source.write_bytes(content)
    results = [result(index, width=HEIGHT, height=WIDTH) for index in range(2)]
    _, picture = next(annotating.annotated_frames(source, results))
    assert picture.size == (HEIGHT, WIDTH)
    assert distance(picture, (HEIGHT - 4, 30), (255,) * 3) < 10
    assert distance(picture, (HEIGHT - 4, WIDTH - 10), (GREY,) * 3) < 10
    assert distance(picture, (BOX[0], 60), drawing.colour(1)) == 0


@pytest.mark.parametrize("results", [[], [result(50)]])
def test_nothing_is_left_behind_where_nothing_can_be_drawn(tmp_path: Path, results: list[Any]) -> None:
    source = encode(tmp_path / "source.mp4", [0, 1], Fraction(1, 25))
    with pytest.raises(ValueError, match=r"no frame was analysed|none of its frames"):
        annotating.save_video(source, results, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == [source]


def test_a_failed_copy_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"old")
    (tmp_path / "source.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(ValueError, match="Invalid data"):
        annotating.save_video(tmp_path / "source.mp4", [result(0)], tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "source.mp4"]


def test_classes_have_colours_of_their_own() -> None:
    colours = [drawing.colour(class_id) for class_id in range(40)]
    assert colours == [drawing.colour(class_id) for class_id in range(40)]
    assert len(set(colours)) == 40
    first = np.array(colours[:8], float)
    assert min(np.abs(a - b).max() for i, a in enumerate(first) for b in first[:i]) >= 40


def test_contact_sheet() -> None:
    frames = [Image.new("RGB", (64, 48), drawing.colour(index)) for index in range(5)]
    sheet = drawing.contact_sheet(frames, 3, width=32)
    assert sheet.size == (3 * 36 + 4, 2 * 28 + 4)
    assert distance(sheet, (4 + 36 + 16, 4 + 12), drawing.colour(1)) == 0
    assert distance(sheet, (4 + 36 + 16, 4 + 28 + 12), drawing.colour(4)) == 0
    with pytest.raises(ValueError, match="expected frames and columns >= 1"):
        drawing.contact_sheet([], 3)


@pytest.fixture
def call(fake: Any, video_answers: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def answer(requests: Any, _: Any) -> Any:
        list(requests)
        yield from video_answers

    for name in [name for name in os.environ if name.startswith("VIDEOAI_")]:
        monkeypatch.delenv(name)
    fake.inference.answers["AnalyzeVideo"] = answer

    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.run(["analyze", "--inference", fake.address, *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return encode(tmp_path / "source.mp4", [0, 1, 2], Fraction(1, 10))


def test_totals_for_people_and_for_programs(call: Callable[..., Any], video: Path) -> None:
    code, out, err = call(video)
    assert (code, err) == (0, "")
    assert "3 (2 by version 1, 1 by version 2)" in out
    code, out, err = call(video, "--output", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["frames_per_version"] == {"1": 2, "2": 1}


def test_one_line_for_each_frame(call: Callable[..., Any], video: Path, tmp_path: Path, video_answers: Any) -> None:
    assert call(video, "--json", tmp_path / "out.jsonl")[0] == 0
    code, out, err = call(video, "--json", "-", "--output", "json")
    assert (code, err) == (0, "")
    assert out == (tmp_path / "out.jsonl").read_text()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["frame_index"] for line in lines] == [0, 1, 2]
    assert lines[2]["pts"] == "200"
    assert lines[2]["detections"][0]["box"] == {"x_min": 8.0, "y_min": 8.0, "x_max": 40.0, "y_max": 40.0}
    code, out, err = call(video, "--json", "-")
    assert len(out.splitlines()) == 3
    assert "frames analysed" in err


def test_only_what_was_asked_for_is_sent(call: Callable[..., Any], fake: Any, video: Path, video_answers: Any) -> None:
    configs = []

    def answer(requests: Any, _: Any) -> Any:
        configs.append(next(requests).config)
        yield from video_answers

    fake.inference.answers["AnalyzeVideo"] = answer
    call(video)
    options = ["--fps", 2.5, "--start", 1, "--end", 2, "--max-frames", 3, "--confidence", 0.5, "--iou", 0.25]
    options += ["--resume-after-pts", -7]
    call(video, "--model", "m", *options, "--max-detections", 7, "--class", "a", "--class", "b")
    assert configs[0] == inference_pb2.AnalyzeConfig(max_frames_per_response=16)
    assert configs[1] == inference_pb2.AnalyzeConfig(
        model_name="m",
        frames_per_second=2.5,
        start_seconds=1,
        end_seconds=2,
        max_frames=3,
        resume_after_pts=-7,
        confidence_threshold=0.5,
        iou_threshold=0.25,
        max_detections=7,
        class_names=["a", "b"],
        max_frames_per_response=16,
    )


def test_save_video(call: Callable[..., Any], video: Path, tmp_path: Path) -> None:
    code, out, _ = call(video, "--save-video", tmp_path / "out.mp4")
    assert code == 0
    assert str(tmp_path / "out.mp4") in out
    assert times(tmp_path / "out.mp4") == times(video)


def test_progress_on_a_terminal(fake: Any, call: Callable[..., Any], video: Path) -> None:
    """On a real pseudo-terminal; the name of the file must not be read as markup."""
    odd = video.rename(video.with_name("[red] scene.mp4"))
    ours, theirs = pty.openpty()
    terminal = os.environ | {"TERM": "xterm"}
    command = [sys.executable, "-m", "videoai", "analyze", str(odd), "--inference", fake.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=terminal) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a pseudo-terminal
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
    assert process.returncode == 0
    assert b"[red] scene.mp4" in shown
    assert b"3 frames" in shown
    assert b"version 2" in shown


def test_a_missing_extra_is_named(video: Path) -> None:
    """In a process whose import system knows no av."""
    hide = (
        "import importlib.util as u; real = u.find_spec; u.find_spec = lambda n, *a: None if n == 'av' else real(n, *a)"
    )
    code = f"{hide}; from videoai.cli import main; main()"
    command = [sys.executable, "-c", code, "analyze", str(video), "--save-video", "out.mp4"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VIDEOAI_")}
    result = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "pip install 'videoai[video]'" in result.stderr


def test_the_base_install_is_enough_for_the_command_line() -> None:
    """Nothing beyond grpcio, protobuf, click and rich is imported."""
    code = (
        "import sys; from videoai import aio, cli; "
        "extra = {'av', 'numpy', 'PIL', 'structlog', 'google.rpc'} & set(sys.modules); "
        "sys.exit(str(extra) if extra else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
