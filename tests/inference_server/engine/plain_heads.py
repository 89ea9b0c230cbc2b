"""What the outputs of other exporters' models mean, written a second time: one row at a time, in plain Python.

Each function takes the outputs of one frame, the size of the input and of the source picture as (width, height), and
`Options`; it returns (class_id, score, box in source pixels) of each detection, best first.
"""

import math

import numpy as np
import onnxruntime
from PIL import Image

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def letterboxed(size, source, corner=False):
    """Where the picture lies: left, top, width, height."""
    scale = min(size[0] / source[0], size[1] / source[1])
    if corner:
        return 0, 0, max(1, int(source[0] * scale)), max(1, int(source[1] * scale))
    width, height = max(1, round(source[0] * scale)), max(1, round(source[1] * scale))
    return round((size[0] - width) / 2 - 0.1), round((size[1] - height) / 2 - 0.1), width, height


def yolov5(outputs, size, source, options):
    (rows,) = [array for array in outputs.values() if array.ndim == 2]
    found = [(row[4], row[5:], row[:4]) for row in rows.astype(float).tolist()]
    return _suppressed(found, letterboxed(size, source), source, options)


def yolox(outputs, size, source, options, decoded=False):
    found = []
    for row, (x, y, stride) in zip(outputs["output"].astype(float).tolist(), _cells(size), strict=True):
        box = row[:4]
        if not decoded:
            box = (row[0] + x) * stride, (row[1] + y) * stride, math.exp(row[2]) * stride, math.exp(row[3]) * stride
        found.append((row[4], row[5:], box))
    return _suppressed(found, letterboxed(size, source, corner=True), source, options)


def yolox_decoded(outputs, size, source, options):
    return yolox(outputs, size, source, options, decoded=True)


def rtdetr(outputs, size, source, options):
    rows = sorted(outputs["output0"].astype(float).tolist(), key=lambda row: -row[4])
    return _best([(int(row[5]), row[4], _parts(row[:4], source)) for row in rows], source, options)


def rtdetr_queries(outputs, size, source, options):
    found = []
    for row in outputs["output0"].astype(float).tolist():
        class_id = max(range(len(row) - 4), key=lambda index: row[4 + index])
        found.append((class_id, row[4 + class_id], _parts(row[:4], source)))
    return _best(sorted(found, key=lambda item: -item[1]), source, options)


def detr(outputs, size, source, options):
    found = []
    for class_id, score, box in zip(outputs["labels"], outputs["scores"], outputs["boxes"].astype(float), strict=True):
        found.append((int(class_id), float(score), [box[i] * source[i % 2] / size[i % 2] for i in range(4)]))
    return _best(sorted(found, key=lambda item: -item[1]), source, options)


def rf_detr(outputs, size, source, options, classes=None):
    queries = outputs["labels"].astype(float)[:, :classes]
    pairs = [
        (class_id, 1 / (1 + math.exp(-max(-80.0, min(80.0, logit)))), _parts(box, source))
        for box, logits in zip(outputs["dets"].astype(float).tolist(), queries.tolist(), strict=True)
        for class_id, logit in enumerate(logits)
    ]
    return _best(sorted(pairs, key=lambda item: -item[1])[: len(queries)], source, options)


def assert_same(found, expected, pixels, score):
    """The same detections, whichever of those that score alike comes first."""
    assert len(found) == len(expected)
    assert (np.diff(found.scores) <= 0).all()
    free = np.full(len(found), True)
    for class_id, wanted_score, box in expected:
        near = np.abs(found.boxes - box).max(axis=1) <= pixels
        partners = free & near & (found.class_ids == class_id) & (np.abs(found.scores - wanted_score) <= score)
        assert partners.any(), (class_id, wanted_score, box)
        free[partners.argmax()] = False


def assert_same_masks(found, outputs, source):
    """Masks of RF-DETR against Pillow's way of enlarging them, where that is clear about a pixel."""
    assert len(found.masks) == len(found)
    boxes = np.array([np.clip(_parts(box, source), 0, source * 2) for box in outputs["dets"].astype(float)])
    for found_box, runs in zip(found.boxes, found.masks, strict=True):
        query = np.abs(boxes - found_box).sum(axis=1).argmin()
        values = np.asarray(Image.fromarray(outputs["masks"][query]).resize(source, Image.Resampling.BILINEAR))
        mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(source).T
        clear = np.abs(values) > 1e-4
        np.testing.assert_array_equal(mask[clear], values[clear] > 0)


def _cells(size):
    """Column, row and stride of each cell."""
    return [
        (x, y, stride) for stride in (8, 16, 32) for y in range(size[1] // stride) for x in range(size[0] // stride)
    ]


def _parts(box, source):
    """Centre and size in parts of the picture as corners in its pixels."""
    x, y, w, h = box
    width, height = source
    return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height


def _suppressed(rows, placed, source, options):
    """From objectness, class scores and box in input pixels: what passes, and overlaps no better one of its class."""
    found = []
    for objectness, scores, (x, y, w, h) in rows:
        scores = [score * objectness for score in scores]
        class_id = max(range(len(scores)), key=lambda index: scores[index])
        if objectness > options.confidence_threshold and scores[class_id] > options.confidence_threshold:
            found.append((class_id, scores[class_id], (x - w / 2, y - h / 2, x + w / 2, y + h / 2)))
    kept = []
    for one in sorted(found, key=lambda item: -item[1]):
        if all(one[0] != other[0] or _overlap(one[2], other[2]) <= options.iou_threshold for other in kept):
            kept.append(one)
    left, top, width, height = placed
    shift, factor = (left, top), (source[0] / width, source[1] / height)
    moved = [(c, s, [(box[i] - shift[i % 2]) * factor[i % 2] for i in range(4)]) for c, s, box in kept]
    return _best(moved, source, options)


def _best(found, source, options):
    """What passes and is wanted, of rows that come best first, inside the picture."""
    passing = [
        (class_id, score, np.clip(box, 0, source * 2))
        for class_id, score, box in found
        if score > options.confidence_threshold and (options.class_ids is None or class_id in options.class_ids)
    ]
    return passing[: options.max_detections]


def _overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def parts(rgb):
    return rgb / 255


def blue_first(rgb):
    return rgb[..., ::-1]


def normal(rgb):
    return (rgb / 255 - MEAN) / STD


# The family as which a file is recognised, how a picture's bytes become its input, and what its outputs mean.
FAMILIES = {
    "yolov5": ("yolov5", parts, yolov5),
    "yolov5-raw": ("yolov5", parts, yolov5),
    "yolox": ("yolox", blue_first, yolox),
    "yolox-decoded": ("yolox-decoded", blue_first, yolox_decoded),
    "rtdetr": ("rtdetr", parts, rtdetr),
    "rtdetr-queries": ("rtdetr", parts, rtdetr_queries),
    "detr": ("detr", parts, detr),
    "rf-detr": ("rf-detr", normal, rf_detr),
    "rf-detr-segment": ("rf-detr-segment", normal, rf_detr),
}


def outputs_as_exported(model, kind, frames):
    """The outputs of all frames by name, of the file without anything of ours."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    numbers = FAMILIES[kind][1](frames.astype(np.float32)).transpose(0, 3, 1, 2).astype(np.float32)
    given = {session.get_inputs()[0].name: np.ascontiguousarray(numbers)}
    if kind == "detr":
        given["orig_target_sizes"] = np.full((len(frames), 2), frames.shape[1:3], np.int64)
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, given), strict=True))
