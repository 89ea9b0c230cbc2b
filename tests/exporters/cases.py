"""Which files are made, by name: what each is built from, and how it is exported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# What both sides are asked for: hundreds of objects, so many that suppression and order matter.
CONFIDENCE, IOU, LIMIT = 0.25, 0.6, 1000


@dataclass(frozen=True, slots=True)
class Case:
    """An export of `config`, a YAML of the exporter's own, with these arguments.

    `pictures` is height and width of what the file is asked about, such that no picture has to be scaled: two scalers
    never agree on every pixel. `coarse` files compute at half precision: their numbers come in steps of 0.5 pixels and
    0.0005, the last bit of a sum decides which, and many objects score the same.
    """

    config: str
    arguments: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[int, int] = (479, 640)
    coarse: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        size = self.arguments.get("imgsz", 224 if self.config.endswith("-cls.yaml") else 640)
        return (size, size) if isinstance(size, int) else tuple(size)


DETECTORS = ("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n")
HEADS = ("seg", "pose", "obb", "cls")

CASES: dict[str, Case] = {
    **{name: Case(f"{name}.yaml") for name in DETECTORS},
    **{
        f"{name}-{head}": Case(f"{name}-{head}.yaml", pictures=(224, 224) if head == "cls" else (479, 640))
        for name in ("yolov8n", "yolo11n", "yolo12n", "yolo26n")
        for head in HEADS
    },
    "yolov9c-seg": Case("yolov9c-seg.yaml", {"imgsz": 320}, (320, 233)),
    # Suppression in the graph, and heads that need none.
    **{
        f"yolov8n{head}-nms": Case(f"yolov8n{head}.yaml", {"nms": True, "conf": 0.1})
        for head in ("", "-seg", "-pose", "-obb")
    },
    **{
        f"{name}-end2end": Case(f"{name}.yaml", {"nms": False})
        for name in ("yolov10n", "yolo26n", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb")
    },
    # Shapes, types and operator sets.
    "yolov8n-320": Case("yolov8n.yaml", {"imgsz": 320}, (320, 233)),
    "yolov8n-384x640": Case("yolov8n.yaml", {"imgsz": [384, 640]}, (360, 640)),
    "yolov8n-dynamic": Case("yolov8n.yaml", {"dynamic": True}),
    "yolov8n-seg-dynamic": Case("yolov8n-seg.yaml", {"dynamic": True}),
    "yolov8n-batch2": Case("yolov8n.yaml", {"batch": 2}),
    "yolov8n-half": Case("yolov8n.yaml", {"half": True}, coarse=True),
    "yolov8n-opset12": Case("yolov8n.yaml", {"opset": 12}),
    "yolov8n-opset17": Case("yolov8n.yaml", {"opset": 17}),
    "yolov8n-nosimplify": Case("yolov8n.yaml", {"simplify": False}),
    "rtdetr-resnet50": Case("rtdetr-resnet50.yaml", {}, (640, 640)),
    "rtdetr-l": Case("rtdetr-l.yaml", {}, (640, 640)),
}
