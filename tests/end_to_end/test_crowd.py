"""Watchers that stop reading cost the others nothing and the server little, and learn the latest once they go on."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psutil
from crowd import Crowd
from harness import PATIENCE, Pair
from videoai.registry.v1 import registry_pb2 as pb

STOPPED, LIVE = 10, 90
CHANGES = 40
MEBIBYTE = 2**20


def describe(pair: Pair, name: str, text: str) -> int:
    """Change what watchers of the model are told; returns the revision."""
    metadata = pb.ModelMetadata(description=text)
    request = pb.UpdateModelMetadataRequest(model_name=name, version=1, metadata=metadata)
    return pair.registry.UpdateModelMetadata(request, timeout=PATIENCE).revision


def test_stopped_watchers_hold_up_nobody_and_learn_the_latest(pair: Pair, onnx_files: dict[int, Path]) -> None:
    server = psutil.Process(pair.start_registry().popen.pid)
    for name in ("a", "b"):
        for version in (1, 2):
            pair.register(onnx_files[version], version, name)
        pair.activate(1, name)
    address = pair.registry_address
    with closing(Crowd(address, LIVE, "a")) as live, closing(Crowd(address, STOPPED, "a", "b")) as stopped:
        assert min(live.learned()) > 0
        assert min(stopped.learned()) > 0
        stopped.stop()
        before = server.memory_info().rss
        for turn in range(CHANGES):  # of a mebibyte each: more than the connections of the stopped ones take
            describe(pair, "b", f"{turn} {'x' * MEBIBYTE}")
            assert live.learned(pair.activate(2 - turn % 2, "a").revision)
        grown = server.memory_info().rss - before
        latest = describe(pair, "b", "the latest")
        stopped.go_on()
        assert stopped.learned(latest)
        assert live.learned(pair.activate(2, "a").revision)
    print(f"the server grew by {grown / MEBIBYTE:.0f} MiB, of {STOPPED * CHANGES} MiB that were not taken")
    assert grown < STOPPED * CHANGES * MEBIBYTE / 4, "what stopped watchers miss is kept for them"
