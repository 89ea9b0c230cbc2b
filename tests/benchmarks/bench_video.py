"""Frames per second of AnalyzeVideo against a loop in one process, and a swap against the load alone."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from time import perf_counter

import av
import numpy as np
import onnxruntime
from demo import models, scene

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from harness import NAME, Pair
from report import Row, compare, rate, report

from inference_server.detection import Options, place
from inference_server.engine import LoadedModel, ModelVersion, choose_device, load

FRAMES = 240


def in_process_loop(video: Path, session: LoadedModel) -> int:
    """Decode, scale, run and read in one process, frames decoded by as many threads as FFmpeg likes."""
    layout = session.layout
    scaler = av.video.reformatter.VideoReformatter()
    count = 0
    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            spot = place(layout, frame.width, frame.height)
            pixels = np.full((layout.height, layout.width, 3), layout.fill, np.uint8)
            scaled = scaler.reformat(frame, spot.width, spot.height, "rgb24").to_ndarray()
            pixels[spot.top : spot.top + spot.height, spot.left : spot.left + spot.width] = scaled
            (outputs,) = session.run([pixels])
            session.family.decode(outputs, spot, Options())
            count += 1
    return count


def served(pair: Pair, video: Path) -> int:
    return sum(1 for _ in pair.analyze(video))


def swap_milliseconds(pair: Pair, version: int) -> float:
    """From the reply to an activation until the server answers with the version."""
    picture = np.zeros((64, 64, 3), np.uint8)
    pair.activate(version)
    start = perf_counter()
    while pair.answer(picture).model_version != version:
        pass
    return 1000 * (perf_counter() - start)


def load_milliseconds(model: Path) -> float:
    start = perf_counter()
    load(ModelVersion(NAME, 1, model, "", {}), choose_device("cpu")).close()
    return 1000 * (perf_counter() - start)


def main() -> None:
    onnxruntime.set_default_logger_severity(3)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "models").mkdir()
        files = {1: root / "v1.onnx", 2: root / "v2.onnx"}
        models.build_v1(files[1])
        models.build_v2(files[2])
        pair = Pair(root)
        try:
            pair.start_registry()
            for version, path in files.items():
                pair.register(path, version)
            pair.activate(1)
            pair.start_inference()
            pair.wait_until_running(1)
            session = load(ModelVersion(NAME, 1, files[1], "", {}), choose_device("cpu"), max_batch=1)
            for name, size in (("720p", (1280, 720)), ("1080p", (1920, 1080))):
                video = root / f"{name}.mp4"
                scene.encode(video, frames=FRAMES, size=size)
                rows.append(
                    compare(
                        f"AnalyzeVideo, one stream, {name}",
                        lambda video=video: rate(lambda: served(pair, video)),
                        "decode, scale, session in one process",
                        lambda video=video: rate(lambda: in_process_loop(video, session)),
                        "frames/s",
                    )
                )
            rows.append(
                compare(
                    "activation's reply to first answer by the new version",
                    lambda: max(swap_milliseconds(pair, 2), swap_milliseconds(pair, 1)),
                    "load and warm-up alone",
                    lambda: max(load_milliseconds(files[2]), load_milliseconds(files[1])),
                    "ms",
                )
            )
        finally:
            pair.close()
    report("video", rows)


if __name__ == "__main__":
    main()
