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
from answers import answer
from endless import write_endless
from harness import eventually
from onnx import TensorProto, helper
from structlog.testing import capture_logs

from inference_server.cpus import STEPS_DOWN
from inference_server.engine import Apart, Device, ModelVersion, PreparedModels, Standby, apart, load
from inference_server.errors import ModelRefused, NotPrepared, PreparationStopped

CPU = Device("cpu")
SECONDS_TO_START = 3.0  # of the processor; on a slow machine
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


@pytest.fixture
def program(monkeypatch):
    """A function that has other Python run in place of what prepares versions."""

    def use(text):
        monkeypatch.setattr(apart, "_command", lambda *numbers: [sys.executable, "-c", text, *map(str, numbers)])

    return use


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


HAS_BEGUN = "import os, sys; sys.stdin.read(); print('begun', flush=True);"


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGFPE"])
def test_a_file_that_ends_the_process_is_refused(version_of, small_detector, keep, program, started, name):
    program(f"{HAS_BEGUN} os.kill(os.getpid(), {int(signal.Signals[name])})")
    reason = f"ONNX Runtime does not survive the model: the process that prepared it ended with {name}"
    with pytest.raises(ModelRefused, match=reason) as refused:
        load(version_of(small_detector()), CPU, prepared=keep, apart=Apart())
    assert not isinstance(refused.value, NotPrepared)
    assert len(started) == 1


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 3, f"signal {signal.SIGRTMIN + 3}")]
)
def test_one_that_others_end_twice_may_be_tried_again(version_of, small_detector, keep, program, started, number, name):
    program(f"{HAS_BEGUN} os.kill(os.getpid(), {int(number)})")
    with pytest.raises(NotPrepared, match=rf"was ended twice \({name}\), as where memory runs out"):
        load(version_of(small_detector()), CPU, prepared=keep, apart=Apart())
    assert len(started) == 2


def test_one_that_is_killed_is_begun_once_more(version_of, small_detector, keep, started):
    standby = Standby()
    standby.renew()
    os.kill(started[0].pid, signal.SIGSTOP)  # so that it is taken and does nothing
    threading.Timer(0.5, started[0].kill).start()
    with capture_logs() as logs:
        model = load(version_of(small_detector()), CPU, prepared=keep, apart=Apart(standby))
    assert answer(model).shape == (6, 24)
    assert [process.returncode for process in started] == [-signal.SIGKILL, 0]
    assert "prepared once more: the process for it was ended" in [entry["event"] for entry in logs]


def test_onnx_runtime_itself_ends_the_process(version_of, keep, program):
    """By a Split that it does not check; the server does, so its check is left out here."""
    program(
        "import sys; from inference_server import preparing; from inference_server.engine import graph;"
        "graph._check_split = lambda *_: None; preparing.main(int(sys.argv[1]))"
    )
    split = helper.make_node("Split", ["images"], ["a", "b", "c"], axis=1, num_outputs=2)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6, 4]) for name in ("images", "a")]
    made = helper.make_graph([split], "halves", values[:1], values[1:])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    version = replace(version_of(model), attributes=AS_TENSORS)
    with pytest.raises(ModelRefused, match=r"ONNX Runtime does not survive the model: .* ended with SIG(ABRT|SEGV)"):
        load(version, CPU, prepared=keep, apart=Apart())


@pytest.mark.parametrize(
    "trouble", ["it fails", "it says nothing", "it crashes first", "there is none", "nothing is kept"]
)
def test_without_such_a_process_the_server_prepares_it(
    version_of, small_detector, tmp_path, monkeypatch, program, trouble
):
    keep = PreparedModels(tmp_path / "prepared", 1 << 30)
    itself = "prepared by the server itself: no process does it"
    match trouble:
        case "it fails":
            program("raise SystemExit(3)")
            expected = [itself]
        case "it says nothing":
            program("pass")
            expected = [itself]
        case "it crashes first":
            program("import os; os.abort()")
            expected = ["prepared once more: the process for it was ended", itself]
        case "there is none":
            monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
            expected = ["no process can be had to prepare a version", itself]
        case "nothing is kept":
            keep = PreparedModels(tmp_path / "prepared", 0)
            expected = ["prepared once more, by the server: nothing was kept"]
    version = version_of(small_detector())
    with capture_logs() as logs:
        model = load(version, CPU, prepared=keep, apart=Apart())
    np.testing.assert_allclose(answer(model), answer(load(version, CPU)), atol=1e-6)
    assert [entry["event"] for entry in logs if entry["log_level"] != "info"] == expected


