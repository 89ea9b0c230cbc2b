"""A YOLOv8n-sized fp16 graph on CUDA: our path against the bare session with bound device memory.

python tests/benchmarks/bench_cuda.py [--seconds 3] [--device cpu]

For batches of 1, 8 and 32: frames a second of the bare session that finds its input on the device and leaves its output
there; of `LoadedModel` given frames in the host's memory; and of the batcher with so many callers. With --device cpu
it is a dry run of the same code, fp32 and small, that shows nothing but that it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from time import perf_counter

import numpy as np
import onnxruntime
import yolo_sized
from report import ROUNDS, Row, in_pairs, report

from inference_server.batcher import Batcher
from inference_server.detection import place
from inference_server.engine import Device, LoadedModel, ModelVersion, choose_device, load
from inference_server.errors import DeviceUnavailable
from inference_server.fair_queue import Turn

BATCHES = (1, 8, 32)


def frames_per_second(run: Callable[[], int], seconds: float) -> float:
    """How many frames `run`, which returns its number, gets done in a second."""
    count, start = 0, perf_counter()
    while (spent := perf_counter() - start) < seconds:
        count += run()
    return count / spent


class Bare:
    """The model's own session, its input on the device before the clock starts and its output left there."""

    def __init__(self, model: LoadedModel, device: Device, batch: int) -> None:
        session = model._session
        assert session is not None
        self._session, self._batch = session, batch
        layout = model.layout
        frames = np.zeros((batch, layout.height, layout.width, 3), np.uint8)
        self._input = onnxruntime.OrtValue.ortvalue_from_numpy(frames, device.kind, device.index)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(model.frames_input, self._input)
        for output in session.get_outputs():
            self._binding.bind_output(output.name, device.kind, device.index)

    def __call__(self) -> int:
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return self._batch


async def through_batcher(model: LoadedModel, frames: np.ndarray, seconds: float) -> float:
    """Two batches' worth of callers, each with one frame under way."""
    with ThreadPoolExecutor(2) as executor:
        batcher = Batcher(model, executor, Lock())
        where = place(model.layout, model.layout.width, model.layout.height)
        end, count = perf_counter() + seconds, 0

        async def caller(frame: np.ndarray) -> None:
            nonlocal count
            turn = Turn(caller=object())
            while perf_counter() < end:
                await batcher.submit(frame, where, model.defaults, turn=turn)
                count += 1

        start = perf_counter()
        await asyncio.gather(*(caller(frame) for frame in [*frames, *frames]))
        return count / (perf_counter() - start)


def rows_for(path: Path, device: Device, batch: int, seconds: float) -> list[Row]:
    model = load(ModelVersion("yolo", 1, path), device, max_batch=batch)
    frames = np.random.default_rng(0).integers(0, 256, (batch, model.layout.height, model.layout.width, 3), np.uint8)
    inputs = [{model.frames_input: frame[None]} for frame in frames]
    bare = Bare(model, device, batch)

    def ours() -> int:
        model.run_rows(inputs, model.read_outputs)
        return batch

    direct, batched = [], []
    for _ in range(ROUNDS + 1):
        reference = frames_per_second(bare, seconds)
        direct.append((frames_per_second(ours, seconds), reference))
        batched.append((asyncio.run(through_batcher(model, frames, seconds)), reference))
    model.close()
    against = "bare session, bound device memory"
    return [
        in_pairs(f"LoadedModel from host memory, batch {batch}", against, "frames/s", direct[1:]),
        in_pairs(f"batcher with boxes read, batch {batch}", against, "frames/s", batched[1:]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    arguments = parser.parse_args()
    try:
        device = choose_device(arguments.device)
    except DeviceUnavailable as error:
        print(f"left out: {error}")
        return
    dry = device.kind == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        path = yolo_sized.write(Path(folder) / "yolo.onnx", fp16=not dry, size=64 if dry else 640)
        rows = [row for batch in BATCHES for row in rows_for(path, device, batch, arguments.seconds)]
    report(f"cuda-dry-on-{device.kind}" if dry else "cuda", rows, {"device": str(device), "fp16": not dry})


if __name__ == "__main__":
    main()
