"""A YOLOv8n with random weights as Ultralytics exports it: python ultralytics_export.py FILE.onnx SIDE."""

from __future__ import annotations

import shutil
import sys

from ultralytics import YOLO


def main() -> None:
    path, side = sys.argv[1:]
    shutil.move(YOLO("yolov8n.yaml").export(format="onnx", imgsz=int(side), simplify=False), path)


if __name__ == "__main__":
    main()
