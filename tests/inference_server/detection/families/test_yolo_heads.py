"""What all families of Ultralytics' detectors have in common, by task and by head."""

import numpy as np
import plain
import pytest

from inference_server.detection import Options, place
from inference_server.errors import ModelRefused

TASKS = ("detect", "segment", "pose", "obb")
HEADS = [(task, end2end) for task in TASKS for end2end in (False, True)]
HUGE = [np.inf, -np.inf, np.nan, 3e38, -3e38, 1e30, -5.0, 0.0, 0.9]


@pytest.mark.parametrize("group", range(10))
@pytest.mark.parametrize(("task", "end2end"), HEADS)
def test_objects_are_those_of_plain_loops(family_of, random_outputs, task, end2end, group):
    family = family_of(task, end2end=end2end)
    for seed in range(group * 25, (group + 1) * 25):
        outputs, source, options = random_outputs(task, seed, end2end=end2end)
        before = {name: array.copy() for name, array in outputs.items()}
        found = family.decode(outputs, place(family.picture.layout, *source), options)
        expected = plain.find(
            task, list(before.values()), source, classes=3, end2end=end2end, options=options, keypoints=(3, 3)
        )
        plain.same(found, expected, pixels=0.01, scores=1e-6)
        for name, array in before.items():
            np.testing.assert_array_equal(outputs[name], array)


@pytest.mark.parametrize(("task", "end2end"), HEADS)
def test_garbage_is_no_object_and_no_error(family_of, random_outputs, task, end2end):
    family = family_of(task, end2end=end2end)
    for seed in range(60):
        outputs, source, options = random_outputs(task, seed, end2end=end2end)
        random = np.random.default_rng(seed)
        for array in outputs.values():
            places = random.random(array.shape) < 0.2
            array[places] = random.choice(HUGE, places.sum()).astype(np.float32)
        found = family.decode(outputs, place(family.picture.layout, *source), options)
        assert np.isfinite(found.boxes).all()
        assert (found.boxes[:, :2] <= found.boxes[:, 2:]).all()
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [*source, *source]).all()
        assert (found.scores > options.confidence_threshold).all()
        assert np.isin(found.class_ids, [0, 1, 2]).all()
        for numbers in (found.keypoints, found.oriented_boxes):
            assert numbers is None or np.isfinite(numbers).all()
        for mask in found.masks or ():
            assert mask.sum() == source[0] * source[1]


@pytest.mark.parametrize(("task", "end2end"), HEADS)
def test_half_precision_is_read_as_it_is(family_of, random_outputs, task, end2end):
    family = family_of(task, end2end=end2end)
    outputs, source, options = random_outputs(task, 4, end2end=end2end)
    half = {name: array.astype(np.float16) for name, array in outputs.items()}
    full = {name: array.astype(np.float32) for name, array in half.items()}
    placement = place(family.picture.layout, *source)
    one, other = (family.decode(each, placement, options) for each in (half, full))
    assert one.boxes.dtype == np.float32
    np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize(("task", "end2end"), HEADS)
def test_nothing_found_has_the_shapes_of_something_found(family_of, random_outputs, task, end2end):
    family = family_of(task, end2end=end2end)
    outputs, source, _ = random_outputs(task, 2, end2end=end2end)
    found = family.decode(outputs, place(family.picture.layout, *source), Options(class_ids=frozenset()))
    assert (len(found), found.boxes.shape) == (0, (0, 4))
    assert found.masks == (() if task == "segment" else None)
    assert (found.keypoints is None) == (task != "pose")
    assert (found.oriented_boxes is None) == (task != "obb")


@pytest.mark.parametrize(("task", "end2end"), HEADS)
def test_outputs_of_neighbours_are_refused_when_they_first_come(family_of, random_outputs, task, end2end):
    family = family_of(task, end2end=end2end)
    own, *_ = random_outputs(task, 1, end2end=end2end)
    family.check(own)
    rows = own["output0"]
    wider = np.concatenate([rows, rows[:, :1]], axis=1) if end2end else np.concatenate([rows, rows[:1]])
    with pytest.raises(ModelRefused, match=r"output output0: expected \(.*\) for each frame, got"):
        family.check({**own, "output0": wider})
    scores = rows.copy()
    scores[(0, 4) if end2end else (4, 0)] = 1.5
    with pytest.raises(ModelRefused, match=r"output output0: expected scores in 0..1, got .*\.\.1.5"):
        family.check({**own, "output0": scores})


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("class_id", [3, -1, 0.5, np.inf])
def test_a_column_without_class_ids_is_refused(family_of, random_outputs, task, class_id):
    family = family_of(task, end2end=True)
    outputs, *_ = random_outputs(task, 1, end2end=True)
    outputs["output0"][0, 5] = class_id
    with pytest.raises(ModelRefused, match=r"expected whole numbers of 0\.\.2 in column 5, got"):
        family.check(outputs)


@pytest.mark.parametrize("task", TASKS)
def test_a_request_can_only_ask_less_of_a_graph_that_has_chosen(family_of, random_outputs, task):
    family = family_of(task, end2end=True)
    outputs, source, _ = random_outputs(task, 5, end2end=True)
    placement = place(family.picture.layout, *source)
    strict, loose = (
        family.decode(outputs, placement, Options(0.0, iou_threshold=threshold)) for threshold in (0.0, 1.0)
    )
    np.testing.assert_array_equal(strict.boxes, loose.boxes)
    assert len(strict) > 1


@pytest.mark.parametrize("task", TASKS)
def test_sizes_below_nothing_count_as_nothing(family_of, task):
    family = family_of(task)
    rows = np.zeros((7 + {"segment": 4, "pose": 9, "obb": 1}.get(task, 0), 84), np.float32)
    rows[:5, 0] = 32, 32, -10, 20, 0.9
    outputs = {"output0": rows, "output1": np.ones((4, 16, 16), np.float32)}
    found = family.decode(outputs, place(family.picture.layout, 64, 64), Options())
    assert found.boxes.tolist() == ([] if task == "segment" else [[32, 22, 32, 42]])
