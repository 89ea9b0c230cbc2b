"""The service's boxes against a detector written the straightforward way: NumPy, float32, plain loops."""

import av
import numpy as np
import onnxruntime
import pytest
from av.video.reformatter import Interpolation
from demo import models as demo_models
from demo import scene

CONFIDENCE, IOU = 0.25, 0.7


def decode(path):
    """Every frame as RGB (H, W, 3) uint8, its colours interpolated to full resolution and not merely repeated."""
    full = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    with av.open(str(path)) as container:
        return [frame.reformat(format="rgb24", interpolation=full).to_ndarray() for frame in container.decode(video=0)]


def shrink_weights(source, target):
    """(target, source) weights of a bilinear filter that is widened to cover what it leaves out when it shrinks."""
    scale = source / target
    support = max(scale, 1.0)
    middles = (np.arange(target) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(source)[None] - middles[:, None]) / support)
    return weights / weights.sum(axis=1, keepdims=True)


def letterbox(picture, size):
    """`picture` (H, W, 3) in the middle of a grey square, as float32 0..1 (1, 3, size, size)."""
    height, width = picture.shape[:2]
    ratio = min(size / width, size / height)
    new_width, new_height = round(width * ratio), round(height * ratio)
    small = np.einsum(
        "yh,hwc,xw->yxc", shrink_weights(height, new_height), picture, shrink_weights(width, new_width), optimize=True
    )
    square = np.full((size, size, 3), 114, np.uint8)
    top, left = round((size - new_height) / 2 - 0.1), round((size - new_width) / 2 - 0.1)
    square[top : top + new_height, left : left + new_width] = np.clip(np.rint(small), 0, 255)
    return (square.astype(np.float32) / 255).transpose(2, 0, 1)[None], (
        left,
        top,
        new_width / width,
        new_height / height,
    )


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def suppress(candidates):
    """Greedy, class by class, best first."""
    kept = []
    for candidate in sorted(candidates, key=lambda item: -item[1]):
        if all(candidate[0] != other[0] or overlap(candidate[2], other[2]) <= IOU for other in kept):
            kept.append(candidate)
    return kept


def detect(session, picture, size):
    """List of (class_id, score, box in pixels of `picture`), best first."""
    inputs, (left, top, scale_x, scale_y) = letterbox(picture, size)
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs})
    candidates = []
    for x, y, width, height, *scores in output[0].T.tolist():
        class_id = int(np.argmax(scores))
        if scores[class_id] > CONFIDENCE:
            candidates.append(
                (class_id, scores[class_id], (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
            )
    height, width = picture.shape[:2]
    found = []
    for class_id, score, (x0, y0, x1, y1) in suppress(candidates):
        box = (x0 - left) / scale_x, (y0 - top) / scale_y, (x1 - left) / scale_x, (y1 - top) / scale_y
        found.append((class_id, score, np.clip(box, 0, (width, height, width, height))))
    return found


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [(640, 360), (1280, 720), (426, 756)])
def test_boxes_and_scores_are_those_of_the_reference(serving_v1, onnx_files, tmp_path, version, size):
    serving_v1.activate(version)
    serving_v1.wait_until_running(version)
    path = tmp_path / "scene.mp4"
    scene.encode(path, frames=30, size=size)
    session = onnxruntime.InferenceSession(onnx_files[version], providers=["CPUExecutionProvider"])
    answers = list(serving_v1.analyze(path, confidence_threshold=CONFIDENCE, iou_threshold=IOU))
    pictures = decode(path)
    assert len(answers) == len(pictures) == 30
    worst_box = worst_score = 0.0
    for answer, picture in zip(answers, pictures, strict=True):
        expected = detect(session, picture, demo_models.VERSIONS[version].size)
        assert len(answer.detections) == len(expected) > 0
        for class_id, score, box in expected:
            found = min(
                (detection for detection in answer.detections if detection.class_id == class_id),
                key=lambda detection: abs(detection.box.x_min - box[0]) + abs(detection.box.y_min - box[1]),
            )
            got = (found.box.x_min, found.box.y_min, found.box.x_max, found.box.y_max)
            worst_box = max(worst_box, *np.abs(np.subtract(got, box)))
            worst_score = max(worst_score, abs(found.score - score))
    print(f"version {version}, {size}: boxes within {worst_box:.3f} px, scores within {worst_score:.1e}")
    assert worst_box <= 1
    assert worst_score <= 1e-3
