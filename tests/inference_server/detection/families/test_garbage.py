"""Numbers that no model should give: a frame of them is answered, with whatever of it is a detection."""

import numpy as np
import pytest

from inference_server.detection import GraphSignature, Options, Settings, TensorSpec, place, recognise

IMAGES = TensorSpec("images", "float32", (1, 3, 64, 64))
SIZES = TensorSpec("orig_target_sizes", "int64", (1, 2))
# The family, and the outputs of one frame: name to shape.
HEADS = [
    ("yolov5", {"output0": (252, 8)}),
    ("yolox", {"output": (84, 8)}),
    ("yolox-decoded", {"output": (84, 8)}),
    ("rtdetr", {"output0": (300, 6)}),
    ("rtdetr", {"output0": (300, 9)}),
    ("detr", {"labels": (300,), "boxes": (300, 4), "scores": (300,)}),
    ("rf-detr", {"dets": (300, 4), "labels": (300, 6)}),
]
GARBAGE = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1, 0, 0.5, 0.9, 70000, -0.0], np.float32)
CLASSES = np.array([-(1 << 63), -1, 0, 3, 70_000, (1 << 63) - 1])


@pytest.mark.parametrize(("name", "shapes"), HEADS, ids=[f"{name} {shapes}" for name, shapes in HEADS])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("seed", range(30))
def test_garbage_is_no_reason_to_fail(name, shapes, dtype, seed):
    family = recognise(signature(name, shapes), Settings(family=name))
    random = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        outputs = {
            key: random.choice(CLASSES, shape)
            if (name, key) == ("detr", "labels")
            else random.choice(GARBAGE, shape).astype(dtype)
            for key, shape in shapes.items()
        }
    options = Options(confidence_threshold=float(random.choice([0.0, 0.25])))
    found = family.decode(outputs, place(family.picture.layout, 640, 480), options)
    assert np.isfinite(found.scores).all()
    assert (found.scores > options.confidence_threshold).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [640, 480, 640, 480]).all()
    assert (found.boxes[:, :2] <= found.boxes[:, 2:]).all()
    assert ((found.class_ids >= 0) & (found.class_ids < 1 << 16)).all()


def signature(name, shapes):
    dtypes = {("detr", "labels"): "int64"}
    outputs = (TensorSpec(key, dtypes.get((name, key), "float32"), (1, *shape)) for key, shape in shapes.items())
    return GraphSignature((IMAGES, SIZES) if name == "detr" else (IMAGES,), tuple(outputs))
