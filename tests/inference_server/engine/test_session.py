"""How a model's bytes come to ONNX Runtime."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from inference_server.engine import graph, session
from inference_server.engine.session import SessionPlan, create_session

CPU = [("CPUExecutionProvider", {})]

linux = pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux's")


def sum_of(*sizes: int) -> ModelProto:
    """A model that adds the sums of its weights, as many as `sizes` says, to its input."""
    names = [f"w{index}" for index in range(len(sizes))]
    weights = [
        numpy_helper.from_array(np.ones(size, np.float32), name) for name, size in zip(names, sizes, strict=True)
    ]
    nodes = [helper.make_node("ReduceSum", [name], [f"{name}_sum"], keepdims=0) for name in names]
    nodes.append(helper.make_node("Sum", ["x", *(f"{name}_sum" for name in names)], ["y"]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    made = helper.make_graph(nodes, "sum", values[:1], values[1:], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def answer_of(opened: session.Session) -> float:
    return float(opened.run(None, {"x": np.array([0.5], np.float32)})[0][0])


@pytest.fixture
def given(monkeypatch):
    """What ONNX Runtime was given for each session."""
    seen: list[str | bytes] = []

    def watched(model: str | bytes, *rest: object, **more: object) -> session.Session:
        seen.append(model)
        return real(model, *rest, **more)

    real = session.Session
    monkeypatch.setattr(session, "Session", watched)
    return seen


@pytest.mark.parametrize("sizes", [(), (1,), (25, 26, 27), (4_000, 0, 5_000), (600_000, 3)])
def test_pieces_are_the_model(sizes):
    model = sum_of(*sizes)
    before = ModelProto.FromString(model.SerializeToString())
    pieces = list(graph.serialise(model))
    assert ModelProto.FromString(b"".join(pieces)) == before
    assert max(map(len, pieces)) <= 4 * max(sizes, default=0) + 1_000
    assert answer_of(create_session(pieces, CPU, "cpu", SessionPlan())) == 0.5 + sum(sizes)


@linux
def test_a_file_in_memory_is_given_and_goes_again(given):
    before = open_files()
    opened = create_session(list(graph.serialise(sum_of(1_000))), CPU, "cpu", SessionPlan())
    assert [isinstance(model, str) for model in given] == [True]
    assert answer_of(opened) == 1_000.5
    assert open_files() == before
    assert "memfd:model" not in Path("/proc/self/maps").read_text()


@linux
def test_what_was_optimised_is_mapped_and_let_go(given, tmp_path):
    saved = tmp_path / "optimised"
    create_session([sum_of(1_000).SerializeToString()], CPU, "cpu", SessionPlan(save_to=saved))
    opened = create_session([memoryview(saved.read_bytes())], CPU, "cpu", SessionPlan(optimised=True))
    assert [isinstance(model, str) for model in given] == [True, True]
    assert answer_of(opened) == 1_000.5
    assert "memfd:model" not in Path("/proc/self/maps").read_text()


@linux
def test_nobody_is_told_what_runs(tmp_path):
    """It would begin with an identifier of the machine and a database, beneath HOME."""
    program = (
        "import sys; from inference_server.engine.session import *;"
        "create_session([open(sys.argv[1], 'rb').read()], [('CPUExecutionProvider', {})], 'cpu', SessionPlan())"
    )
    (tmp_path / "model.onnx").write_bytes(sum_of(1).SerializeToString())
    (tmp_path / "home").mkdir()
    own = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "home")}
    quiet = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in quiet and "GITHUB" not in name}
    command = [sys.executable, "-c", program, str(tmp_path / "model.onnx")]
    subprocess.run(command, env=environment | own, check=True)
    assert not list((tmp_path / "home").rglob("*"))


def refuse(*_):
    raise PermissionError("not allowed here")


@pytest.mark.parametrize("lacking", ["memfd_create", "leave", "proc", "room"])
def test_without_files_in_memory_bytes_do(given, monkeypatch, tmp_path, lacking):
    saved = tmp_path / "optimised"
    create_session([sum_of(10, 20).SerializeToString()], CPU, "cpu", SessionPlan(save_to=saved))
    optimised = saved.read_bytes()
    given.clear()
    before = open_files()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        match lacking:
            case "memfd_create":
                monkeypatch.delattr(os, "memfd_create", raising=False)
            case "leave":
                monkeypatch.setattr(os, "memfd_create", refuse)
            case "proc":
                monkeypatch.setattr(session, "path_of", lambda file: tmp_path / "nothing")
            case "room":
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        opened = create_session(list(graph.serialise(sum_of(10, 20))), CPU, "cpu", SessionPlan())
        again = create_session([memoryview(optimised)], CPU, "cpu", SessionPlan(optimised=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [isinstance(model, bytes) for model in given] == [True, True]
    assert answer_of(opened) == answer_of(again) == 30.5
    assert open_files() == before


def test_engines_of_tensorrt_are_not_named_after_a_file_in_memory(given):
    create_session([sum_of(10).SerializeToString()], CPU, "tensorrt", SessionPlan())
    assert [isinstance(model, bytes) for model in given] == [True]


@pytest.mark.parametrize("wrong", [b"", b"junk", b"\x08\x08"])
@pytest.mark.parametrize("optimised", [False, True])
def test_what_is_no_model_is_explained_without_our_names(wrong, optimised):
    with pytest.raises(session.ORT_ERRORS) as refused:
        create_session([wrong], CPU, "cpu", SessionPlan(optimised=optimised))
    assert "/proc" not in session.explain(refused.value)
    assert "memfd" not in session.explain(refused.value)
