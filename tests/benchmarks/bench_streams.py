"""Many streams at once: how evenly they are served, what each costs in memory, and a frame in processor time."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import grpc
import psutil
from demo import models, scene

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from harness import Pair, eventually
from report import Row, in_pairs, report

COUNTS = (1, 8, 32)
ROUNDS = 3
SECONDS = 8.0
MIB = 1024 * 1024


@dataclass(frozen=True)
class Load:
    """What was seen in one window of time: frames of each stream, processor seconds, and memory in MiB."""

    frames: list[int]
    cpu_seconds: float
    server_mib: float
    decoders_mib: float

    @property
    def milliseconds_per_frame(self) -> float:
        return 1000 * self.cpu_seconds / sum(self.frames)


class Endless:
    """A stream whose video never ends, read as fast as it is answered."""

    def __init__(self, pair: Pair, video: bytes) -> None:
        self.frames = 0
        self._stream = pair.analyze(self._chunks(video))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _chunks(self, video: bytes) -> Iterator[bytes]:
        while True:
            for start in range(0, len(video), 65536):
                yield video[start : start + 65536]

    def _read(self) -> None:
        with suppress(grpc.RpcError):
            for _ in self._stream:
                self.frames += 1

    def close(self) -> None:
        self._stream.call.cancel()
        self._thread.join()


def family(server: psutil.Process) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The server and the process that decoders are forked from; the decoders."""
    nursery = next(child for child in server.children() if "inference_server.video.nursery" in child.cmdline())
    return [server, nursery], nursery.children()


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def run(pair: Pair, video: bytes, count: int) -> Load:
    """Serve `count` streams for a while, once all of them are under way."""
    streams = [Endless(pair, video) for _ in range(count)]
    try:
        eventually(lambda: min(stream.frames for stream in streams) >= 10, "every stream is served")
        standing, decoders = family(psutil.Process(pair.inference_process.popen.pid))
        before, cpu = [stream.frames for stream in streams], cpu_seconds([*standing, *decoders])
        time.sleep(SECONDS)
        frames = [stream.frames - start for stream, start in zip(streams, before, strict=True)]
        return Load(
            frames,
            cpu_seconds([*standing, *decoders]) - cpu,
            standing[0].memory_full_info().uss / MIB,
            sum(process.memory_full_info().uss for process in decoders) / MIB,
        )
    finally:
        for stream in streams:
            stream.close()
        eventually(lambda: not family(psutil.Process(pair.inference_process.popen.pid))[1], "the decoders are gone")


def rows(loads: dict[int, list[Load]]) -> list[Row]:
    fewest, _, most = COUNTS
    pairs = list(zip(loads[most], loads[fewest], strict=True))
    per_frame = [(many.milliseconds_per_frame, one.milliseconds_per_frame) for many, one in pairs]
    rate = [(sum(many.frames) / SECONDS, sum(one.frames) / SECONDS) for many, one in pairs]
    fair = [(min(many.frames) / SECONDS, max(many.frames) / SECONDS) for many in loads[most]]
    return [
        in_pairs(f"slowest of {most} streams", "fastest", "frames/s", fair),
        in_pairs(f"processor time of a frame, {most} streams", "one stream", "ms", per_frame),
        in_pairs(f"all frames, {most} streams", "one stream", "frames/s", rate),
    ]


def memory(loads: dict[int, list[Load]]) -> dict[str, dict[int, float]]:
    """MiB that belong to one process alone: of the server in all, of a decoder on average."""
    server = {count: round(median(load.server_mib for load in loads[count]), 1) for count in COUNTS}
    decoder = {count: round(median(load.decoders_mib for load in loads[count]) / count, 1) for count in COUNTS}
    return {"server, MiB": server, "each decoder, MiB": decoder}


def main() -> None:
    loads: dict[int, list[Load]] = {count: [] for count in COUNTS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "models").mkdir()
        models.build_v1(root / "v1.onnx")
        scene.encode(root / "scene.ts", frames=300, size=(640, 360))
        video = (root / "scene.ts").read_bytes()
        pair = Pair(root)
        try:
            pair.start_registry()
            pair.register(root / "v1.onnx", 1)
            pair.activate(1)
            pair.start_inference()
            pair.wait_until_running(1)
            run(pair, video, COUNTS[-1])  # to warm up: what grows once has grown
            for _ in range(ROUNDS):
                for count in COUNTS:
                    loads[count].append(run(pair, video, count))
        finally:
            pair.close()
    report("streams", rows(loads), memory(loads))


if __name__ == "__main__":
    main()
