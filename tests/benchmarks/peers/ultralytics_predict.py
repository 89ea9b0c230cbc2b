"""Frames per second of Ultralytics' own predict: python ultralytics_predict.py MODEL.onnx VIDEO FRAMES SIDE.

The file is predicted twice and the second run counts. One line of JSON on standard output.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter

from ultralytics import YOLO


def main() -> None:
    path, video, frames, side = sys.argv[1:]
    model = YOLO(path, task="detect")
    for _ in range(2):
        start = perf_counter()
        found = sum(1 for _ in model.predict(video, stream=True, imgsz=int(side), device="cpu", verbose=False))
        taken = perf_counter() - start
    assert found == int(frames), found
    print(json.dumps({"frames_per_second": found / taken}))


if __name__ == "__main__":
    main()
