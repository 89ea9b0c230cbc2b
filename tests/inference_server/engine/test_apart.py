"""A file is met by a process of its own first: what it does there, to ONNX Runtime or the machine, stays there."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from endless import write_endless
from onnx import TensorProto, helper
from structlog.testing import capture_logs

from inference_server.cpus import STEPS_DOWN
from inference_server.engine import Apart, Device, ModelVersion, PreparedModels, Standby, apart, load
from inference_server.errors import ModelRefused, PreparationStopped

CPU = Device("cpu")
PATIENCE = 60.0
AS_TENSORS = {"videoai": {"family": "tensors"}}

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux of processes")


@pytest.fixture
def keep(tmp_path):
    return PreparedModels(tmp_path / "prepared", 1 << 30)


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    seen, popen = [], subprocess.Popen

    def start(*arguments, **options):
        seen.append(popen(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return seen


@pytest.fixture
def endless(tmp_path):
    """A version that is sound and never answers."""
    write_endless(tmp_path / "endless.onnx")
    return ModelVersion("thing", 1, tmp_path / "endless.onnx", attributes=AS_TENSORS)


def frame():
    return np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)


def answer(model):
    outputs = {name: array.copy() for name, array in model.run([frame()])[0].items()}
    model.close()
    return outputs["output0"]


def eventually(question):
    deadline = time.monotonic() + PATIENCE
    while not (found := question()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("batch", [1, "batch", 4])
def test_it_answers_as_if_the_server_had_prepared_it(version_of, small_detector, keep, started, tmp_path, batch):
    version = version_of(small_detector(batch=batch))
    models = [load(version, CPU, prepared=keep, apart=Apart()) for _ in range(2)]
    assert [process.returncode for process in started] == [0]  # the second load found what the first one kept
    here = load(version, CPU, prepared=PreparedModels(tmp_path / "here", 1 << 30))
    assert [(model.sha256, model.max_batch, model.family) for model in models] == 2 * [
        (here.sha256, here.max_batch, here.family)
    ]
    expected = answer(here)
    for model in models:
        np.testing.assert_array_equal(answer(model), expected)


def test_weights_in_files_of_their_own(small_detector, keep, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(small_detector(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    version = ModelVersion("thing", 1, path)
    here = load(version, CPU)
    model = load(ModelVersion("thing", 1, path, here.sha256), CPU, prepared=keep, apart=Apart())
    assert model.sha256 == here.sha256
    np.testing.assert_allclose(answer(model), answer(here), atol=1e-6)


def test_it_is_refused_with_the_same_reason(version_of, small_detector, keep):
    for wrong in (b"no model", small_detector(batch=0)):
        with pytest.raises(ModelRefused) as here:
            load(version_of(wrong), CPU, prepared=keep)
        with pytest.raises(ModelRefused) as there:
            load(version_of(wrong), CPU, prepared=keep, apart=Apart())
        assert str(here.value) == str(there.value)


def test_what_is_to_be_known_is_logged_by_the_server(version_of, small_detector, keep):
    with capture_logs() as logs:
        load(version_of(small_detector(batch="batch", fixed_batch=1)), CPU, prepared=keep, apart=Apart()).close()
    (limited,) = (entry for entry in logs if entry["event"] == "batches limited")
    assert (limited["log_level"], limited["max_batch"], limited["model_name"]) == ("warning", 1, "thing")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGSEGV, "ONNX Runtime does not survive the model: the process that prepared it ended with SIGSEGV"),
        (signal.SIGABRT, "ONNX Runtime does not survive the model: the process that prepared it ended with SIGABRT"),
        (signal.SIGRTMIN + 3, f"ended with signal {signal.SIGRTMIN + 3}"),
        (
            signal.SIGKILL,
            r"the process that prepared the model was killed \(SIGKILL\), as the system does where memory",
        ),
    ],
)
def test_a_file_that_ends_the_process_is_refused(version_of, small_detector, keep, monkeypatch, number, reason):
    monkeypatch.setattr(apart, "_PROGRAM", ("-c", f"import os; os.kill(os.getpid(), {int(number)})"))
    with pytest.raises(ModelRefused, match=reason):
        load(version_of(small_detector()), CPU, prepared=keep, apart=Apart())


def test_onnx_runtime_itself_ends_the_process(version_of, keep, monkeypatch):
    """By a Split that it does not check; the server does, so its check is left out here."""
    program = (
        "import sys; from inference_server import preparing; from inference_server.engine import graph;"
        "graph._check_split = lambda *_: None; preparing.main(int(sys.argv[1]))"
    )
    monkeypatch.setattr(apart, "_PROGRAM", ("-c", program))
    split = helper.make_node("Split", ["images"], ["a", "b", "c"], axis=1, num_outputs=2)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6, 4]) for name in ("images", "a")]
    made = helper.make_graph([split], "halves", values[:1], values[1:])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    version = replace(version_of(model), attributes=AS_TENSORS)
    with pytest.raises(ModelRefused, match=r"ONNX Runtime does not survive the model: .* ended with SIG(ABRT|SEGV)"):
        load(version, CPU, prepared=keep, apart=Apart())


@pytest.mark.parametrize("trouble", ["it fails", "there is none", "nothing is kept"])
def test_without_such_a_process_the_server_prepares_it(version_of, small_detector, tmp_path, monkeypatch, trouble):
    keep = PreparedModels(tmp_path / "prepared", 1 << 30)
    match trouble:
        case "it fails":
            monkeypatch.setattr(apart, "_PROGRAM", ("-c", "raise SystemExit(3)"))
        case "there is none":
            monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
        case "nothing is kept":
            keep = PreparedModels(tmp_path / "prepared", 0)
    version = version_of(small_detector())
    with capture_logs() as logs:
        model = load(version, CPU, prepared=keep, apart=Apart())
    np.testing.assert_allclose(answer(model), answer(load(version, CPU)), atol=1e-6)
    warnings = [entry["event"] for entry in logs if entry["log_level"] != "info"]
    expected = {
        "it fails": ["prepared by the server itself: the process for it failed"],
        "there is none": ["prepared by the server itself: no process can be had"],
        "nothing is kept": [],
    }
    assert warnings == expected[trouble]


def test_it_can_be_stopped(endless, keep, started):
    process = Apart()
    threading.Timer(0.5, process.stop).start()
    with pytest.raises(PreparationStopped):
        load(endless, CPU, prepared=keep, apart=process)
    assert [one.returncode for one in started] == [-signal.SIGKILL]
    with pytest.raises(PreparationStopped):
        load(endless, CPU, prepared=keep, apart=process)
    assert len(started) == 1


def test_what_is_never_done_is_refused(endless, keep, started, monkeypatch):
    monkeypatch.setattr(apart, "LIMIT_SECONDS", 0.5)
    with pytest.raises(ModelRefused, match=r"expected an answer to its first frames within 0\.5 s, got none"):
        load(endless, CPU, prepared=keep, apart=Apart())
    assert [one.returncode for one in started] == [-signal.SIGKILL]


def test_one_on_standby_is_taken_and_another_comes(version_of, small_detector, keep, started):
    standby = Standby()
    standby.renew()
    standby.renew()
    assert len(started) == 1
    load(version_of(small_detector()), CPU, prepared=keep, apart=Apart(standby)).close()
    assert (len(started), started[0].returncode) == (1, 0)
    standby.renew()
    assert len(started) == 2
    standby.close()
    assert started[1].returncode == -signal.SIGKILL


@pytest.mark.parametrize("renewed", [False, True])
def test_one_that_has_ended_on_standby_is_not_missed(version_of, small_detector, keep, started, renewed):
    standby = Standby()
    standby.renew()
    started[0].kill()
    started[0].wait()
    if renewed:
        standby.renew()
    load(version_of(small_detector()), CPU, prepared=keep, apart=Apart(standby)).close()
    assert [process.returncode for process in started] == [-signal.SIGKILL, 0]


@linux
def test_it_makes_way_for_the_server(endless, keep, started):
    process = Apart()

    def work():
        with pytest.raises(PreparationStopped):
            load(endless, CPU, prepared=keep, apart=process)

    loading = threading.Thread(target=work)
    loading.start()
    try:
        child = psutil.Process(eventually(lambda: started)[0].pid)
        eventually(lambda: child.nice() == min(19, os.getpriority(os.PRIO_PROCESS, 0) + STEPS_DOWN))
        eventually(lambda: Path(f"/proc/{child.pid}/oom_score_adj").read_text() == "500\n")
        assert os.getsid(child.pid) == child.pid
    finally:
        process.stop()
        loading.join()


@linux
def test_it_goes_when_the_server_is_killed(endless, tmp_path):
    program = (
        "import sys; from pathlib import Path; from inference_server.engine import *;"
        "version = ModelVersion('thing', 1, Path(sys.argv[1]), attributes={'videoai': {'family': 'tensors'}});"
        "load(version, Device('cpu'), prepared=PreparedModels(Path(sys.argv[2]), 1 << 30), apart=Apart())"
    )
    server = subprocess.Popen([sys.executable, "-c", program, str(endless.path), str(tmp_path / "prepared")])
    try:
        (child,) = eventually(psutil.Process(server.pid).children)
        eventually(lambda: child.nice() > os.getpriority(os.PRIO_PROCESS, 0))  # it has begun
    finally:
        server.kill()
        server.wait()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_what_libraries_print_is_no_answer(version_of, small_detector, keep, tmp_path):
    """The process writes one JSON object to standard output, whatever else is written there."""
    request = {
        "version": {"model_name": "m", "version": 1, "path": str(version_of(small_detector()).path)},
        "max_batch": 8,
        "folder": str(keep.folder),
        "max_bytes": keep.max_bytes,
    }
    program = (
        "import os; from inference_server import engine, preparing; prepare = engine.prepare;"
        "engine.prepare = lambda *a: (print('said'), os.system('echo said'), prepare(*a))[-1];"
        "preparing.main(os.getppid())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(request).encode(), capture_output=True, check=True
    )
    assert json.loads(done.stdout)["events"] == []
    assert done.stderr.count(b"said") == 2
