import numpy as np
import plain
import pytest

from inference_server.detection import Layout, Placement, place
from inference_server.detection.oriented import suppress_oriented, to_source


def row(box, score, class_id=0):
    return {"numbers": list(box[:4]), "extras": [box[4]], "score": score, "class_id": class_id}


@pytest.mark.parametrize("seed", range(20))
def test_kept_boxes_are_those_of_a_plain_loop(seed):
    random = np.random.default_rng(seed)
    for count in (1, 20, 300 if seed == 0 else 60):
        spans = random.uniform(0, 100, (count, 2)), random.uniform(1, 60, (count, 2)), random.uniform(-9, 9, (count, 1))
        boxes = np.concatenate(spans, axis=1).astype(np.float32)
        scores = random.permutation(count).astype(np.float32) / count
        class_ids = random.integers(0, 2, count)
        threshold, limit = float(random.choice([0.1, 0.4, 0.7])), int(random.choice([5, 1000]))
        rows = [row(*one) for one in zip(boxes.tolist(), scores.tolist(), class_ids.tolist(), strict=True)]
        rows.sort(key=lambda one: -one["score"])
        expected = [one["score"] for one in plain.suppress(rows, plain.near, threshold, kept_only=False)][:limit]
        kept = suppress_oriented(boxes, scores, class_ids, threshold, limit)
        assert scores[kept].tolist() == expected


def test_a_box_that_is_dropped_still_drops_others():
    boxes = np.array([[0, 0, 40, 20, 0], [10, 0, 40, 20, 0], [20, 0, 40, 20, 0]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    one, two, three = (row(box, score) for box, score in zip(boxes.tolist(), scores.tolist(), strict=True))
    assert plain.near(one, two) > 0.55 > plain.near(one, three)
    assert suppress_oriented(boxes, scores, np.zeros(3, int), 0.55, 10).tolist() == [0]


def test_classes_do_not_drop_each_other():
    boxes = np.array([[5, 5, 10, 4, 1]] * 2, np.float32)
    assert suppress_oriented(boxes, np.array([0.5, 0.9], np.float32), np.array([0, 1]), 0.1, 10).tolist() == [1, 0]


def test_sides_are_stretched_as_their_directions_are():
    placement = Placement(0, 0, 64, 64, 128, 192)
    upright, lying = to_source(np.array([[8, 8, 10, 4, np.pi / 2], [8, 8, 10, 4, 0]], np.float32), placement)
    assert upright.tolist() == pytest.approx([16, 24, 30, 8, np.pi / 2])
    assert lying.tolist() == pytest.approx([16, 24, 20, 12, 0])


@pytest.mark.parametrize("angle", np.linspace(-20, 20, 81))
def test_an_angle_is_that_of_the_same_box_in_the_range(angle):
    (box,) = to_source(np.array([[8, 8, 10, 4, angle]], np.float32), place(Layout(64, 64), 64, 64))
    assert box[:4].tolist() == pytest.approx([8, 8, 10, 4])
    assert -np.pi / 4 <= box[4] <= np.float32(3 * np.pi / 4)
    assert np.sin(box[4] - angle) == pytest.approx(0, abs=1e-5)
