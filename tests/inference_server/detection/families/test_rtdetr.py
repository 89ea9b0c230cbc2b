import numpy as np
import plain_heads
import pytest

from inference_server.detection import GraphSignature, Layout, Options, Resize, Settings, TensorSpec, place, recognise
from inference_server.errors import ModelRefused

CLASSES = 5
SIZE = (96, 64)
TODAY = {"task": "detect", "head": "RTDETRDecoder", "end2end": "False", "description": "Ultralytics rtdetr-l model"}
BEFORE = {"task": "detect", "description": "Ultralytics RT-DETR-l model trained on coco.yaml"}


def file(shape, classes=CLASSES, **metadata):
    names = {} if classes is None else {"names": str([f"thing {index}" for index in range(classes)])}
    return GraphSignature(
        (TensorSpec("images", "float32", (1, 3, 64, 96)),),
        (TensorSpec("output0", "float32", shape),),
        {**names, **metadata},
    )


def boxes(random, count):
    return np.concatenate([random.uniform(0, 1, (count, 2)), random.uniform(0.01, 0.5, (count, 2))], axis=1)


def options_of(random, seed):
    return Options(
        confidence_threshold=float(random.choice([0.1, 0.25, 0.6])),
        max_detections=int(random.choice([3, 300])),
        class_ids=None if seed % 3 else frozenset({1, 3}),
    )


@pytest.mark.parametrize("seed", range(200))
def test_objects_are_those_of_a_plain_loop(seed):
    family = recognise(file((1, 300, 6), **TODAY))
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 300))
    scores = np.sort(random.uniform(0, 1, (count, 1)), axis=0)[::-1]
    rows = np.concatenate([boxes(random, count), scores, random.integers(0, CLASSES, (count, 1))], axis=1)
    outputs = {"output0": rows.astype(np.float32)}
    source, options = tuple(map(int, random.integers(20, 3000, 2))), options_of(random, seed)
    family.check(outputs)
    found = family.decode(outputs, place(family.picture.layout, *source), options)
    plain_heads.assert_same(found, plain_heads.rtdetr(outputs, SIZE, source, options), pixels=0.01, score=1e-6)


@pytest.mark.parametrize("seed", range(200))
def test_queries_of_older_files_are_those_of_a_plain_loop(seed):
    family = recognise(file((1, 300, 4 + CLASSES), **BEFORE))
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 300))
    rows = np.concatenate([boxes(random, count), random.uniform(0, 1, (count, CLASSES))], axis=1)
    outputs = {"output0": rows.astype(np.float32)}
    source, options = tuple(map(int, random.integers(20, 3000, 2))), options_of(random, seed)
    family.check(outputs)
    found = family.decode(outputs, place(family.picture.layout, *source), options)
    plain_heads.assert_same(found, plain_heads.rtdetr_queries(outputs, SIZE, source, options), pixels=0.01, score=1e-6)
    assert (found.boxes.dtype, found.scores.dtype, found.class_ids.dtype) == (np.float32, np.float32, np.int64)


def test_pictures_are_stretched_and_nothing_is_suppressed():
    family = recognise(file((1, 300, 6), **TODAY))
    assert (family.name, family.picture.layout) == ("rtdetr", Layout(*SIZE, Resize.STRETCH))
    rows = np.tile(np.array([0.5, 0.5, 0.5, 0.5, 0.75, 2], np.float32), (3, 1))
    found = family.decode({"output0": rows}, place(family.picture.layout, 400, 200), Options(iou_threshold=0))
    assert found.boxes.tolist() == [[100, 50, 300, 150]] * 3


def test_what_the_files_of_this_family_look_like():
    assert recognise(file((1, 300, 84), 80, **BEFORE)).name == "rtdetr"
    assert recognise(file((None, 300, 84), 80, **TODAY)).name == "rtdetr"
    assert recognise(file((None, None, None), **BEFORE)).name == "rtdetr"
    two = recognise(file((1, 300, 6), 2, **BEFORE))  # boxes and two scores
    two.check({"output0": np.full((300, 6), 0.5, np.float32)})
    two = recognise(file((1, 300, 6), 2, **TODAY))  # boxes, score and class
    with pytest.raises(ModelRefused, match=r"expected whole numbers of 0..1 in column 5, got 0.5"):
        two.check({"output0": np.full((300, 6), 0.5, np.float32)})


NEIGHBOURS = {
    "end to end": (file((1, 300, 6), task="detect", end2end="True"), "yolo-detect-end2end"),
    "YOLOv8": (file((1, 9, 126), task="detect", head="Detect"), "yolo-detect"),
    "YOLOv5": (file((1, 378, 10)), "yolov5"),
    "queries of another": (file((1, 300, 9)), r"rtdetr: expected metadata \('head' or 'description'\)"),
    "other columns": (file((1, 300, 12), **TODAY), r"\(batch, objects, 6\) or \(batch, queries, 4 \+ 5 classes\)"),
    "neither names nor columns": (file((1, 300, None), None, **TODAY), r"\(batch, queries, 4 \+ classes\)"),
    "another task": (file((1, 300, 6), **{**TODAY, "task": "segment"}), "rtdetr.*: for another task than segment"),
}


@pytest.mark.parametrize(("signature", "answer"), NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_neighbours_are_read_by_their_own_family_or_refused(signature, answer):
    if answer.startswith("yolo"):
        assert recognise(signature).name == answer
        return
    with pytest.raises(ModelRefused, match=answer):
        recognise(signature)


def test_a_declared_family_needs_no_metadata():
    family = recognise(file((1, 300, 6), None), Settings(family="rtdetr"))
    family.check({"output0": np.tile(np.array([0.5, 0.5, 0.5, 0.5, 0.75, 79], np.float32), (300, 1))})
    assert family.class_names == ()
    assert recognise(file((1, 300, 9), None), Settings(family="rtdetr")).class_names[-1] == "class4"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (np.zeros((9, 300)), r"expected \(queries, 9\) for each frame, got \(9, 300\)"),
        (np.full((300, 9), 2), "expected scores in 0..1, got 2..2"),
        (np.zeros(9), r"got \(9,\)"),
    ],
)
def test_first_outputs_that_are_others_are_refused(rows, reason):
    with pytest.raises(ModelRefused, match=reason):
        recognise(file((1, 300, 9), **BEFORE)).check({"output0": rows.astype(np.float32)})
