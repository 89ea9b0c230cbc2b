"""A YOLOv8n-sized fp16 graph on CUDA: our path against the bare session with bound device memory.

python tests/benchmarks/bench_cuda.py [--seconds 3] [--rounds 5] [--batches 1 8 32] [--device cpu]

For batches of 1, 8 and 32: frames a second of the bare session that finds its input on the device and leaves its output
there; of `LoadedModel` given frames in the host's memory, pinned as that of streams is and as it comes; and of the
batcher with so many callers, whose frames are pinned. With --device cpu it is a dry run of the same code, fp32 and
small, that shows nothing but that it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from time import perf_counter

import numpy as np
import onnxruntime
import yolo_sized
from report import ROUNDS, Row, in_pairs, report, shown

from inference_server.batcher import Batcher
from inference_server.detection import place
from inference_server.engine import Device, LoadedModel, ModelVersion, choose_device, load, pinning
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
        batcher = Batcher(model, executor, Semaphore(1))
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


def rows_for(path: Path, device: Device, batch: int, options: argparse.Namespace) -> Iterator[Row]:
    model = load(ModelVersion("yolo", 1, path), device, max_batch=batch)
    frames = np.random.default_rng(0).integers(0, 256, (batch, model.layout.height, model.layout.width, 3), np.uint8)
    pinned = frames.copy()
    pin = pinning(device)
    unpin = pin(pinned.reshape(-1)) if pin is not None else lambda: None
    bare = Bare(model, device, batch)

    def direct(frames: np.ndarray) -> float:
        inputs = [{model.frames_input: frame[None]} for frame in frames]
        return frames_per_second(lambda: len(model.run_rows(inputs, model.read_outputs)) and batch, options.seconds)

    measured: dict[str, Callable[[], float]] = {
        "LoadedModel, pinned frames": lambda: direct(pinned),
        "LoadedModel, frames as they come": lambda: direct(frames),
        "batcher with boxes read, pinned frames": lambda: asyncio.run(through_batcher(model, pinned, options.seconds)),
    }
    pairs: dict[str, list[tuple[float, float]]] = {what: [] for what in measured}
    for _ in range(options.rounds + 1):
        reference = frames_per_second(bare, options.seconds)
        for what, measure in measured.items():
            pairs[what].append((measure(), reference))
    unpin()
    model.close()
    for what, seen in pairs.items():
        yield in_pairs(f"{what}, batch {batch}", "bare session, bound device memory", "frames/s", seen[1:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="after one to warm up")
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES)
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
    except DeviceUnavailable as error:
        print(f"left out: {error}")
        return
    dry = device.kind == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        path = yolo_sized.write(Path(folder) / "yolo.onnx", fp16=not dry, size=64 if dry else 640)
        rows = shown(row for batch in options.batches for row in rows_for(path, device, batch, options))
    report(f"cuda-dry-on-{device.kind}" if dry else "cuda", rows, {"device": str(device), "fp16": not dry})


if __name__ == "__main__":
    main()
