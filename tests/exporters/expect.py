"""Ask the exporter's own package what each file sees in each picture, and write that down.

Runs in the exporters' own environment: python expect.py FOLDER [NAME ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from cases import CASES, CONFIDENCE, IOU, LIMIT, Case
from numpy.typing import NDArray
from pictures import pictures
from ultralytics import RTDETR, YOLO
from ultralytics.engine.results import Results


def expect(file: Path, case: Case) -> dict[str, NDArray[np.generic]]:
    """What the package finds, each array's name ending in the number of its picture."""
    model = (RTDETR if case.config.startswith("rtdetr") else YOLO)(file)
    found: dict[str, NDArray[np.generic]] = {}
    for index, picture in enumerate(pictures(*case.pictures)):
        (result,) = model.predict(
            np.ascontiguousarray(picture[..., ::-1]),
            conf=CONFIDENCE,
            iou=IOU,
            max_det=LIMIT,
            rect=False,  # what a server does that has one size for all pictures
            retina_masks=True,  # masks of the picture's own size
            verbose=False,
        )
        found.update({f"{name}_{index}": values for name, values in arrays(result).items()})
    return found


def arrays(result: Results) -> dict[str, NDArray[np.generic]]:
    """One answer as plain arrays."""
    if result.probs is not None:
        return {"probabilities": result.probs.data.numpy()}
    boxes = result.boxes if result.obb is None else result.obb
    height, width = result.orig_shape
    inside = boxes.xyxy.numpy().clip(0, (width, height, width, height))  # as the service promises; not all heads do
    found = {"boxes": inside, "scores": boxes.conf.numpy(), "classes": boxes.cls.numpy().astype(np.int64)}
    if result.obb is not None:
        found["corners"] = result.obb.xyxyxyxy.numpy()
    if result.keypoints is not None:
        found["keypoints"] = result.keypoints.data.numpy()
    if result.masks is not None:
        found["masks"] = result.masks.data.numpy().astype(np.bool_)
    return found


def main(folder: str, *names: str) -> None:
    for name in names or CASES:
        file = Path(folder) / f"{name}.onnx"
        expected = file.with_suffix(".npz")
        if not expected.exists():
            np.savez_compressed(expected, **expect(file, CASES[name]))


if __name__ == "__main__":
    main(*sys.argv[1:])
