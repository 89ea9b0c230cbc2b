"""The vectorised suppression against one in plain loops."""

import numpy as np
import pytest

from inference_server.detection.suppression import BLOCK, suppress


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0.0


def reference(boxes, scores, class_ids, threshold, limit):
    kept = []
    for index in sorted(range(len(scores)), key=lambda index: (-scores[index], index)):
        rivals = [other for other in kept if class_ids[other] == class_ids[index]]
        if len(kept) < limit and all(overlap(boxes[index], boxes[other]) <= threshold for other in rivals):
            kept.append(index)
    return kept


def scattered(random, count, *, classes, width):
    """Boxes on quarter pixels, whose areas and overlaps are exact in both precisions."""
    corners = random.integers(0, width * 4, (count, 2)) / 4
    sizes = random.integers(1, 160, (count, 2)) / 4
    boxes = np.concatenate((corners, corners + sizes), axis=1).astype(np.float32)
    return boxes, random.permutation(count).astype(np.float32) / count, random.integers(0, classes, count)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize(("count", "width"), [(1, 50), (40, 60), (BLOCK * 2 + 17, 100)])
def test_the_same_boxes_are_kept_in_the_same_order(seed, count, width):
    random = np.random.default_rng(seed)
    boxes, scores, class_ids = scattered(random, count, classes=1 + seed % 4, width=width)
    threshold, limit = float(random.choice([0.0, 0.3, 0.45, 0.7])), int(random.choice([1, 5, 300]))
    expected = reference(boxes.astype(float), scores, class_ids, threshold, limit)
    assert suppress(boxes, scores, class_ids, threshold, limit).tolist() == expected


def test_nothing_stays_nothing():
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int), 0.7, 300).tolist() == []


def test_the_first_of_equals_is_kept():
    boxes = np.array([[0, 0, 10, 10]] * 3, np.float32)
    assert suppress(boxes, np.full(3, 0.5, np.float32), np.zeros(3, int), 0.7, 300).tolist() == [0]


def test_classes_do_not_suppress_each_other():
    boxes = np.array([[0, 0, 10, 10]] * 2, np.float32)
    assert suppress(boxes, np.array([0.5, 0.9], np.float32), np.array([0, 1]), 0.0, 300).tolist() == [1, 0]


def test_an_overlap_of_just_the_threshold_is_allowed():
    boxes = np.array([[0, 0, 4, 1], [2, 0, 6, 1]], np.float32)  # a third in common
    scores, class_ids = np.array([0.9, 0.8], np.float32), np.zeros(2, int)
    assert len(suppress(boxes, scores, class_ids, 0.34, 300)) == 2
    assert len(suppress(boxes, scores, class_ids, 0.33, 300)) == 1
    boxes = np.array([[0, 0, 2, 1], [0, 0, 1, 1]], np.float32)  # exactly half
    assert len(suppress(boxes, scores, class_ids, 0.5, 300)) == 2


def test_boxes_without_area_suppress_nothing():
    boxes = np.array([[5, 5, 5, 5]] * 2, np.float32)
    assert len(suppress(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, int), 0.0, 300)) == 2
