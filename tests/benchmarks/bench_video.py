"""AnalyzeVideo against the best loop in one process: frames per second, and processor time per frame.

python tests/benchmarks/bench_video.py [one|sampled|many|streams|large]...     all by default
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time

import onnxruntime
import psutil
import yolo_sized
from demo import models, scene
from videoai import InferenceClient

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from harness import NAME, Pair
from report import ROUNDS, Row, in_pairs, report
from video_loop import Workers, analyze, in_threads, packed, planes

from inference_server.engine import ModelVersion, choose_device, load

FRAMES = 240
STRIDE = 24
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
TINY, LARGE = 1, 2
Figures = tuple[float, float]  # frames per second, milliseconds of processor time per frame


class Served:
    """A server with a tiny and a large model, and a client in this process."""

    def __init__(self, root: Path) -> None:
        (root / "models").mkdir()
        self.files = {TINY: root / "tiny.onnx", LARGE: root / "large.onnx"}
        models.build_v1(self.files[TINY])
        yolo_sized.write(self.files[LARGE])
        self._pair = Pair(root)
        self._pair.start_registry()
        for version, path in self.files.items():
            self._pair.register(path, version)
        self._pair.activate(TINY)
        self._pair.start_inference()
        self.use(TINY)
        self._server = psutil.Process(self._pair.inference_process.popen.pid)
        self._client = InferenceClient(self._pair.inference_process.address)

    def use(self, version: int) -> None:
        self._pair.activate(version)
        self._pair.wait_until_running(version)

    def analyze(self, video: Path, frames: int, stride: int = 1) -> int:
        with self._client.analyze_video(video, NAME, max_frames=frames // stride, stride=stride) as results:
            return sum(1 for _ in results)

    def processor_seconds(self) -> float:
        """Of the server, its decoders, those that have ended included, and this process, which is the client."""
        processes = [self._server, *self._server.children(recursive=True)]
        # Only the nursery has children, and what it says of them is complete once they have ended.
        times = [process.cpu_times() for process in processes]
        return process_time() + sum(t.user + t.system + t.children_user + t.children_system for t in times)

    def close(self) -> None:
        self._client.close()
        self._pair.close()


@contextmanager
def serving() -> Iterator[tuple[Path, Served]]:
    with tempfile.TemporaryDirectory() as folder:
        served = Served(Path(folder))
        try:
            yield Path(folder), served
        finally:
            served.close()


def measure(work: Callable[[], int], processor: Callable[[], float]) -> Figures:
    before, start = processor(), perf_counter()
    count = work()
    seconds = perf_counter() - start
    time.sleep(0.1)  # until decoders that have ended are accounted for
    return count / seconds, 1000 * (processor() - before) / count


def in_turn(measured: Callable[[], Figures], *references: Callable[[], Figures]) -> list[list[Figures]]:
    """All of them in turn, ROUNDS times after one round to warm up; for each its figures, round by round."""
    rounds = [[one() for one in (measured, *references)] for _ in range(ROUNDS + 1)][1:]
    return [list(figures) for figures in zip(*rounds, strict=True)]


def rows(what: str, ours: list[Figures], against: str, theirs: list[Figures]) -> list[Row]:
    pairs = list(zip(ours, theirs, strict=True))
    return [
        in_pairs(what, against, "frames/s", [(mine[0], other[0]) for mine, other in pairs]),
        in_pairs(what, against, "CPU ms/frame", [(mine[1], other[1]) for mine, other in pairs]),
    ]


def one_stream(served: Served, version: int, videos: dict[str, Path], frames: int, model_name: str) -> list[Row]:
    served.use(version)
    model = load(ModelVersion(NAME, version, served.files[version], "", {}), choose_device("cpu"), max_batch=1)
    found = []
    for name, video in videos.items():
        ours, plain, same = in_turn(
            lambda video=video: measure(lambda: served.analyze(video, frames), served.processor_seconds),
            lambda video=video: measure(lambda: analyze(video, model, packed(), frames), process_time),
            lambda video=video: measure(lambda: analyze(video, model, planes(), frames), process_time),
        )
        what = f"one stream, {name}, {model_name}"
        found += rows(what, ours, "loop, scaled to rgb24", plain)
        found += rows(what, ours, "loop, scaled as the server does", same)
    model.close()
    return found


def sampled(served: Served, videos: dict[str, Path]) -> list[Row]:
    """Decoding is nearly all that there is to do."""
    served.use(TINY)
    model = load(ModelVersion(NAME, TINY, served.files[TINY], "", {}), choose_device("cpu"), max_batch=1)
    found = []
    for name, video in videos.items():
        ours, theirs = in_turn(
            lambda video=video: measure(lambda: served.analyze(video, FRAMES, STRIDE), served.processor_seconds),
            lambda video=video: measure(lambda: analyze(video, model, planes(), FRAMES, stride=STRIDE), process_time),
        )
        found += rows(f"one stream, {name}, every {STRIDE}th frame", ours, "loop, scaled as the server does", theirs)
    model.close()
    return found


def eight_streams(served: Served, videos: dict[str, Path]) -> list[Row]:
    served.use(TINY)
    found = []
    with Workers(served.files[TINY]) as workers:
        for name, video in videos.items():
            ours, theirs = in_turn(
                lambda video=video: measure(
                    lambda: in_threads(lambda: served.analyze(video, FRAMES), 8), served.processor_seconds
                ),
                lambda video=video: (measure(lambda: workers.analyze(video, 8, FRAMES), process_time)[0], 1.0),
            )
            found += rows(f"8 streams, {name}, tiny model", ours, f"loops in {workers.count} processes", theirs)[:1]
    return found


def more_streams(served: Served, video: Path) -> list[Row]:
    """Processor time per frame as streams grow; each is short, so that 32 take no longer than they must."""
    served.use(TINY)
    found = []
    for streams in (8, 32):
        many, one = in_turn(
            lambda streams=streams: measure(
                lambda: in_threads(lambda: served.analyze(video, 60), streams), served.processor_seconds
            ),
            lambda: measure(lambda: sum(served.analyze(video, 60) for _ in range(4)), served.processor_seconds),
        )
        found += rows(f"{streams} streams, 720p, tiny model", many, "one stream after the other", one)
    return found


def main() -> None:
    wanted = sys.argv[1:] or ["one", "sampled", "many", "streams", "large"]
    onnxruntime.set_default_logger_severity(3)
    found: list[Row] = []
    with serving() as (root, served):
        videos = {name: root / f"{name}.mp4" for name in SIZES}
        for name, video in videos.items():
            scene.encode(video, frames=FRAMES, size=SIZES[name])
        if "one" in wanted:
            found += one_stream(served, TINY, videos, FRAMES, "tiny model")
        if "sampled" in wanted:
            found += sampled(served, videos)
        if "many" in wanted:
            found += eight_streams(served, videos)
        if "streams" in wanted:
            found += more_streams(served, videos["720p"])
        if "large" in wanted:
            found += one_stream(served, LARGE, {"720p": videos["720p"]}, 24, "YOLOv8n-sized model")
    report("video", found)


if __name__ == "__main__":
    main()
