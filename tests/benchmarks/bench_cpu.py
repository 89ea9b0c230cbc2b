"""A detector's graph on the CPU, the session alone: rewritten against as exported, and runs side by side with a thread
each against all threads for each.

python tests/benchmarks/bench_cpu.py [FILE.onnx ...]: these files in place of a YOLOv8n-sized graph with random weights.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import yolo_sized
from numpy.typing import NDArray
from onnx import ModelProto
from report import Row, compare, report, shown

from inference_server.cpus import usable_cpus
from inference_server.engine.device import Device, open_session
from inference_server.engine.graph import opset_of
from inference_server.engine.rewrites import rewrite_for_cpu
from inference_server.engine.session import Session, SessionPlan

SIDES = (320, 640)  # of the picture, where the file leaves that open
SECONDS, ROUNDS = 0.5, 15  # short turns, since a shared machine's speed drifts within seconds
CPU = Device("cpu")
Feeds = Mapping[str, NDArray[Any]]


def rate(session: Session, feeds: Feeds, runs: int) -> float:
    """Frames per second of so many runs at a time."""
    end, counts = perf_counter() + SECONDS, [0] * runs

    def run(index: int) -> None:
        while perf_counter() < end:
            session.run(None, feeds)
            counts[index] += 1

    started = perf_counter()
    threads = [threading.Thread(target=run, args=(index,)) for index in range(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (perf_counter() - started)


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
    for threads, runs in sorted({(1, 1), (cores, 1), (cores, cores)}):
        before, after = (open_session(graph, CPU, SessionPlan(threads=threads)) for graph in (exported, rewritten))
        yield compare(
            f"{name}, {runs} at a time, {threads} threads each: rewritten",
            partial(rate, after, feeds, runs),
            "as exported",
            partial(rate, before, feeds, runs),
            "frames/s",
            ROUNDS,
        )
    narrow, wide = (open_session(rewritten, CPU, SessionPlan(threads=threads)) for threads in (1, cores))
    yield compare(
        f"{name}, {cores} at a time, rewritten: a thread each",
        partial(rate, narrow, feeds, cores),
        "all threads for each",
        partial(rate, wide, feeds, cores),
        "frames/s",
        ROUNDS,
    )


def main() -> None:
    files = [Path(argument) for argument in sys.argv[1:]]
    cases = [(path.name, onnx.load(path), side) for path in files for side in SIDES]
    cases = cases or [(f"YOLOv8n-sized {side}x{side}", yolo_sized.build(size=side), side) for side in SIDES]
    report("cpu", shown(row for case in cases for row in compared(*case)))


if __name__ == "__main__":
    main()
