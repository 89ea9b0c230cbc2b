import numpy as np
import plain_heads
import pytest

from inference_server.detection import (
    ConstantInput,
    GraphSignature,
    Layout,
    Options,
    Resize,
    Settings,
    TensorSpec,
    place,
    recognise,
)
from inference_server.errors import ModelRefused

SIZE = (96, 64)
IMAGES = TensorSpec("images", "float32", (None, 3, 64, 96))
SIZES = TensorSpec("orig_target_sizes", "int64", (None, 2))
LABELS = TensorSpec("labels", "int64", (None, None))
BOXES = TensorSpec("boxes", "float32", (None, None, 4))
SCORES = TensorSpec("scores", "float32", (None, None))
OUTPUTS = (LABELS, BOXES, SCORES)
FILE = GraphSignature((IMAGES, SIZES), OUTPUTS)


def outputs_of(random, count, classes=80):
    corners = random.uniform(-10, 100, (count, 2, 2))
    corners.sort(axis=1)
    return {
        "labels": random.integers(0, classes, count),
        "boxes": corners.reshape(count, 4).astype(np.float32),
        "scores": np.sort(random.uniform(0, 1, count).astype(np.float32))[::-1],
    }


@pytest.mark.parametrize("seed", range(200))
def test_detections_are_those_of_a_plain_loop(seed):
    family = recognise(FILE)
    random = np.random.default_rng(seed)
    outputs = outputs_of(random, int(random.integers(1, 300)))
    source = tuple(map(int, random.integers(20, 3000, 2)))
    options = Options(
        confidence_threshold=float(random.choice([0.0, 0.25, 0.8])),
        max_detections=int(random.choice([3, 300])),
        class_ids=None if seed % 3 else frozenset(range(0, 80, 3)),
    )
    family.check(outputs)
    found = family.decode(outputs, place(family.picture.layout, *source), options)
    plain_heads.assert_same(found, plain_heads.detr(outputs, SIZE, source, options), pixels=0.01, score=1e-6)
    assert (found.boxes.dtype, found.scores.dtype, found.class_ids.dtype) == (np.float32, np.float32, np.int64)


def test_the_graph_is_told_the_size_of_its_input():
    picture = recognise(FILE).picture
    assert picture.layout == Layout(*SIZE, Resize.STRETCH)
    assert picture.constants == (ConstantInput("orig_target_sizes", "int64", (96, 64)),)
    open_input = TensorSpec("images", "float32", (None, 3, None, None))
    picture = recognise(GraphSignature((open_input, SIZES), OUTPUTS), Settings(input_size=(32, 48))).picture
    assert picture.constants[0].values == (48, 32)


def test_classes_come_from_the_registry_entry():
    assert recognise(FILE).class_names == ()
    family = recognise(FILE, Settings(class_names=("cat", "dog")))
    assert family.class_names == ("cat", "dog")
    outputs = outputs_of(np.random.default_rng(0), 50, classes=2)
    family.check(outputs)
    with pytest.raises(ModelRefused, match=r"output labels: expected classes of 0..1, got 7"):
        family.check({**outputs, "labels": np.full(50, 7)})
    found = family.decode({**outputs, "labels": np.full(50, 7)}, place(family.picture.layout, 10, 10), Options())
    assert len(found) == 0


NEIGHBOURS = {
    "one input": ((IMAGES,), OUTPUTS, "detr: expected inputs images and orig_target_sizes"),
    "pixel_values": (
        (TensorSpec("pixel_values", "float32", (1, 3, 64, 64)),),
        (TensorSpec("logits", "float32", (1, 300, 80)), TensorSpec("pred_boxes", "float32", (1, 300, 4))),
        "detr: expected inputs images and orig_target_sizes",
    ),
    "sizes as floats": (
        (IMAGES, TensorSpec("orig_target_sizes", "float32", (None, 2))),
        OUTPUTS,
        r"input orig_target_sizes float32\[\?, 2\]: expected whole numbers \(batch, 2\)",
    ),
    "three numbers": (
        (IMAGES, TensorSpec("orig_target_sizes", "int64", (None, 3))),
        OUTPUTS,
        r"expected whole numbers",
    ),
    "a third input": (
        (IMAGES, SIZES, TensorSpec("x", "int64", (1,))),
        OUTPUTS,
        "expected inputs for pictures and",
    ),
    "another picture": (
        (TensorSpec("input", "float32", (1, 3, 64, 64)), SIZES),
        OUTPUTS,
        "detr: expected an input images, found input",
    ),
    "another output": ((IMAGES, SIZES), (*OUTPUTS, TensorSpec("masks", "float32", None)), "labels, boxes and scores"),
    "labels as floats": ((IMAGES, SIZES), (TensorSpec("labels", "float32", None), BOXES, SCORES), "as whole numbers"),
    "angles": ((IMAGES, SIZES), (LABELS, TensorSpec("boxes", "float32", (1, 300, 5)), SCORES), r"boxes \(batch, obj"),
}


@pytest.mark.parametrize(("inputs", "outputs", "reason"), NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_outputs_of_neighbours_are_refused(inputs, outputs, reason):
    with pytest.raises(ModelRefused, match=reason):
        recognise(GraphSignature(inputs, outputs))


def test_a_declared_family_takes_pictures_under_any_name():
    signature = GraphSignature((TensorSpec("input", "float32", (1, 3, 64, 64)), SIZES), OUTPUTS)
    assert recognise(signature, Settings(family="detr")).picture.name == "input"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": np.zeros(4, np.int64)}, r"expected \(objects,\), \(objects, 4\) and .*, got \(4,\), \(3, 4\) and"),
        ({"boxes": np.zeros((3, 5), np.float32)}, r"got \(3,\), \(3, 5\) and \(3,\)"),
        ({"scores": np.full(3, 7, np.float32)}, "output scores: expected scores in 0..1"),
        ({"labels": np.full(3, -1)}, r"output labels: expected classes of 0..65535, got -1"),
    ],
)
def test_first_outputs_that_are_others_are_refused(changes, reason):
    with pytest.raises(ModelRefused, match=reason):
        recognise(FILE).check({**outputs_of(np.random.default_rng(0), 3), **changes})
