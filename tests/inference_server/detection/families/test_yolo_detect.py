import numpy as np
import pytest

from inference_server.detection import Options, place, recognise
from inference_server.errors import ModelRefused

CLASSES = 5


@pytest.fixture
def family(signature):
    names = str([f"thing {index}" for index in range(CLASSES)])
    return recognise(signature(outputs=(1, 4 + CLASSES, 8400), names=names))


def output_of(*rows):
    """Centre x, centre y, width, height and the scores of each anchor, as the model gives them."""
    return {"output0": np.array(rows, np.float32).T.copy()}


def anchor(box, **scores):
    """One anchor; scores by class as c0=0.9."""
    return [*box, *(scores.get(f"c{index}", 0.0) for index in range(CLASSES))]


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def reference(output, source, options, side=640):
    """(class_id, score, box) of each detection, best first: one anchor at a time."""
    scale = min(side / source[0], side / source[1])
    width, height = round(source[0] * scale), round(source[1] * scale)
    left, top = round((side - width) / 2 - 0.1), round((side - height) / 2 - 0.1)
    found = []
    for x, y, w, h, *scores in output.astype(float).T.tolist():
        class_id = int(np.argmax(scores))
        wanted = options.class_ids is None or class_id in options.class_ids
        if scores[class_id] > options.confidence_threshold and wanted:
            found.append((class_id, scores[class_id], (x - w / 2, y - h / 2, x + w / 2, y + h / 2)))
    kept = []
    for one in sorted(found, key=lambda item: -item[1]):
        if all(one[0] != other[0] or overlap(one[2], other[2]) <= options.iou_threshold for other in kept):
            kept.append(one)
    shift, factor = np.array([left, top] * 2), np.array([source[0] / width, source[1] / height] * 2)
    return [
        (c, s, np.clip((np.array(b) - shift) * factor, 0, source * 2)) for c, s, b in kept[: options.max_detections]
    ]


@pytest.mark.parametrize("seed", range(60))
def test_detections_are_those_of_a_plain_loop(family, seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 600))
    output = np.concatenate(
        [random.uniform(0, 640, (2, count)), random.uniform(4, 200, (2, count)), random.uniform(0, 1, (CLASSES, count))]
    ).astype(np.float32)
    source = tuple(map(int, random.integers(20, 3000, 2)))
    options = Options(
        confidence_threshold=float(random.choice([0.0, 0.25, 0.8])),
        iou_threshold=float(random.choice([0.2, 0.7])),
        max_detections=int(random.choice([3, 300])),
        class_ids=None if seed % 3 else frozenset({1, 4}),
    )
    expected = reference(output, source, options)
    found = family.decode({"output0": output}, place(family.picture.layout, *source), options)
    assert found.class_ids.tolist() == [class_id for class_id, _, _ in expected]
    np.testing.assert_allclose(found.scores, [score for _, score, _ in expected], atol=1e-6)
    np.testing.assert_allclose(found.boxes, np.reshape([box for _, _, box in expected], (-1, 4)), atol=0.01)
    assert (found.boxes.dtype, found.scores.dtype, found.class_ids.dtype) == (np.float32, np.float32, np.int64)


def test_a_score_must_be_above_the_threshold(family):
    found = family.decode(
        output_of(anchor((50, 50, 10, 10), c0=0.5), anchor((500, 500, 10, 10), c0=0.5625)),
        place(family.picture.layout, 640, 640),
        Options(confidence_threshold=0.5),
    )
    assert found.scores.tolist() == [0.5625]


def test_an_anchor_counts_for_its_best_class_alone(family):
    outputs = output_of(anchor((50, 50, 10, 10), c0=0.9, c1=0.8))
    placement = place(family.picture.layout, 640, 640)
    assert family.decode(outputs, placement, Options()).class_ids.tolist() == [0]
    assert len(family.decode(outputs, placement, Options(class_ids=frozenset({1})))) == 0


def test_nothing_wanted_is_nothing_found(family):
    outputs = output_of(anchor((50, 50, 10, 10), c0=0.9))
    assert len(family.decode(outputs, place(family.picture.layout, 640, 640), Options(class_ids=frozenset()))) == 0


def test_half_precision_is_read_as_it_is(family):
    outputs = {"output0": output_of(anchor((320, 320, 64, 32), c2=0.75))["output0"].astype(np.float16)}
    found = family.decode(outputs, place(family.picture.layout, 1280, 720), Options())
    assert found.boxes.tolist() == [[576, 328, 704, 392]]
    assert found.boxes.dtype == np.float32


def test_outputs_are_left_as_they_are(family):
    outputs = output_of(anchor((320, 320, 64, 32), c2=0.75))
    before = outputs["output0"].copy()
    family.decode(outputs, place(family.picture.layout, 1280, 720), Options())
    np.testing.assert_array_equal(outputs["output0"], before)


def test_rows_that_are_no_classes_are_refused(family):
    family.check({"output0": np.zeros((9, 3), np.float32)})
    with pytest.raises(ModelRefused, match=r"expected \(9, anchors\).*got \(10, 3\)"):
        family.check({"output0": np.zeros((10, 3), np.float32)})
