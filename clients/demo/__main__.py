"""The whole product in one minute: two servers, a model swap in the middle of a video, and the proof on disk.

python -m demo [FOLDER]     FOLDER (build/demo by default) is emptied first and receives everything that is made.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from demo import models, scene
from rich.console import Console
from rich.table import Table
from videoai import InferenceClient, RegistryClient, VideoAIError, annotating, drawing
from videoai.inference.v1 import inference_pb2

NAME = "shapes"
SIZE = (1280, 720)
FRAMES = 300
FPS = 30
PACE = 2.0  # the upload runs this many times faster than the video plays
ACTIVATE_AT = FRAMES // 3

console = Console()


@dataclass
class Result:
    """What the run showed; times in seconds of time.perf_counter()."""

    frames: list[inference_pb2.FrameResult] = field(default_factory=list)
    pictures_answered: int = 0
    failures: list[str] = field(default_factory=list)
    activated_at: float = 0.0
    first_new_at: float = 0.0


def main() -> None:
    """Run the demo; exit with status 1 if anything failed."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "models").mkdir(parents=True)
    video = folder / "scene.mp4"
    with console.status("building two detectors and encoding a video whose boxes are known"):
        files = _build_models(folder)
        scene.encode(video, frames=FRAMES, fps=FPS, size=SIZE)
    with _servers(folder) as (registry_address, inference_address), ExitStack() as stack:
        registry = stack.enter_context(RegistryClient(registry_address))
        inference = stack.enter_context(InferenceClient(inference_address))
        with console.status("registering both versions, activating version 1"):
            for path in files:
                registry.register(NAME, path)
            registry.activate(NAME, 1)
            _wait_until_running(inference, 1)
        with console.status("analysing the video; version 2 is activated in the middle of it"):
            result = _analyze(registry, inference, video)
    console.print(_table(result))
    with console.status("drawing"):
        written = _draw(video, result, folder)
    for what, where in written.items():
        console.print(f"{what}: {where}", soft_wrap=True, highlight=False)
    if result.failures or len(result.frames) != FRAMES:
        raise SystemExit(f"the demo failed: {'; '.join(result.failures) or 'frames are missing'}")


def _build_models(folder: Path) -> list[str]:
    """Write both versions where they belong; return their paths relative to `folder`."""
    paths = [Path("models") / NAME / f"v{version}" / "model.onnx" for version in (1, 2)]
    for path, build in zip(paths, (models.build_v1, models.build_v2), strict=True):
        (folder / path).parent.mkdir(parents=True)
        build(folder / path)
    return [path.as_posix() for path in paths]


@contextmanager
def _servers(folder: Path) -> Iterator[tuple[str, str]]:
    """Both servers as processes of their own, on free ports; their logs go to files in `folder`."""
    with ExitStack() as stack:
        root = ("--root", str(folder), "--listen", "127.0.0.1:0")
        registry = stack.enter_context(_server("registry_server", folder, *root))
        yield registry, stack.enter_context(_server("inference_server", folder, *root, "--registry", registry))


