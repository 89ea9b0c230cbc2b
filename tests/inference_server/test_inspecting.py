"""videoai-inference inspect, and videoai models inspect, which becomes it."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from demo.models import V2, build, write
from onnx import helper
from structlog.testing import capture_logs

from inference_server.__main__ import main
from server_kit import logs


@pytest.fixture
def run(monkeypatch):
    """A function that runs the command in this process, which is quicker than a program that loads everything anew."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)

    def run(*arguments, before=()):
        with capture_logs():
            outcome = CliRunner().invoke(main, [*before, "inspect", *map(str, arguments)])
        assert outcome.exception is None or isinstance(outcome.exception, SystemExit)
        return SimpleNamespace(returncode=outcome.exit_code, stdout=outcome.stdout, stderr=outcome.stderr)

    return run


def run_program(program, *arguments):
    before = ["models"] if program == "videoai" else []
    command = [sys.executable, "-m", program, *before, "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


@pytest.fixture
def demo(tmp_path):
    write(V2, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("program", ["inference_server", "videoai"])
def test_a_file_that_would_be_served(demo, program):
    outcome = run_program(program, demo)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    for text in (
        "family    yolo-detect",
        "red circle, green square, blue diamond",
        "448x448 pixels, letterbox, rgb x 0.00392157, any number of frames",
        "runs on   cpu (CPUExecutionProvider), up to 8 frames at once",
        "input     images float32[?, 3, 448, 448]",
        "metadata  task = detect",
        "verdict  would be served",
    ):
        assert text in outcome.stdout


def test_the_same_for_programs(run, demo):
    found = json.loads(run(demo, "--json").stdout)
    assert (found["served"], found["refusal"], found["family"]) == (True, None, "yolo-detect")
    assert found["considered"]["yolo-detect"] is None
    assert found["considered"]["yolo-pose"] == "for another task than detect"
    assert found["run"]["max_batch"] == 8
    assert (found["picture"]["width"], found["picture"]["resize"]) == (448, "letterbox")


def test_what_the_entry_would_say_counts(run, demo):
    section = {"videoai": {"family": "yolox"}}
    outcome = run(demo, "--attributes", json.dumps(section), "--no-run")
    assert outcome.returncode == 1
    assert "would be refused: not a yolox model, as metadata.attributes.videoai.family says" in outcome.stdout
    section = {"videoai": {"class_names": ["a", "b", "c"]}}
    found = json.loads(run(demo, "--attributes", json.dumps(section), "--no-run", "--json").stdout)
    assert (found["class_names"], found["run"]) == (["a", "b", "c"], None)


def test_a_file_that_does_not_run_says_what_it_is_all_the_same(run, tmp_path):
    model = build(V2)
    model.graph.node[0].op_type = "Fancy"
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    found = json.loads((outcome := run(tmp_path / "x.onnx", "--json")).stdout)
    assert (outcome.returncode, found["family"], found["run"]) == (1, "yolo-detect", None)
    assert "Fancy" in found["refusal"]


def test_names_move_no_cursor(run, tmp_path):
    model = build(V2)
    helper.set_model_props(model, {"names": "['a\x1b[2Jb', 'c', 'd']", "task": "detect", "\x1b[31m": "\r\n" * 5000})
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    outcome = run(tmp_path / "x.onnx", "--no-run")
    assert outcome.returncode == 0
    assert "a\\x1b[2Jb, c, d" in outcome.stdout
    assert "\x1b" not in outcome.stdout
    assert len(outcome.stdout) < 10_000


def test_a_file_that_says_very_much_is_cut_short(run, tmp_path):
    model = build(V2)
    model.producer_name = "p\x1b" * 10_000
    for index in range(2000):
        model.metadata_props.add(key=f"{index}" * 1000, value="v" * 1000)
        output = helper.make_tensor_value_info("\x1b[2J" * 1000 + str(index), 1, [1] * 100)
        model.graph.output.add().CopyFrom(output)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    for more in ([], ["--json"]):
        outcome = run(tmp_path / "x.onnx", "--no-run", *more)
        assert outcome.returncode == 1
        assert "... and 1951 more" in outcome.stdout
        assert "\x1b" not in outcome.stdout
        assert len(outcome.stdout) < 100_000


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["none.onnx"], 1, "none.onnx: no such file"),
        ([__file__], 1, "not an ONNX model, or damaged"),
        (["/dev/zero"], 1, "no such file"),
        ([__file__, "--attributes", "[1]"], 2, "expected a JSON object, got '[1]'"),
        ([__file__, "--attributes", '{"videoai": {"famly": 1}}'], 1, "not an ONNX model"),
    ],
)
def test_what_is_no_model(run, arguments, code, told):
    outcome = run(*arguments)
    assert outcome.returncode == code
    assert told in outcome.stdout + outcome.stderr


def test_a_device_that_is_not_there(run, demo):
    outcome = run(demo, before=["--device", "cuda:99"])
    assert outcome.returncode == 1
    assert "family    yolo-detect" in outcome.stdout
    assert "would be refused: device cuda:99" in outcome.stdout
