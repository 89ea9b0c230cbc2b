"""Swapping for ever costs nothing: memory of the server over 200 swaps under load."""

import threading
from statistics import median

import grpc
import psutil
from harness import eventually
from videoai.inference.v1 import inference_pb2

SWAPS = 200
SETTLED = 20
WINDOW = 40  # swaps; the level swings with the garbage collector
ALLOWED = 1.05


def test_memory_stays_level_over_many_swaps(serving_v1, video):
    """The level after 200 swaps is within 5 % of the level after the first 20."""
    stop = threading.Event()
    failures = []

    def load():
        while not stop.is_set():
            try:
                frames = [frame.frame_index for frame in serving_v1.analyze(video)]
                assert frames == list(range(120))
            except (grpc.RpcError, AssertionError) as error:
                failures.append(error)
                return

    process = psutil.Process(serving_v1.inference_process.popen.pid)
    loads = [threading.Thread(target=load) for _ in range(2)]
    for thread in loads:
        thread.start()
    curve = []
    try:
        for swap in range(1, SWAPS + 1):
            version = 1 + swap % 2
            serving_v1.activate(version)
            serving_v1.wait_until_running(version)
            curve.append(process.memory_info().rss / 2**20)
    finally:
        stop.set()
        for thread in loads:
            thread.join()
    print("swaps: memory of the server in MiB")
    for swap in range(SETTLED, SWAPS + 1, SETTLED):
        print(f"{swap:5}: {sum(curve[swap - SETTLED : swap]) / SETTLED:7.1f}")
    assert not failures
    assert serving_v1.serving().frames_failed == 0
    assert serving_v1.serving().swaps == SWAPS
    before = median(curve[SETTLED : SETTLED + WINDOW])
    after = median(curve[-WINDOW:])
    assert after <= before * ALLOWED, f"{before:.1f} MiB after {SETTLED} swaps, {after:.1f} MiB after {SWAPS}"
    eventually(lambda: not serving_v1.inference.GetServingState(inference_pb2.GetServingStateRequest()).active_streams)
