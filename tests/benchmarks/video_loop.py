"""Video analysis in one process, as good as PyAV and ONNX Runtime make it: what AnalyzeVideo is compared with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, Self

import av
import numpy as np
import onnxruntime
from av.video.reformatter import Interpolation, VideoReformatter

from inference_server.detection import Layout, Options, Placement, place
from inference_server.engine import LoadedModel, ModelVersion, choose_device, load
from inference_server.video.prepare import Pose, Preparer

AHEAD = 8  # frames decoded and not yet looked at
FLAGS = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

Prepare = Callable[[av.VideoFrame, Layout, Placement, Any], object]


def packed() -> Prepare:
    """What PyAV's documentation leads to: one pass of libswscale to rgb24, one copy into the input."""
    scaler = VideoReformatter()

    def prepare(frame: av.VideoFrame, layout: Layout, spot: Placement, into: Any) -> None:
        scaled = scaler.reformat(frame, spot.width, spot.height, "rgb24", interpolation=FLAGS, threads=1)
        plane = scaled.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: spot.height]
        picture = rows[:, : spot.width * 3].reshape(spot.height, spot.width, 3)
        into[spot.top : spot.top + spot.height, spot.left : spot.left + spot.width] = picture

    return prepare


def planes() -> Prepare:
    """The server's own way, by planes of colour: the same pixels for less."""
    preparer = Preparer(max_pixels=2**31 - 1)
    return lambda frame, layout, _, into: preparer.prepare(frame, Pose(), layout, 0, into)


def ahead(frames: Iterator[Any]) -> Iterator[Any]:
    """The same frames, decoded by another thread before they are asked for."""
    queue: Queue[Any] = Queue(AHEAD)

    def fill() -> None:
        for frame in frames:
            queue.put(frame)
        queue.put(None)

    thread = Thread(target=fill)
    thread.start()
    while (frame := queue.get()) is not None:
        yield frame
    thread.join()


def analyze(video: Path, model: LoadedModel, prepare: Prepare, frames: int, threads: int = 0, stride: int = 1) -> int:
    """Decode (`threads` 0: as many as FFmpeg likes), scale, run and read every `stride`-th; the number of those."""
    layout, options = model.layout, Options()
    count = 0
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        for frame in ahead(islice(container.decode(stream), 0, frames, stride)):
            spot = place(layout, frame.width, frame.height)
            pixels = np.full((layout.height, layout.width, 3), layout.fill, np.uint8)
            prepare(frame, layout, spot, pixels)
            (outputs,) = model.run([pixels])
            model.family.decode(outputs, spot, options)
            count += 1
    return count


class Workers:
    """As many processes as cores, each with the model in memory and a core's worth of threads."""

    def __init__(self, model: Path) -> None:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        self.count = len(os.sched_getaffinity(0))
        self._pool = ProcessPoolExecutor(self.count, get_context("spawn"), _prepare_worker, (str(model),))

    def analyze(self, video: Path, streams: int, frames: int) -> int:
        """Each video in one process from beginning to end, the processes side by side."""
        return sum(self._pool.map(_analyze_in_worker, [str(video)] * streams, [frames] * streams))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


_worker: list[LoadedModel] = []


def _prepare_worker(model: str) -> None:
    onnxruntime.set_default_logger_severity(3)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # so that the session counts one core
    _worker.append(load(ModelVersion("shapes", 1, Path(model), "", {}), choose_device("cpu"), max_batch=1))
    os.sched_setaffinity(0, cores)


def _analyze_in_worker(video: str, frames: int) -> int:
    return analyze(Path(video), _worker[0], packed(), frames, threads=1)


def in_threads(work: Callable[[], int], count: int) -> int:
    """The sum of what `count` threads get done."""
    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(lambda _: work(), range(count)))
