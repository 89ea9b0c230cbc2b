import numpy as np
import plain_heads
import pytest

from inference_server.detection import GraphSignature, Options, Settings, TensorSpec, place, recognise
from inference_server.errors import ModelRefused

CLASSES = 4
NAMES = str([f"thing {index}" for index in range(CLASSES)])
ANCHORS = 3 * (64 + 16 + 4)


def file(*outputs, size=(64, 64), names=NAMES, **metadata):
    """The signature of a file with outputs of these shapes."""
    return GraphSignature(
        (TensorSpec("images", "float32", (1, 3, *size)),),
        tuple(TensorSpec(f"output{index}", "float32", shape) for index, shape in enumerate(outputs)),
        {**({"names": names} if names else {}), **metadata},
    )


@pytest.fixture
def family():
    return recognise(file((1, ANCHORS, 5 + CLASSES)))


@pytest.mark.parametrize("seed", range(200))
def test_detections_are_those_of_a_plain_loop(family, seed):
    random = np.random.default_rng(seed)
    rows = np.concatenate(
        [
            random.uniform(0, 64, (ANCHORS, 2)),
            random.uniform(2, 30, (ANCHORS, 2)),
            random.uniform(0, 1, (ANCHORS, 1 + CLASSES)),
        ],
        axis=1,
    ).astype(np.float32)
    source = tuple(map(int, random.integers(20, 3000, 2)))
    options = Options(
        confidence_threshold=float(random.choice([0.1, 0.25, 0.6])),
        iou_threshold=float(random.choice([0.2, 0.45])),
        max_detections=int(random.choice([3, 300])),
        class_ids=None if seed % 3 else frozenset({1, 3}),
    )
    expected = plain_heads.yolov5({"output0": rows}, (64, 64), source, options)
    found = family.decode({"output0": rows}, place(family.picture.layout, *source), options)
    plain_heads.assert_same(found, expected, pixels=0.01, score=1e-6)
    assert (found.boxes.dtype, found.scores.dtype, found.class_ids.dtype) == (np.float32, np.float32, np.int64)


def test_both_thresholds_count(family):
    rows = np.zeros((ANCHORS, 5 + CLASSES), np.float32)
    rows[:, :4] = [32, 32, 8, 8]
    rows[0, 4:6] = 0.5, 0.9  # 0.45
    rows[1, 4:6] = 0.8, 0.8  # 0.64
    placement = place(family.picture.layout, 64, 64)
    found = family.decode({"output0": rows}, placement, Options(confidence_threshold=0.46, iou_threshold=1))
    np.testing.assert_allclose(found.scores, [0.64], atol=1e-6)
    assert family.defaults.iou_threshold == 0.45


def test_what_the_files_of_this_family_look_like():
    raw = ((1, 3, 8, 8, 9), (1, 3, 4, 4, 9), (1, 3, 2, 2, 9))
    assert recognise(file((1, ANCHORS, 9), *raw)).name == "yolov5"  # YOLOv7 --grid
    assert recognise(file((1, 3 * (64 + 16 + 4 + 1), 9))).name == "yolov5"  # P6
    assert recognise(file((1, 3 * (128 + 32 + 8), 9), size=(128, 64))).name == "yolov5"
    assert recognise(file((None, None, None))).name == "yolov5"  # --dynamic, names in the metadata
    without_names = recognise(file((1, ANCHORS, 6), names=None))
    assert (without_names.name, without_names.class_names) == ("yolov5", ("class0",))


NEIGHBOURS = {
    "one class, end to end": (
        ((1, 300, 6),),
        {"names": "['a']"},
        r"yolov5: output .*expected \(batch, 252 or 255, 6 for",
    ),
    "YOLOv8": (((1, 4 + CLASSES, 84),), {}, None),
    "YOLOX": (((1, 84, 9),), {}, r"yolov5: output .*expected \(batch, 252 or 255, 9 for 4 classes\)"),
    "other classes": (((1, ANCHORS, 12),), {}, "9 for 4 classes"),
    "no classes": (((1, ANCHORS, 5),), {"names": None}, r"252 or 255, 5 \+ classes"),
    "raw heads alone": (((1, 3, 8, 8, 9), (1, 3, 4, 4, 9)), {}, "raw heads alone; export with --grid"),
    "segmentation": (((1, ANCHORS, 41), (1, 32, 16, 16)), {}, "expected one output besides raw heads, found 2"),
    "YOLOv7 end to end": (((None, 7),), {}, "looks like YOLOv7's --end2end"),
    "Ultralytics, open": (((None, None, None),), {"task": "detect"}, None),
    "nothing is known": (((1, None, None),), {"names": None}, "says how many classes there are"),
    "no floats": (((1, ANCHORS),), {}, "three dimensions"),
}


@pytest.mark.parametrize(("outputs", "metadata", "reason"), NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_outputs_of_neighbours_are_refused(outputs, metadata, reason):
    if reason is None:
        assert recognise(file(*outputs, **metadata)).name == "yolo-detect"
        return
    with pytest.raises(ModelRefused, match=reason):
        recognise(file(*outputs, **metadata))


def test_a_shape_with_two_readings_is_refused_with_both_and_the_key():
    both = file((1, ANCHORS, 6), names="['a']", task="detect", end2end="True")
    with pytest.raises(ModelRefused, match=r"fits yolo-detect-end2end and yolov5 alike: set .*family"):
        recognise(both)
    assert recognise(both, Settings(family="yolov5")).name == "yolov5"


def test_a_declared_family_takes_any_number_of_anchors():
    family = recognise(file((1, 77, 9)), Settings(family="yolov5"))
    family.check({"output0": np.zeros((77, 9), np.float32)})
    open_file = file((1, None, None), names=None)
    family = recognise(open_file, Settings(family="yolov5"))
    family.check({"output0": np.zeros((77, 12), np.float32)})
    with pytest.raises(ModelRefused, match=r"expected \(anchors, 5 \+ classes\) for each frame, got \(77, 5\)"):
        family.check({"output0": np.zeros((77, 5), np.float32)})


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (np.zeros((84, 9)), r"expected \(252 or 255, 9\) for each frame, got \(84, 9\)"),
        (np.zeros((252, 8)), r"got \(252, 8\)"),
        (np.zeros(252), r"got \(252,\)"),
        (np.zeros(()), r"got \(\)"),
        (np.full((252, 9), 3.0), r"expected scores in 0..1, got 3..3"),
    ],
)
def test_first_outputs_that_are_others_are_refused(family, rows, reason):
    with pytest.raises(ModelRefused, match=reason):
        family.check({"output0": rows.astype(np.float32)})
