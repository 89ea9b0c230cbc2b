"""Loading, running and decoding a model against NumPy, float32 and plain loops on the file as it was exported.

Both sides are given the same scaled picture: how a video is scaled is the decoder's part, and is compared end to end.
"""

import numpy as np
import onnxruntime
import pytest
from demo import scene

from inference_server.detection import Options, place
from inference_server.engine import Device, ModelVersion, load

SIZES = [
    (1280, 720),
    (640, 360),
    (1920, 1080),
    (720, 1280),
    (1279, 721),
    (333, 251),
    (200, 180),
    (500, 500),
    (1001, 377),
]
# As many pictures of the small sizes as make 238 of all: large ones cost ten times as much.
SCENES = {size: range(0, 240, 40 if size[0] * size[1] > 500_000 else 13) for size in SIZES}


def scaled(picture, width, height):
    """The mean of the source pixels that each new pixel covers; smaller pictures are repeated."""
    rows = _shares(picture.shape[0], height)
    columns = _shares(picture.shape[1], width)
    narrow = np.tensordot(columns, picture.astype(np.float32), (1, 1))  # (new width, height, 3)
    return np.rint(np.tensordot(rows, narrow, (1, 1))).astype(np.uint8)


def _shares(source, target):
    edges = np.arange(target + 1) * source / target
    cells = np.arange(source)
    covered = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    shares = np.maximum(covered, 0).astype(np.float32)
    return shares / shares.sum(axis=1, keepdims=True)


class Reference:
    """A detector written the straightforward way."""

    def __init__(self, path, size):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.size = size

    def letterbox(self, picture):
        height, width = picture.shape[:2]
        ratio = min(self.size / width, self.size / height)
        new_width, new_height = round(width * ratio), round(height * ratio)
        left, top = round((self.size - new_width) / 2 - 0.1), round((self.size - new_height) / 2 - 0.1)
        square = np.full((self.size, self.size, 3), 114, np.uint8)
        square[top : top + new_height, left : left + new_width] = scaled(picture, new_width, new_height)
        return square, (left, top, width / new_width, height / new_height)

    def detect(self, picture, confidence, iou):
        square, (left, top, scale_x, scale_y) = self.letterbox(picture)
        inputs = (square.astype(np.float32) / 255).transpose(2, 0, 1)[None]
        (output,) = self.session.run(None, {self.session.get_inputs()[0].name: inputs})
        height, width = picture.shape[:2]
        found = []
        for score, class_id, (x0, y0, x1, y1) in suppressed(candidates(output[0], confidence), iou):
            box = [(x0 - left) * scale_x, (y0 - top) * scale_y, (x1 - left) * scale_x, (y1 - top) * scale_y]
            found.append((class_id, score, np.clip(box, 0, [width, height] * 2)))
        return square, found


def candidates(output, confidence):
    for x, y, width, height, *scores in output.T.tolist():
        score = max(scores)
        if score > confidence:
            yield score, scores.index(score), (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def suppressed(boxes, iou):
    kept = []
    for box in sorted(boxes, key=lambda box: -box[0]):
        if all(box[1] != other[1] or overlap(box[2], other[2]) <= iou for other in kept):
            kept.append(box)
    return kept


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


@pytest.fixture(scope="module", params=[1, 2])
def pair(request, demo_files):
    """A loaded demo detector, and the reference on the same file."""
    path = demo_files[request.param]
    model = load(ModelVersion("shapes", request.param, path), Device("cpu"), max_batch=4)
    yield model, Reference(path, model.layout.width)
    model.close()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_detections_are_those_of_the_reference(pair, size):
    model, reference = pair
    options = Options(confidence_threshold=0.1, iou_threshold=0.5)
    pictures = [scene.render(index, size) for index in SCENES[size]]
    expected = [reference.detect(picture, 0.1, 0.5) for picture in pictures]
    squares = [square for square, _ in expected]
    outputs = [
        frame
        for start in range(0, len(squares), model.max_batch)
        for frame in model.run(squares[start : start + model.max_batch])
    ]
    count = 0
    for frame, (_, wanted) in zip(outputs, expected, strict=True):
        found = model.family.decode(frame, place(model.layout, *size), options)
        assert same(found, wanted)
        count += len(wanted)
    assert count >= len(pictures)


def same(found, wanted):
    """Whether the same objects were found: boxes within a pixel, scores within a thousandth, best first."""
    assert len(found) == len(wanted)
    assert np.all(np.diff(found.scores) <= 0)
    left = list(range(len(found)))
    for class_id, score, box in wanted:
        index = min(left, key=lambda index: np.abs(found.boxes[index] - box).max())
        assert found.class_ids[index] == class_id
        assert np.abs(found.boxes[index] - box).max() <= 1
        assert abs(found.scores[index] - score) <= 1e-3
        left.remove(index)
    return True


def test_the_reference_sees_a_difference(pair):
    model, reference = pair
    square, wanted = reference.detect(scene.render(0), 0.1, 0.5)
    found = model.family.decode(model.run([square])[0], place(model.layout, 1280, 722), Options())
    with pytest.raises(AssertionError):
        same(found, wanted)