@pytest.fixture
def busy(started):
    """A function that waits until the process has more to do than to start, and returns it."""

    def look():
        process = psutil.Process(eventually(lambda: started)[-1].pid)
        eventually(lambda: process.cpu_times().user > SECONDS_TO_START)
        return process

    return look


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder for what is only needed for a while."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def test_it_can_be_stopped(endless, keep, started, busy, scratch):
    process = Apart()
    stopper = threading.Thread(target=lambda: (busy(), process.stop()))
    stopper.start()
    with pytest.raises(PreparationStopped):
        load(endless, CPU, prepared=keep, apart=process)
    stopper.join()
    assert [one.returncode for one in started] == [-signal.SIGKILL]
    with pytest.raises(PreparationStopped):
        load(endless, CPU, prepared=keep, apart=process)
    assert len(started) == 1
    assert not list(scratch.iterdir())


def test_what_is_never_done_is_refused(endless, keep, started, monkeypatch):
    monkeypatch.setattr(apart, "LIMIT_SECONDS", 3)
    with pytest.raises(ModelRefused, match=r"expected an answer to its first frames within 3 s, got none"):
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
def test_it_makes_way_for_the_server(started):
    standby = Standby()
    standby.renew()
    try:
        of = Path(f"/proc/{started[0].pid}")
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        eventually(lambda: psutil.Process(started[0].pid).nice() == min(19, mine + STEPS_DOWN))
        expected = min(1000, int(Path("/proc/self/oom_score_adj").read_text()) + 500)
        eventually(lambda: int((of / "oom_score_adj").read_text()) == expected)
        # Its priority counts for something only beside what is in the same group. The file is empty for
        # what is in none, and missing where the kernel has none.
        if (of / "autogroup").exists():
            groups = {(place / "autogroup").read_text().partition(" ")[0] for place in (of, Path("/proc/self"))}
            assert len(groups) == 1
        assert os.getpgid(started[0].pid) == started[0].pid  # a terminal's Ctrl-C is not for it
    finally:
        standby.close()


@linux
def test_it_is_told_nothing_that_it_need_not_know(started, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    standby = Standby()
    standby.renew()
    try:
        environment = eventually(psutil.Process(started[0].pid).environ)
        assert "AWS_SECRET_ACCESS_KEY" not in environment
        assert environment["PATH"] == os.environ["PATH"]
    finally:
        standby.close()


def test_the_folder_that_the_server_was_started_in_gives_it_no_code(
    version_of, small_detector, keep, started, tmp_path, monkeypatch
):
    for name in ("onnx.py", "json.py", "inference_server.py"):
        (tmp_path / name).write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    load(version_of(small_detector()), CPU, prepared=keep, apart=Apart()).close()
    assert [process.returncode for process in started] == [0]


@linux
def test_what_ends_the_server_in_order_does_not_end_it(endless, keep, busy):
    """A service manager signals all processes of a service; this one is the server's to end."""
    process, ended = Apart(), []

    def work():
        with pytest.raises(PreparationStopped):
            load(endless, CPU, prepared=keep, apart=process)
        ended.append(True)

    loading = threading.Thread(target=work)
    loading.start()
    child = busy()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        child.send_signal(number)
    time.sleep(0.3)
    assert child.is_running()
    assert not ended
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
    assert done.stdout.startswith(apart.BEGUN)
    assert json.loads(done.stdout.removeprefix(apart.BEGUN))["events"] == []
    assert done.stderr.count(b"said") == 2