@contextmanager
def _server(module: str, folder: Path, *arguments: str) -> Iterator[str]:
    log = folder / f"{module}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own servers
            [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("listening on "):
            raise SystemExit(f"{module} did not start:\n{log.read_text()}")
        yield line.removeprefix("listening on ").strip()
    finally:
        process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _wait_until_running(inference: InferenceClient, version: int) -> None:
    while all(model.running_version != version for model in inference.serving_state().models):
        time.sleep(0.02)


def _analyze(registry: RegistryClient, inference: InferenceClient, video: Path) -> Result:
    """Analyse the video and, beside it, single pictures all the time; activate version 2 in the middle."""
    result = Result()
    over = threading.Event()
    with ThreadPoolExecutor(2) as beside:
        pictures = beside.submit(_ask_for_pictures, inference, result, over)
        activation = None
        try:
            for frame in inference.analyze_video(_paced(video), NAME):
                result.frames.append(frame)
                if len(result.frames) == ACTIVATE_AT:
                    activation = beside.submit(_activate, registry, result)
                if frame.model_version == 2 and not result.first_new_at:
                    result.first_new_at = time.perf_counter()
        except VideoAIError as error:
            result.failures.append(str(error))
        finally:
            over.set()
        for task in filter(None, (pictures, activation)):
            task.result()
    return result


def _activate(registry: RegistryClient, result: Result) -> None:
    registry.activate(NAME, 2)
    result.activated_at = time.perf_counter()


def _ask_for_pictures(inference: InferenceClient, result: Result, over: threading.Event) -> None:
    picture = scene.render(0, SIZE)
    while not over.is_set():
        try:
            inference.analyze_frames([picture], NAME)
            result.pictures_answered += 1
        except VideoAIError as error:
            result.failures.append(str(error))


def _paced(video: Path) -> Iterator[bytes]:
    """The file in small chunks, as fast as PACE says: a swap in the middle should meet a running stream."""
    content = video.read_bytes()
    size = 8 * 1024
    pause = FRAMES / FPS / PACE / (len(content) / size)
    begin = time.perf_counter()
    for index, start in enumerate(range(0, len(content), size)):
        time.sleep(max(0.0, begin + index * pause - time.perf_counter()))
        yield content[start : start + size]


def _table(result: Result) -> Table:
    versions = [frame.model_version for frame in result.frames]
    rows = {
        "frames answered": f"{len(result.frames)} of {FRAMES}",
        "  by version 1 (knows red circles)": str(versions.count(1)),
        "  by version 2 (knows three shapes)": str(versions.count(2)),
        "pictures answered beside the video": str(result.pictures_answered),
        "failed requests": str(len(result.failures)),
        "mean IoU with the known boxes": f"{_mean_iou(result.frames):.3f}",
        "activation to first frame by version 2": f"{1000 * (result.first_new_at - result.activated_at):.0f} ms",
    }
    table = Table("", "", show_header=False, title="A model swap in the middle of a video")
    for label, value in rows.items():
        table.add_row(label, value)
    return table


def _mean_iou(frames: Sequence[inference_pb2.FrameResult]) -> float:
    """Mean over all objects that the answering version knows; an object that was not found counts as 0."""
    overlaps = []
    for frame in frames:
        known = models.CLASS_NAMES[frame.model_version]
        found = [(detection.class_name, detection.box) for detection in frame.detections]
        for name, box in scene.ground_truth(frame.frame_index, SIZE):
            if name in known:
                overlaps.append(
                    max((_iou(box, other) for other_name, other in found if other_name == name), default=0.0)
                )
    return float(np.mean(overlaps))


def _iou(box: Sequence[float], other: inference_pb2.BoundingBox) -> float:
    """Intersection over union of (x_min, y_min, x_max, y_max) and a box of an answer."""
    width = min(box[2], other.x_max) - max(box[0], other.x_min)
    height = min(box[3], other.y_max) - max(box[1], other.y_min)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (
        (box[2] - box[0]) * (box[3] - box[1]) + (other.x_max - other.x_min) * (other.y_max - other.y_min) - shared
    )


def _draw(video: Path, result: Result, folder: Path) -> dict[str, Path]:
    annotated, sheet = folder / "annotated.mp4", folder / "contact-sheet.png"
    annotating.save_video(video, result.frames, annotated)
    shown = set(range(FRAMES // 18, FRAMES, FRAMES // 9))
    frames = annotating.annotated_frames(video, result.frames)
    tiles = [picture for index, (_, picture) in enumerate(frames) if index in shown]
    drawing.contact_sheet(tiles, columns=3, width=480).save(sheet)
    return {"annotated video": annotated, "contact sheet": sheet}


if __name__ == "__main__":
    main()
