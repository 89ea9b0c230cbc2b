"""docs/client.md does what it says: its examples run, its tables are complete."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import videoai
from google.protobuf.timestamp_pb2 import Timestamp
from videoai import cli
from videoai.inference.v1 import inference_pb2
from videoai.registry.v1 import registry_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
SYNC, ASYNC, MASKS, LIVE, WATCH = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def folder(fake: Any, video_answers: Any, tmp_path: Path) -> Path:
    def analyze(requests: Any, _: Any) -> Any:
        list(requests)
        yield from video_answers

    model = registry_pb2.Model(model_name="shapes", version=2)
    fake.registry.answers["RegisterModel"] = lambda *_: registry_pb2.RegisterModelResponse(model=model)
    fake.registry.answers["ActivateModelVersion"] = lambda *_: registry_pb2.ActivateModelVersionResponse(model=model)
    fake.inference.answers["AnalyzeVideo"] = analyze
    (tmp_path / "street.mp4").write_bytes(b"video")
    return tmp_path


def start(code: str, fake: Any, folder: Path) -> subprocess.Popen[str]:
    code = re.sub(r"127\.0\.0\.1:\d+", fake.address, code)
    command = [sys.executable, "-u", "-c", code]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("code", [SYNC, ASYNC], ids=["sync", "asyncio"])
def test_examples_run(fake: Any, folder: Path, code: str) -> None:
    with start(code, fake, folder) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[:3] == ["0.0 1 ['square']", "0.1 1 ['square']", "0.2 2 ['square']"]
    assert out.splitlines()[3].endswith("3")


@pytest.mark.parametrize("code", [SYNC, ASYNC], ids=["sync", "asyncio"])
def test_examples_are_short(code: str) -> None:
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from", "asyncio.run"))]
    assert len(lines) <= 10


def test_masks_example_runs(fake: Any, folder: Path, video_answers: Any) -> None:
    for answer in video_answers[1:-1]:
        answer.frame.detections[0].mask.run_lengths.counts[:] = (8 * 48 + 8, 32, 16, 32, 64 * 48 - 8 * 48 - 88)
    with start(MASKS, fake, folder) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == ["square (48, 64) 64"] * 3


def test_live_example_runs(fake: Any, folder: Path) -> None:
    answer = inference_pb2.AnalyzeSourceResponse
    frame = inference_pb2.FrameResult(wall_clock=Timestamp(seconds=1_800_000_000))
    answers = [
        answer(frame=frame),
        answer(gap=inference_pb2.Gap(reason="stalled", seconds=2)),
        answer(gap=inference_pb2.Gap(reason="stalled", seconds=3, resumed=True)),
        answer(summary=inference_pb2.Summary(gaps=1)),
    ]
    fake.inference.answers["AnalyzeSource"] = lambda *_: iter(answers)
    with start(LIVE, fake, folder) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == ["2027-01-15 08:00:00 0", "away for 2 s: stalled", "back"]


def test_watch_example_runs(fake: Any, folder: Path) -> None:
    with start(WATCH, fake, folder) as process:
        assert process.stdout is not None
        connection = fake.accept()
        connection.activated(4, "shapes", 2, reset=True)
        connection.synced(4, reset=True)
        connection.send(5, cleared=registry_pb2.Cleared(model_name="shapes"))
        lines = [process.stdout.readline() for _ in range(3)]
        connection.end()
        lines.append(process.stdout.readline())
        process.terminate()
    assert lines[:3] == ["run version 2\n", "all told up to revision 4\n", "nothing in production any more: shapes\n"]
    assert lines[3].startswith("the registry ended the stream - trying again in ")


def commands(group: click.Group, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def test_every_command_is_in_the_table() -> None:
    assert sorted(commands(cli.cli, "videoai")) == sorted(re.findall(r"^\| `(videoai[ a-z]*[a-z])", TEXT, re.MULTILINE))


def test_every_exit_code_is_in_the_table() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)}
    assert told == {int(code) for code in re.findall(r"^ +(\d+)  ", cli.EPILOG, re.MULTILINE)}


@pytest.mark.parametrize("client", [videoai.RegistryClient, videoai.InferenceClient])
def test_every_method_is_told(client: type) -> None:
    methods = [name for name, _ in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in methods if f"`{name}(" not in TEXT] == ["close"]
