"""What goes wrong in production: bad files, dead servers, servers that start in the wrong order."""

import shutil
import signal
from contextlib import suppress

import grpc
import onnx
import psutil
import pytest
from endless import write_endless
from harness import NAME, eventually
from onnx import TensorProto, helper
from videoai.registry.v1 import registry_pb2

SERVING, NOT_SERVING = 1, 2


def wrong_shape(path):
    """A sound ONNX file with an output that no detector has."""
    node = helper.make_node("ReduceMean", ["images"], ["output0"], keepdims=1)
    graph = helper.make_graph(
        [node],
        "wrong",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 320, 320])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 1, 1, 1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), path)


def spoil(path, how):
    if how == "missing":
        path.unlink()
    elif how == "changed on disk":
        path.write_bytes(path.read_bytes() + b"\0")
    elif how == "corrupt":
        content = bytearray(path.read_bytes())
        content[len(content) // 3 :] = b"\xff" * (len(content) - len(content) // 3)
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "changed on disk", "corrupt", "wrong shape"])
def test_a_bad_version_is_refused_and_the_old_one_goes_on(pair, onnx_files, video, tmp_path, how):
    """Activated while no replica watches, then spoiled: the replica that comes is the one to notice."""
    pair.start_registry()
    pair.register(onnx_files[1], 1)
    pair.activate(1)
    process = pair.start_inference()
    pair.wait_until_running(1)
    process.send(signal.SIGSTOP)
    if how == "wrong shape":
        wrong_shape(tmp_path / "wrong.onnx")
        pair.register(tmp_path / "wrong.onnx", 2)
        pair.activate(2)
    else:
        pair.register(onnx_files[2], 2)
        pair.activate(2)
        spoil(pair.root / "models" / NAME / "v2" / "model.onnx", how)
    process.send(signal.SIGCONT)

    def refused():
        (replica,) = pair.replicas()
        return replica.state == registry_pb2.MODEL_STATE_REJECTED and replica

    replica = eventually(refused, "the replica refuses version 2")
    assert (replica.seen_version, replica.running_version) == (2, 1)
    assert replica.error
    served = pair.serving()
    assert (served.running_version, served.seen_version, served.last_error) == (1, 2, replica.error)
    assert {frame.model_version for frame in pair.analyze(video, max_frames=10)} == {1}
    assert pair.health(process) == SERVING
    assert process.log.count("version refused") == 1
    # A newer activation supersedes: mended and activated again, it runs.
    pair.activate(1)
    eventually(lambda: pair.serving().seen_version == 1)
    pair.register(onnx_files[2], 3)
    pair.activate(3)
    pair.wait_until_running(3)


def test_the_registry_refuses_to_activate_what_is_not_there(pair, onnx_files):
    pair.start_registry()
    pair.register(onnx_files[1], 1)
    spoil(pair.root / "models" / NAME / "v1" / "model.onnx", "missing")
    with pytest.raises(grpc.RpcError) as raised:
        pair.activate(1)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_the_inference_server_may_start_first(pair, onnx_files, video):
    first = pair.start_registry()
    first.kill()
    process = pair.start_inference()
    assert pair.health(process) == NOT_SERVING
    with pytest.raises(grpc.RpcError) as raised:
        list(pair.analyze(video))
    assert raised.value.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE}
    pair.start_registry()
    pair.register(onnx_files[1], 1)
    pair.activate(1)
    pair.wait_until_running(1)
    assert pair.health(process) == SERVING


def test_a_killed_registry_comes_back_and_they_find_each_other(serving_v1, video):
    stream = iter(serving_v1.analyze(video))
    next(stream)
    serving_v1.registry_process.kill()
    assert len(list(stream)) == 119
    assert len(list(serving_v1.analyze(video))) == 120
    serving_v1.start_registry()
    serving_v1.activate(2)
    serving_v1.wait_until_running(2)
    eventually(lambda: [replica.running_version for replica in serving_v1.replicas()] == [2])


def test_a_killed_inference_server_comes_back_to_what_is_in_production(serving_v1, video):
    killed = serving_v1.inference_process
    killed.kill()
    eventually(lambda: not serving_v1.replicas(), "the registry forgets the dead replica")
    serving_v1.activate(2)
    serving_v1.start_inference(listen=killed.address)
    serving_v1.wait_until_running(2)
    assert len(list(serving_v1.analyze(video))) == 120


