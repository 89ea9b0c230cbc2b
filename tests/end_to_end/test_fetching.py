"""Inference servers that share no volume with the registry: files come through it into a cache."""

from __future__ import annotations

import os
import signal
import threading

import onnx
import pytest
from harness import NAME, PATIENCE, eventually
from videoai import RegistryClient
from videoai.registry.v1 import registry_pb2

REJECTED = registry_pb2.MODEL_STATE_REJECTED


@pytest.fixture
def apart(pair, tmp_path):
    """A registry with its folder, and inference servers with another that holds nothing."""
    pair.inference_root = tmp_path / "elsewhere"
    pair.inference_root.mkdir()
    pair.start_registry()
    return pair


@pytest.fixture
def cache(apart):
    return apart.inference_root / ".videoai" / "model-cache"


@pytest.fixture(scope="session")
def large(onnx_files, tmp_path_factory):
    """The second detector with many bytes that say nothing, so that it takes a while to send."""
    model = onnx.load(onnx_files[2])
    model.doc_string = os.urandom(60_000_000).hex()
    path = tmp_path_factory.mktemp("large") / "v2.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def push(pair, file, version):
    with RegistryClient(pair.registry_address, timeout_seconds=PATIENCE) as registry:
        registry.upload(file, NAME, version=version)


def whole(cache):
    return sorted(path for path in cache.glob("*.onnx"))


def received(cache):
    return sum(path.stat().st_size for path in cache.glob("*.part"))


def refusal(pair, version):
    def refused():
        return next((r for r in pair.replicas() if r.seen_version == version and r.state == REJECTED), None)

    return eventually(refused, f"version {version} is refused").error


def serving_pushed(pair, onnx_files):
    push(pair, onnx_files[1], 1)
    pair.activate(1)
    process = pair.start_inference()
    pair.wait_until_running(1)
    return process


def test_pushed_activated_served_and_swapped_under_load(apart, onnx_files, cache, video):
    process = serving_pushed(apart, onnx_files)
    assert apart.health(process) == 1
    assert not (apart.inference_root / "models").exists()
    push(apart, onnx_files[2], 2)
    failures = []
    stop = threading.Event()

    def load():
        try:
            while not stop.is_set():
                assert [frame.frame_index for frame in apart.analyze(video)] == list(range(120))
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for version in (2, 1, 2, 1, 2):
            apart.activate(version)
            apart.wait_until_running(version)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert apart.serving().frames_failed == 0
    assert {path.read_bytes() for path in whole(cache)} == {file.read_bytes() for file in onnx_files.values()}
    assert process.log.count("file fetched") == 2


def test_a_restart_without_the_registry_serves_from_the_cache(apart, onnx_files, video):
    process = serving_pushed(apart, onnx_files)
    state = apart.inference_root / ".videoai" / "inference-state.json"
    eventually(lambda: state.exists() and '"version": 1' in state.read_text())
    apart.registry_process.kill()
    process.send(signal.SIGTERM)
    assert process.wait() == 0
    apart.start_inference()
    apart.wait_until_running(1)
    assert {frame.model_version for frame in apart.analyze(video, max_frames=5)} == {1}


def test_a_download_that_breaks_off_goes_on_when_the_registry_is_back(apart, onnx_files, large, cache, video):
    process = serving_pushed(apart, onnx_files)
    push(apart, large, 2)
    apart.activate(2)
    eventually(lambda: received(cache), "some of it has come")
    apart.registry_process.send(signal.SIGSTOP)
    apart.registry_process.kill()
    before = eventually(lambda: received(cache))
    assert before < large.stat().st_size
    eventually(lambda: "does not give the file now" in process.log)
    assert {frame.model_version for frame in apart.analyze(video, max_frames=5)} == {1}
    apart.start_registry()
    apart.wait_until_running(2)
    resumed = [line for line in process.log.splitlines() if "fetching a file" in line]
    assert any("offset_bytes=" in line and "offset_bytes=0" not in line for line in resumed), resumed
    eventually(lambda: [replica.running_version for replica in apart.replicas()] == [2])


def test_a_version_that_is_superseded_is_not_waited_for(apart, onnx_files, large, cache):
    process = serving_pushed(apart, onnx_files)
    push(apart, large, 2)
    apart.activate(2)
    eventually(lambda: received(cache), "some of it has come")
    apart.activate(1)
    eventually(lambda: apart.serving().seen_version == 1)
    eventually(lambda: "superseded" in process.log)
    apart.activate(2)
    apart.wait_until_running(2)


def test_what_does_not_fit_is_refused_and_what_runs_is_not_evicted(apart, onnx_files, large, cache, video):
    push(apart, onnx_files[1], 1)
    apart.activate(1)
    apart.start_inference("--max-cache-bytes", "1000000")
    apart.wait_until_running(1)
    push(apart, large, 2)
    apart.activate(2)
    assert "--max-cache-bytes" in refusal(apart, 2)
    assert [path.read_bytes() for path in whole(cache)] == [onnx_files[1].read_bytes()]
    assert {frame.model_version for frame in apart.analyze(video, max_frames=5)} == {1}


def test_a_file_of_the_cache_that_was_damaged_is_fetched_anew(apart, onnx_files, cache):
    process = serving_pushed(apart, onnx_files)
    push(apart, onnx_files[2], 2)
    apart.activate(2)
    apart.wait_until_running(2)
    for path in whole(cache):
        path.write_bytes(b"?" + path.read_bytes()[1:])
    apart.activate(1)
    apart.wait_until_running(1)
    assert "a cached file is damaged" in process.log


def test_two_servers_share_one_cache(apart, onnx_files, large, tmp_path):
    push(apart, large, 1)
    apart.activate(1)
    folder = tmp_path / "shared-cache"
    servers = [
        apart.start_inference("--cache-folder", str(folder), "--state-file", str(tmp_path / f"state-{number}.json"))
        for number in (1, 2)
    ]
    eventually(lambda: [replica.running_version for replica in apart.replicas()] == [1, 1], "both serve")
    assert sum(server.log.count("file fetched") for server in servers) == 1
    assert [path.read_bytes() for path in whole(folder)] == [large.read_bytes()]


def test_where_fetching_is_off_the_file_is_missed(apart, onnx_files):
    push(apart, onnx_files[1], 1)
    apart.activate(1)
    apart.start_inference("--max-cache-bytes", "0")
    assert "no such file" in refusal(apart, 1)


def test_a_version_that_the_registry_cannot_give_is_refused(apart, onnx_files):
    serving_pushed(apart, onnx_files)
    model = apart.register(onnx_files[2], 2)
    apart.inference_process.send(signal.SIGSTOP)
    apart.activate(2)
    (apart.root / model.path).write_bytes(b"changed")
    apart.inference_process.send(signal.SIGCONT)
    assert "the registry does not give the file" in refusal(apart, 2)
