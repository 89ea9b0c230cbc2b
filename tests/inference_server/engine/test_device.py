import functools

import numpy as np
import onnxruntime
import pytest
from structlog.testing import capture_logs

from inference_server.engine import Device, ModelVersion, choose_device, load
from inference_server.engine import device as device_module
from inference_server.engine import session as session_module
from inference_server.engine.device import open_session
from inference_server.engine.session import SessionPlan, explain
from inference_server.errors import DeviceUnavailable


@functools.cache
def cuda_works() -> bool:
    try:
        choose_device("cuda")
    except DeviceUnavailable:
        return False
    return True


@pytest.fixture
def no_cuda():
    if cuda_works():
        pytest.skip("this machine has CUDA")


@pytest.fixture
def cuda():
    if not cuda_works():
        pytest.skip("no CUDA device that runs sessions")
    return choose_device("cuda")


def test_the_cpu_is_there():
    device = choose_device("cpu")
    assert (str(device), device.provider) == ("cpu", "CPUExecutionProvider")


@pytest.mark.parametrize("wanted", ["", "gpu", "cuda:", "cuda:x", "CPU", "cuda:-1", "tensorrt:", "tensorrt:x", "trt"])
def test_a_device_that_does_not_exist_is_refused(wanted):
    with pytest.raises(DeviceUnavailable, match=r"expected auto, cpu, cuda\[:N\] or tensorrt\[:N\], got"):
        choose_device(wanted)


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_cuda_is_refused_where_no_session_runs_on_it(wanted, capfd):
    with pytest.raises(DeviceUnavailable) as refusal:
        choose_device(wanted)
    text = str(refusal.value)
    assert text.startswith(f"device cuda:{wanted[5:] or 0}: ")
    assert "CPUExecutionProvider" in text  # what ONNX Runtime has
    assert "install" in text
    assert "--device cpu" in text
    said = capfd.readouterr()
    assert "onnxruntime" not in said.err.lower()
    assert "Failed to load" not in said.out  # the first line on standard output is the server's own


@pytest.mark.usefixtures("no_cuda")
def test_auto_says_that_it_took_the_cpu_and_why():
    with capture_logs() as logs:
        assert choose_device("auto") == Device("cpu")
    (entry,) = logs
    assert (entry["event"], entry["log_level"], entry["device"]) == ("device chosen", "warning", "cpu")
    assert "CUDA does not work here: device cuda:0" in entry["why"]


def test_a_runtime_built_without_cuda_is_named(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceUnavailable, match=r"built without CUDA \(it has CPUExecutionProvider\).*onnxruntime-gpu"):
        choose_device("cuda")


def test_a_runtime_built_without_tensorrt_is_named(monkeypatch):
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(DeviceUnavailable, match=r"built without TensorRT \(it has CUDAExecutionProvider, CPU"):
        choose_device("tensorrt")


def test_a_session_that_came_up_elsewhere_is_found_out(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libx.so: cannot open libx.so"))
    monkeypatch.setattr(Device, "providers", property(lambda _: [("CPUExecutionProvider", {})]))
    with pytest.raises(DeviceUnavailable, match=r"came up on CPUExecutionProvider; cannot open libx.so"):
        choose_device("cuda:3")


def test_the_probe_is_a_model_that_runs():
    session = device_module.open_session([device_module._tiny_model()], Device("cpu"))
    assert session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})[0].tolist() == [[[[9, 9], [9, 9]]]]


@pytest.mark.parametrize(
    ("run_threads", "threads", "runs"), [(None, 8, 4), (1, 1, 8), (2, 2, 4), (3, 3, 2), (8, 8, 1), (20, 20, 1)]
)
def test_runs_on_the_cpu_take_all_cores_between_them(monkeypatch, run_threads, threads, runs):
    monkeypatch.setattr(device_module, "usable_cpus", lambda: 8)
    monkeypatch.setattr(session_module, "usable_cpus", lambda: 8)
    cpu = Device("cpu", run_threads=run_threads)
    model = [device_module._tiny_model()]
    session = open_session(model, cpu)
    assert (session.get_session_options().intra_op_num_threads, cpu.runs_at_once) == (threads, runs)
    assert open_session(model, cpu, SessionPlan(threads=1)).get_session_options().intra_op_num_threads == 1
    assert Device("cuda", run_threads=run_threads).runs_at_once == 1


def test_cuda_asks_for_its_own_device_and_the_cpu_for_the_rest():
    (first, options), (second, _) = Device("cuda", 2).providers
    assert (first, options["device_id"], second) == ("CUDAExecutionProvider", "2", "CPUExecutionProvider")


@pytest.mark.cuda
def test_models_run_on_cuda_as_on_the_cpu(cuda, demo_files):
    random = np.random.default_rng(0)
    for version, path in demo_files.items():
        on_cuda = load(ModelVersion("shapes", version, path), cuda, max_batch=4)
        on_cpu = load(ModelVersion("shapes", version, path), Device("cpu"), max_batch=4)
        assert (on_cuda.device, on_cuda.provider) == ("cuda:0", "CUDAExecutionProvider")
        frames = random.integers(0, 256, (on_cuda.max_batch, on_cuda.layout.height, on_cuda.layout.width, 3), np.uint8)
        for found, expected in zip(on_cuda.run(list(frames)), on_cpu.run(list(frames)), strict=True):
            np.testing.assert_allclose(found["output0"], expected["output0"], atol=0.05, rtol=1e-3)


@pytest.mark.cuda
@pytest.mark.usefixtures("cuda")
def test_auto_takes_cuda_where_it_works():
    assert choose_device("auto") == Device("cuda", 0)


@pytest.mark.cuda
@pytest.mark.usefixtures("cuda")
def test_a_device_number_that_is_not_there_is_refused():
    with pytest.raises(DeviceUnavailable, match="device cuda:99"):
        choose_device("cuda:99")


def test_the_runtime_s_errors_are_said_in_one_plain_line():
    error = RuntimeError("[ONNXRuntimeError] : 10 : INVALID_GRAPH : This is\n an invalid model.")
    assert explain(error) == "This is an invalid model."
    assert explain(MemoryError()) == "MemoryError"
