"""What a swap costs: those who are answered meanwhile, and whoever waits for the new version.

One server, versions as large as YOLOv8n and tiny ones, over gRPC. A client asks for one picture after the other and
takes the time of each answer, with versions loading and swapping every second and without, in turn. Pictures go in as
tensors: AnalyzeFrames has them prepared in a process of its own for each call, which would hide what a swap adds.

python tests/benchmarks/bench_swaps.py [--seconds 8] [FILE.onnx ...]

Of each FILE only the loads are measured, beside those of the tiny version and of the one as large as YOLOv8n.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Self

import numpy as np
import onnx
import yolo_sized
from demo import models
from videoai.open_inference.v2 import open_inference_pb2 as pb

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from harness import NAME, PATIENCE, Pair
from report import ROUNDS, Row, in_pairs, report

from inference_server.engine import Apart, Device, ModelVersion, PreparedModels, Standby, load

SIZE = 640
# So small that asking again and again shows when a version answers to a millisecond or two, and hardly delays its load.
TINY_DETECTOR = models.Detector(64, 32, (models.RED_CIRCLE,), any_batch=False)
PAUSE = 0.001  # seconds between two questions
TINY = (1, 2)
LARGE = (11, 12)
FRESH = 101
STANDBY_SECONDS = 3.0  # in which the process that prepares has started on any machine


class Asker:
    """Asks for the same picture of `size` x `size` pixels, ready to be sent, each time it is called."""

    def __init__(self, pair: Pair, size: int) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
        frames = pb.ModelInferRequest.InferInputTensor(name="frames", datatype="UINT8", shape=picture.shape)
        request = pb.ModelInferRequest(model_name=NAME, inputs=[frames], raw_input_contents=[picture.tobytes()])
        self._request = request.SerializeToString()
        self._ask = pair.inference_channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
        )

    def __call__(self) -> int:
        """The version that answered."""
        return int(self._ask(self._request, timeout=PATIENCE).model_version)


class Swapper:
    """Activates the large versions in turn, every second, while entered; counts those that answered."""

    def __init__(self, pair: Pair, *, active: bool) -> None:
        self._pair = pair
        self._active = active
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._swap)

    def _swap(self) -> None:
        version = LARGE[0]
        while self._active and not self._over.wait(1):
            version = sum(LARGE) - version
            self._pair.activate(version)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def slow_answers(pair: Pair, seconds: float, *, swapping: bool) -> tuple[float, int, int]:
    """The 99th percentile of the time of an answer in ms, how many there were, and how many swaps."""
    ask = Asker(pair, SIZE)
    times = []
    before = pair.serving().swaps
    with Swapper(pair, active=swapping):
        end = perf_counter() + seconds
        while (start := perf_counter()) < end:
            ask()  # a failure ends the benchmark
            times.append(perf_counter() - start)
    return 1000 * float(np.percentile(times, 99)), len(times), pair.serving().swaps - before


def p99_row(pair: Pair, seconds: float) -> tuple[Row, dict[str, object]]:
    pair.activate(LARGE[1])
    pair.wait_until_running(LARGE[1])
    pair.activate(LARGE[0])
    pair.wait_until_running(LARGE[0])
    pairs, answers, swaps = [], 0, 0
    for _ in range(ROUNDS + 1):
        quiet, _, _ = slow_answers(pair, seconds, swapping=False)
        busy, count, swapped = slow_answers(pair, seconds, swapping=True)
        pairs.append((busy, quiet))
        answers, swaps = answers + count, swaps + swapped
    row = in_pairs(
        "p99 of an answer while a version loads and swaps every second", "p99 without swaps", "ms", pairs[1:]
    )
    return row, {"answers beside swaps": answers, "swaps": swaps}


def first_answer_milliseconds(pair: Pair, version: int) -> float:
    """From the reply to an activation until the server answers with the version."""
    ask = Asker(pair, TINY_DETECTOR.size)
    ask()
    pair.activate(version)
    start = perf_counter()
    while ask() != version:
        sleep(PAUSE)
    return 1000 * (perf_counter() - start)


def load_milliseconds(path: Path, prepared: PreparedModels | None, apart: Apart | None = None) -> float:
    """Load and warm-up, with nothing beside."""
    start = perf_counter()
    load(ModelVersion(NAME, 1, path), Device("cpu"), prepared=prepared, apart=apart).close()
    return 1000 * (perf_counter() - start)


def answer_milliseconds(pair: Pair) -> float:
    """One answer of a tiny version with nothing beside: what the time until the first one cannot be told apart from."""
    ask, times = Asker(pair, TINY_DETECTOR.size), []
    for _ in range(50):
        start = perf_counter()
        ask()
        times.append(perf_counter() - start)
    return 1000 * median(times)


def activation_row(pair: Pair, files: dict[int, Path], prepared: PreparedModels) -> Row:
    """Of versions that the server has seen before."""
    pair.activate(TINY[0])
    pair.wait_until_running(TINY[0])
    pairs = []
    for round_ in range(2 * ROUNDS + 2):
        version = TINY[(round_ + 1) % 2]
        alone = load_milliseconds(files[version], prepared)
        pairs.append((first_answer_milliseconds(pair, version), alone))
        sleep(0.2)
    return _activation_row("a tiny version", pairs[2:])


def first_activation_row(pair: Pair, tiny: Path, folder: Path) -> Row:
    """Of versions that nobody has seen before."""
    pairs = []
    for version in range(FRESH, FRESH + 2 * ROUNDS + 2):
        path = folder / f"{version}.onnx"
        write_alike(tiny, path, str(version))
        pair.register(path, version)
        sleep(STANDBY_SECONDS)
        alone = load_milliseconds(path, PreparedModels(folder / f"fresh-{version}", 1 << 30))
        pairs.append((first_answer_milliseconds(pair, version), alone))
    return _activation_row("a tiny version that is new", pairs[2:])


def _activation_row(by: str, pairs: list[tuple[float, float]]) -> Row:
    over = median(measured - alone for measured, alone in pairs)
    what = f"activation's reply to first answer by {by} ({over:+.0f} ms)"
    return in_pairs(what, "load and warm-up alone", "ms", pairs)


class Standstill:
    """How long at most no other thread of this process could run Python, while entered."""

    def __init__(self) -> None:
        self.milliseconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        last = perf_counter()
        while not self._over.is_set():
            sleep(0.0005)
            now = perf_counter()
            self.milliseconds = max(self.milliseconds, 1000 * (now - last))
            last = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def load_rows(what: str, path: Path, folder: Path) -> list[Row]:
    """A load of bytes that were loaded before against the first one, and the standstill that each of them brings."""
    loads, stills, standby = [], [], Standby()
    for round_ in range(ROUNDS + 1):
        prepared = PreparedModels(folder / f"{path.stem}-{round_}", 1 << 30)
        taken = []
        standby.renew()
        sleep(STANDBY_SECONDS)
        for _ in range(2):
            with Standstill() as still:
                taken.append(load_milliseconds(path, prepared, Apart(standby)))
            stills.append((still.milliseconds, taken[-1]))
        loads.append((taken[1], taken[0]))
    standby.close()
    return [
        in_pairs(f"later load, {what}", "first load", "ms", loads[1:]),
        in_pairs(f"longest standstill of Python beside a first load, {what}", "that load", "ms", stills[2::2]),
        in_pairs(f"longest standstill of Python beside a later load, {what}", "that load", "ms", stills[3::2]),
    ]


def write_alike(path: Path, other: Path, said: str) -> None:
    """Write the same model with another digest, so that both answer the same requests."""
    model = onnx.load(path)
    model.doc_string = said
    onnx.save(model, other)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement of p99")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.onnx")
    arguments = parser.parse_args()
    seconds = arguments.seconds
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "models").mkdir()
        files = {version: root / f"v{version}.onnx" for version in (*TINY, *LARGE)}
        models.write(TINY_DETECTOR, files[1])
        write_alike(files[1], files[2], "another")
        for version in LARGE:
            yolo_sized.write(files[version], seed=version)
        loaded = {"tiny": files[2], "YOLOv8n-sized": files[11], **{path.name: path for path in arguments.files}}
        rows = [row for what, path in loaded.items() for row in load_rows(what, path, root)]
        pair = Pair(root)
        try:
            pair.start_registry()
            for version, path in files.items():
                pair.register(path, version)
            pair.activate(1)
            pair.start_inference()
            pair.wait_until_running(1)
            rows.append(activation_row(pair, files, PreparedModels(root / "alone", 1 << 30)))
            rows.append(first_activation_row(pair, files[1], root))
            answer = answer_milliseconds(pair)
            row, notes = p99_row(pair, seconds)
        finally:
            pair.close()
    report("swaps", [*rows, row], {**notes, "one answer by a tiny version, ms": round(answer, 1)})


if __name__ == "__main__":
    main()
