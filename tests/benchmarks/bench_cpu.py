"""A detector's graph on the CPU, the session alone: rewritten against as exported, and runs side by side with a thread
each against all threads for each.

python tests/benchmarks/bench_cpu.py [FILE.onnx ...]: these files in place of a YOLOv8n-sized graph with random weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import yolo_sized
from numpy.typing import NDArray
from onnx import ModelProto
from report import Row, compare, rate, report, shown
from video_loop import in_threads

from inference_server.cpus import usable_cpus
from inference_server.engine.device import Device, open_session
from inference_server.engine.graph import opset_of
from inference_server.engine.rewrites import rewrite_for_cpu
from inference_server.engine.session import Session, SessionPlan

SIDES = (320, 640)  # of the picture, where the file leaves that open
SECONDS, ROUNDS = 0.5, 15  # short turns, since a shared machine's speed drifts within seconds
CPU = Device("cpu")
Feeds = Mapping[str, NDArray[Any]]


def frames(session: Session, feeds: Feeds) -> int:
    """How many one thread runs in SECONDS."""
    end, count = perf_counter() + SECONDS, 0
    while perf_counter() < end:
        session.run(None, feeds)
        count += 1
    return count


def feeds_of(model: ModelProto, side: int) -> Feeds:
    """A picture of random squares."""
    (value,) = model.graph.input
    sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
    height, width = (size or side for size in sizes[2:])
    squares = np.random.default_rng(0).random((1, 3, height // 16, width // 16), np.float32)
    return {value.name: np.ascontiguousarray(squares.repeat(16, 2).repeat(16, 3))}


def compared(name: str, model: ModelProto, side: int) -> Iterator[Row]:
    exported = model.SerializeToString()
    feeds = feeds_of(model, side)
    rewrite_for_cpu(model, opset_of(model) or 0)
    rewritten = model.SerializeToString()
    cores = usable_cpus()

    def at_a_time(runs: int, graph: bytes, threads: int) -> Callable[[], float]:
        session = open_session([graph], CPU, SessionPlan(threads=threads))
        return lambda: rate(lambda: in_threads(lambda: frames(session, feeds), runs))

    for threads, runs in sorted({(1, 1), (cores, 1), (cores, cores)}):
        after, before = (at_a_time(runs, graph, threads) for graph in (rewritten, exported))
        what = f"{name}, {runs} at a time, {threads} threads each: rewritten"
        yield compare(what, after, "as exported", before, "frames/s", ROUNDS)
    narrow, wide = (at_a_time(cores, rewritten, threads) for threads in (1, cores))
    what = f"{name}, {cores} at a time, rewritten: a thread each"
    yield compare(what, narrow, "all threads for each", wide, "frames/s", ROUNDS)


def main() -> None:
    files = [Path(argument) for argument in sys.argv[1:]]
    cases = [(path.name, onnx.load(path), side) for path in files for side in SIDES]
    cases = cases or [(f"YOLOv8n-sized {side}x{side}", yolo_sized.build(size=side), side) for side in SIDES]
    report("cpu", shown(row for case in cases for row in compared(*case)))


if __name__ == "__main__":
    main()
