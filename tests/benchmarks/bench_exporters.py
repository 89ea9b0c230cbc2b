"""AnalyzeVideo on a YOLOv8n export beside Ultralytics' predict and Roboflow's pipeline over the same file.

Left out unless ULTRALYTICS_PYTHON names a Python that has ultralytics and onnxruntime (`make test-exporters` leaves one
in build/exporters/venv), which also exports the model, with random weights. ROBOFLOW_PYTHON names one that has the
package inference; it is left out without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

from demo import scene

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

from harness import Pair
from report import Row, compare, report, shown

PEERS = Path(__file__).parent / "peers"
FRAMES = 120
SIZES = (320, 640)
FLAGS: tuple[tuple[str, ...], ...] = ((), ("--run-threads", "1"))  # of the server: as it comes, and for throughput
ENVIRONMENT = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
RIVALS = {
    "Ultralytics' predict(stream=True)": ("ULTRALYTICS_PYTHON", "ultralytics_predict.py"),
    "Roboflow's InferencePipeline": ("ROBOFLOW_PYTHON", "roboflow_pipeline.py"),
}


def run(python: str, program: str, *arguments: str, folder: Path) -> str:
    command = [os.path.abspath(python), str(PEERS / program), *arguments]  # noqa: PTH100 - a venv's python is a link
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rival(variable: str, program: str, model: Path, video: Path, side: int) -> float:
    said = run(os.environ[variable], program, str(model), str(video), str(FRAMES), str(side), folder=model.parent)
    return float(json.loads(said.splitlines()[-1])["frames_per_second"])


def served(pair: Pair, video: Path) -> float:
    """As the rivals: the second run counts."""
    for _ in range(2):
        start = perf_counter()
        count = sum(1 for _ in pair.analyze(video))
        taken = perf_counter() - start
    assert count == FRAMES, count
    return count / taken


def compared(folder: Path, video: Path, side: int, flags: Sequence[str]) -> Iterator[Row]:
    model = folder / f"{side}.onnx"
    run(os.environ["ULTRALYTICS_PYTHON"], "ultralytics_export.py", str(model), str(side), folder=folder)
    root = folder / f"root-{side}-{len(flags)}"
    (root / "models").mkdir(parents=True)
    pair = Pair(root)
    try:
        pair.start_registry()
        pair.register(model, 1)
        pair.activate(1)
        pair.start_inference(*flags)
        pair.wait_until_running(1)
        for name, (variable, program) in RIVALS.items():
            if variable in os.environ:
                what = " ".join((f"AnalyzeVideo, YOLOv8n {side}x{side}, 720p", *flags))
                theirs = partial(rival, variable, program, model, video, side)
                yield compare(what, partial(served, pair, video), name, theirs, "frames/s")
    finally:
        pair.close()


def main() -> None:
    if "ULTRALYTICS_PYTHON" not in os.environ:
        print("left out: ULTRALYTICS_PYTHON names no Python that has ultralytics")
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        video = folder / "720p.mp4"
        scene.encode(video, frames=FRAMES, size=(1280, 720))
        cases = [(side, flags) for side in SIZES for flags in FLAGS]
        report("exporters", shown(row for side, flags in cases for row in compared(folder, video, side, flags)))


if __name__ == "__main__":
    main()
