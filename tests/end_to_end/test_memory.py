"""Swapping for ever costs nothing: memory of the server over 300 swaps under load."""

import threading
from contextlib import contextmanager
from statistics import median

import grpc
import pytest
from harness import eventually
from videoai.inference.v1 import inference_pb2

SWAPS = 300
SETTLED = 100
AT_REST = 8  # swaps of each kind without load, after which nothing of a stream is left that waits to be collected
ALLOWED = 1.1  # a session that stayed with each swap would double it several times over


@pytest.fixture
def serving_pairs(pair, onnx_files):
    """A running pair that rehearses batches of at most two, for a batch of eight takes ten times as long."""
    pair.start_registry()
    for version, file in onnx_files.items():
        pair.register(file, version)
    pair.activate(1)
    pair.start_inference("--max-batch", "2")
    pair.wait_until_running(1)
    return pair


@contextmanager
def streams(pair, video, count=2):
    """Analyse videos all the time, each to its end, and raise the first failure."""
    stop, failures = threading.Event(), []

    def load():
        while not stop.is_set():
            try:
                assert [frame.frame_index for frame in pair.analyze(video)] == list(range(120))
            except (grpc.RpcError, AssertionError) as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=load) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    eventually(lambda: not pair.inference.GetServingState(inference_pb2.GetServingStateRequest()).active_streams)


def swap(pair, count):
    """Put the other version into production so many times; what the server holds after each, in MiB."""
    curve = []
    for _ in range(count):
        version = 3 - pair.serving().running_version
        pair.activate(version)
        pair.wait_until_running(version)
        curve.append(pair.inference_process.memory / 2**20)
    return curve


def test_memory_stays_level_over_many_swaps(serving_pairs, video):
    """At rest, the server holds after 300 swaps under load what it held after the first 100."""
    with streams(serving_pairs, video):
        curve = swap(serving_pairs, SETTLED)
    before = median(swap(serving_pairs, AT_REST))
    with streams(serving_pairs, video):
        curve += swap(serving_pairs, SWAPS - SETTLED)
    after = median(swap(serving_pairs, AT_REST))
    print("swaps: memory of the server in MiB")
    for end in range(SETTLED, SWAPS + 1, SETTLED):
        print(f"{end:5}: {sum(curve[end - SETTLED : end]) / SETTLED:7.1f}")
    print(f"at rest: {before:.1f} after {SETTLED} swaps, {after:.1f} after {SWAPS}")
    assert serving_pairs.serving().frames_failed == 0
    assert serving_pairs.serving().swaps == SWAPS + 2 * AT_REST
    assert after <= before * ALLOWED