def test_without_the_registry_the_last_version_known_is_served(serving_v1, video):
    serving_v1.activate(2)
    serving_v1.wait_until_running(2)
    eventually(lambda: '"version": 2' in (serving_v1.root / ".videoai" / "inference-state.json").read_text())
    serving_v1.registry_process.kill()
    serving_v1.inference_process.kill()
    process = serving_v1.start_inference()
    serving_v1.wait_until_running(2)
    assert serving_v1.health(process) == SERVING
    assert {frame.model_version for frame in serving_v1.analyze(video, max_frames=5)} == {2}
    # The registry is back and says something else.
    serving_v1.start_registry()
    serving_v1.activate(1)
    serving_v1.wait_until_running(1)


def test_production_that_is_cleared_goes_on(serving_v1, video):
    path = serving_v1.root / "models" / "registry.json"
    path.write_text(path.read_text().replace('"production"', '"staging"'))
    eventually(lambda: serving_v1.serving().cleared, "the server has been told")
    assert len(list(serving_v1.analyze(video))) == 120
    eventually(lambda: "going on with the last" in serving_v1.inference_process.log)


def test_production_that_is_cleared_stops_where_that_was_asked_for(serving_v1, video):
    serving_v1.start_inference("--unload-cleared")
    serving_v1.wait_until_running(1)
    path = serving_v1.root / "models" / "registry.json"
    path.write_text(path.read_text().replace('"production"', '"staging"'))
    eventually(lambda: serving_v1.serving().running_version == 0)
    with pytest.raises(grpc.RpcError) as raised:
        list(serving_v1.analyze(video))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert serving_v1.health(serving_v1.inference_process) == NOT_SERVING
    serving_v1.activate(2)
    serving_v1.wait_until_running(2)


def test_no_model_ends_the_server_that_was_told_so(pair, onnx_files):
    pair.start_registry()
    pair.register(onnx_files[1], 1)
    process = pair.start_inference("--fail-without-model")
    assert process.wait() == 1
    assert "No production model found in registry" in process.log
    pair.activate(1)
    pair.start_inference("--fail-without-model")
    pair.wait_until_running(1)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have CUDA")
@pytest.mark.parametrize("device", ["cuda", "tensorrt:1"])
def test_a_device_is_refused_where_there_is_none(pair, device):
    pair.registry_address = "127.0.0.1:1"
    process = pair.start_unchecked("inference_server", "--root", str(pair.root), "--device", device)
    assert process.wait() == 1
    assert f"--device {device}" in process.log
    assert "pip install" in process.log
    assert "Traceback" not in process.log


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have CUDA")
def test_auto_says_which_device_it_took(pair, onnx_files):
    pair.start_registry()
    process = pair.start_inference(device="auto")
    eventually(lambda: "cpu" in process.log, "the choice is in the log")


def test_a_registry_address_that_is_none_is_said_and_tried_again(serving_v1):
    """Pointed at another inference server by mistake: no crash, a reason in the log, health says NOT_SERVING."""
    serving_v1.registry_address = serving_v1.inference_process.address
    process = serving_v1.start_inference("--state-file", str(serving_v1.root / "other-state.json"))
    eventually(lambda: "the registry refuses to be watched" in process.log)
    assert "Traceback" not in process.log
    assert serving_v1.health(process) == NOT_SERVING


def test_a_version_that_is_never_done_holds_nobody_up(serving_v1, video, tmp_path):
    """Prepared by a process of its own: the old version answers, another takes its place, and a stop ends it."""
    pair, server = serving_v1, psutil.Process(serving_v1.inference_process.popen.pid)
    write_endless(tmp_path / "endless.onnx")
    pair.register(tmp_path / "endless.onnx", 3, metadata={"attributes": {"videoai": {"family": "tensors"}}})

    def preparing():
        """The process that has more to do than to start."""
        with suppress(psutil.Error):
            for child in server.children():
                if "inference_server.preparing" in child.cmdline() and child.cpu_times().user > 3:
                    return child
        return None

    pair.activate(3)
    process = eventually(preparing, "version 3 is prepared")
    assert {frame.model_version for frame in pair.analyze(video, max_frames=10)} == {1}
    served = pair.serving()
    assert (served.running_version, served.seen_version) == (1, 3)
    pair.activate(2)
    pair.wait_until_running(2)
    assert not process.is_running()
    pair.activate(3)
    process = eventually(preparing, "version 3 is prepared again")
    pair.inference_process.send(signal.SIGTERM)
    assert pair.inference_process.wait() == 0
    assert not process.is_running()
