"""Triton's own client, unmodified, against the servers.

It runs in a process of its own, for its stubs have the names of ours.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from harness import PATIENCE, Pair
from onnx import TensorProto, helper
from videoai.inference.v1 import inference_pb2
from videoai.open_inference.v2 import open_inference_pb2 as pb

HERE = Path(__file__).parent
PINS = HERE / "tritonclient.txt"
PREFIX = f"videoai-test-{os.getpid()}-"
# What tritonclient has and this server leaves out: settings of Triton's that mean nothing here, or that nobody sends.
LEFT_OUT = (
    "BatchInput", "BatchOutput", "InferResponseStatistics", "MemoryUsage", "ModelConfig.", "ModelDynamicBatching.",
    "ModelEnsembling", "ModelInput.", "ModelInstanceGroup.", "ModelMetrics", "ModelOperations",
    "ModelOptimizationPolicy", "ModelOutput.", "ModelQueuePolicy", "ModelRateLimiter", "ModelRepositoryAgents",
    "ModelResponseCache",
    "ModelSequenceBatching", "ModelStatistics.memory_usage", "ModelStatistics.response_stats",
    "ModelStatistics.ResponseStatsEntry", "ModelTensorReshape", "ModelVersionPolicy.", "ModelWarmup",
    "CudaSharedMemoryStatusResponse",
)  # fmt: skip

Case = Callable[..., Any]


@pytest.fixture(scope="session")
def client(pytestconfig: pytest.Config) -> Callable[..., list[str]]:
    """A function that gives the command for a case of triton_cases.py; tritonclient is installed once, by itself."""
    cache = pytestconfig.cache
    assert cache
    target = cache.mkdir("tritonclient") / f"python{sys.version_info.major}.{sys.version_info.minor}"
    stamp = target / "installed.txt"
    if not stamp.exists() or stamp.read_bytes() != PINS.read_bytes():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--require-hashes"]
        subprocess.run([*install, "--target", target, "-r", PINS], check=True)
        stamp.write_bytes(PINS.read_bytes())
    rest = Path(importlib.util.find_spec("grpc").origin).parent.parent  # type: ignore[union-attr, arg-type]
    program = f"import sys; sys.path[:0] = {[str(target)]!r}; sys.path.append({str(rest)!r}); import runpy; "

    def command(address: str, case: str, *arguments: str) -> list[str]:
        script = str(HERE / "triton_cases.py")
        run = f"sys.argv = {[script, address, case, *arguments]!r}; runpy.run_path({script!r}, run_name='__main__')"
        return [sys.executable, "-I", "-S", "-c", program + run]

    return command


@pytest.fixture(scope="session")
def ask(client: Callable[..., list[str]]) -> Case:
    """A function that runs a case and returns what it saw."""

    def run(address: str, case: str, *arguments: str) -> Any:
        done = subprocess.run(
            client(address, case, *arguments), capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def echo() -> bytes:
    """A model that takes text and half floats, and gives them back."""
    kinds = {"words": (TensorProto.STRING, [1, None]), "halves": (TensorProto.FLOAT16, [None])}
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds],
        "echo",
        [helper.make_tensor_value_info(name, *what) for name, what in kinds.items()],
        [helper.make_tensor_value_info(f"{name}_out", *what) for name, what in kinds.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, onnx_files: dict[int, Path]) -> Iterator[Pair]:
    """Both demo models, the second in production, and a model that takes no pictures; shared memory is allowed."""
    root = tmp_path_factory.mktemp("triton")
    (root / "models").mkdir()
    (root / "echo.onnx").write_bytes(echo())
    pair = Pair(root)
    try:
        pair.start_registry()
        for version in (1, 2):
            pair.register(onnx_files[version], version)
        pair.register(root / "echo.onnx", 1, name="echo", metadata={"attributes": {"videoai": {"family": "tensors"}}})
        pair.activate(2)
        pair.activate(1, name="echo")
        pair.start_inference("--shared-memory", PREFIX, "--listen", f"unix:{root}/inference.sock")
        pair.wait_until_running(2)
        pair.wait_until_running(1, name="echo")
        yield pair
    finally:
        pair.close()


@pytest.fixture
def address(pair: Pair) -> str:
    return pair.inference_process.address


def test_what_it_is_told(ask: Case, address: str) -> None:
    seen = ask(address, "describe")
    assert (seen["live"], seen["ready"], seen["models"]) == (True, True, [True, True, False, False])
    assert seen["server"] == "videoai"
    assert [(tensor["name"], tensor["shape"]) for tensor in seen["inputs"]] == [("images", ["-1", "3", "448", "448"])]
    assert seen["config"] == {"max_batch_size": 8, "names": ["images"]}
    assert seen["frames"] == "frames UINT8 [-1, 448, 448, 3]"
    assert literal_eval(seen["ultralytics"])["task"] == "detect"
    assert [(model["name"], model["version"], model["state"]) for model in seen["index"]] == [
        ("echo", "1", "READY"),
        ("shapes", "2", "READY"),
    ]
    assert seen["trace"] == {"value": ["OFF"]}
    assert seen["log"] == ["log_error", "log_info", "log_verbose_level", "log_warning"]
    assert (seen["unknown"], seen["cuda"]) == ("StatusCode.NOT_FOUND", "StatusCode.UNIMPLEMENTED")


def test_requests(ask: Case, address: str) -> None:
    seen = ask(address, "infer")
    assert (seen["id"], seen["version"], seen["shape"]) == ("7", "2", [2, 7, 9408])
    assert seen["off"] < 1e-3
    assert seen["same"]
    assert seen["wrong"] == "StatusCode.INVALID_ARGUMENT"
    assert int(seen["counted"]) >= 6


def test_a_stream(ask: Case, address: str) -> None:
    assert ask(address, "stream") == ["0", "1", "2", "model 'no' is not served here; served: echo, shapes", "4", "5"]


def test_asyncio(ask: Case, address: str) -> None:
    assert ask(address, "asynchronous") == {
        "ready": True,
        "ids": [str(index) for index in range(8)],
        "streamed": ["0", "1", "2", "3"],
    }


def test_shared_memory_over_a_unix_socket(ask: Case, pair: Pair) -> None:
    seen = ask(f"unix:{pair.root}/inference.sock", "memory", PREFIX)
    assert seen == {"same": True, "status": ["in", "out"]}


def test_text_and_half_floats(ask: Case, address: str) -> None:
    assert ask(address, "text") == {"words": [["a€", ""]], "halves": [1.5, -2.0]}


def test_loading_and_unloading(ask: Case, pair: Pair, address: str) -> None:
    seen = ask(address, "load")
    assert seen["unloaded"] == ["StatusCode.UNAVAILABLE", False]
    assert seen["index"] == {"name": "echo", "version": "1", "state": "READY"}
    assert (seen["loaded"], seen["unknown"]) == ("2", "StatusCode.NOT_FOUND")
    assert pair.serving().running_version == 2


def test_a_swap_in_the_middle(client: Callable[..., list[str]], pair: Pair, address: str) -> None:
    with subprocess.Popen(
        client(address, "swaps", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as asking:
        try:
            assert asking.stdout.readline() == "answered\n", asking.stderr.read()
            pair.activate(1)
            said, failed = asking.communicate(timeout=PATIENCE)
        finally:
            asking.kill()
    assert json.loads(said.splitlines()[-1]) == ["2", "1"], failed
    pair.activate(2)
    pair.wait_until_running(2)


def test_the_server_counts_and_lists_it(pair: Pair) -> None:
    state = pair.inference.GetServingState(inference_pb2.GetServingStateRequest(), timeout=PATIENCE)
    assert list(state.services) == ["videoai.inference.v1.InferenceService", "inference.GRPCInferenceService"]


def ours() -> dict[str, Any]:
    """Every field of the protocol as this server has it, in the same form as the case `fields`."""
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    found: dict[str, Any] = {}

    def add(message: Any, prefix: str) -> None:
        for field in message.field:
            found[f"{prefix}{message.name}.{field.name}"] = [field.number, field.type_name or field.type, field.label]
        for nested in message.nested_type:
            add(nested, f"{prefix}{message.name}.")

    for message in file.message_type:
        add(message, "")
    for method in file.service[0].method:
        streams = [method.client_streaming, method.server_streaming]
        found[f"{file.service[0].name}/{method.name}"] = [method.input_type, method.output_type, *streams]
    for enum in file.enum_type:
        found[enum.name] = {value.name: value.number for value in enum.value}
    return found


def test_every_field_has_its_number_and_type(ask: Case) -> None:
    theirs, mine = ask("", "fields"), ours()
    assert {name: theirs.get(name) for name in mine} == mine
    assert [name for name in theirs if name not in mine and not name.startswith(LEFT_OUT)] == []
