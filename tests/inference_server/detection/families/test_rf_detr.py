import json

import numpy as np
import plain_heads
import pytest

from inference_server.detection import GraphSignature, Layout, Options, Resize, Settings, TensorSpec, place, recognise
from inference_server.errors import ModelRefused

SIZE = (96, 64)
QUERIES, SLOTS = 40, 6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def file(dets=(1, QUERIES, 4), labels=(1, QUERIES, SLOTS), *others, name="input", cells=(8, 8), **metadata):
    outputs = {"dets": dets, "labels": labels, **dict.fromkeys(others, (1, QUERIES, *cells))}
    return GraphSignature(
        (TensorSpec(name, "float32", (1, 3, 64, 96)),),
        tuple(TensorSpec(key, "float32", shape) for key, shape in outputs.items()),
        metadata,
    )


def outputs_of(random):
    boxes = np.concatenate([random.uniform(0, 1, (QUERIES, 2)), random.uniform(0.01, 0.5, (QUERIES, 2))], axis=1)
    return {"dets": boxes.astype(np.float32), "labels": random.normal(-1, 2, (QUERIES, SLOTS)).astype(np.float32)}


@pytest.mark.parametrize("seed", range(200))
@pytest.mark.parametrize("classes", [None, SLOTS, SLOTS - 1])
def test_detections_are_those_of_a_plain_loop(seed, classes):
    names = None if classes is None else tuple(f"thing {index}" for index in range(classes))
    family = recognise(file(), Settings(class_names=names))
    random = np.random.default_rng(seed)
    outputs = outputs_of(random)
    source = tuple(map(int, random.integers(20, 3000, 2)))
    options = Options(
        confidence_threshold=float(random.choice([0.0, 0.25, 0.6])),
        max_detections=int(random.choice([3, 300])),
        class_ids=None if seed % 3 else frozenset({1, 3}),
    )
    family.check(outputs)
    found = family.decode(outputs, place(family.picture.layout, *source), options)
    expected = plain_heads.rf_detr(outputs, SIZE, source, options, classes)
    plain_heads.assert_same(found, expected, pixels=0.01, score=1e-6)
    assert (found.boxes.dtype, found.scores.dtype, found.class_ids.dtype) == (np.float32, np.float32, np.int64)


def test_pictures_are_stretched_and_normalised():
    picture = recognise(file()).picture
    assert picture.layout == Layout(*SIZE, Resize.STRETCH)
    assert (picture.pixels.mean, picture.pixels.std) == (MEAN, STD)


def test_of_equal_scores_the_lower_query_then_the_lower_slot_comes_first():
    outputs = {"dets": np.full((QUERIES, 4), 0.5, np.float32), "labels": np.full((QUERIES, SLOTS), 100, np.float32)}
    family = recognise(file())
    found = family.decode(outputs, place(family.picture.layout, 10, 10), Options())
    assert found.class_ids.tolist() == [index % SLOTS for index in range(QUERIES)]  # as many pairs as queries


def test_without_names_every_slot_is_a_class():
    assert recognise(file((1, 300, 4), (1, 300, 91))).class_names[-1] == "class90"
    assert recognise(file((1, None, None), (1, None, None))).class_names == ()


def test_names_come_from_the_file_where_it_has_them():
    said = {"class_id_to_name": {"1": "person", "3": "car"}, "means": [0.5, 0.5, 0.5], "stds": [0.25, 0.25, 0.25]}
    family = recognise(file(labels=(1, QUERIES, 4), rfdetr_inference=json.dumps(said)))
    assert family.class_names == ("class0", "person", "class2", "car")
    assert (family.picture.pixels.mean, family.picture.pixels.std) == ((0.5,) * 3, (0.25,) * 3)
    assert recognise(file(labels=(1, QUERIES, 5), rfdetr_inference=json.dumps(said))).class_names[-1] == "car"
    assert recognise(file(rfdetr_inference="{}")).picture.pixels.mean == MEAN


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", "[" * 100_000, '{"means": [1, 2]}', '{"stds": [0, 1, 1]}', '{"class_id_to_name": {"a": "b"}}',
     '{"class_id_to_name": {"-1": "b"}}', '{"class_id_to_name": {"0": 1}}', '{"class_id_to_name": {"99999999": "b"}}',
     '{"means": [NaN, 1, 1]}', '{"means": 1}', " " * (1 << 21)],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_malformed_metadata_is_refused(text):
    with pytest.raises(ModelRefused, match="metadata key 'rfdetr_inference': expected an object"):
        recognise(file(rfdetr_inference=text))


NEIGHBOURS = {
    "keypoints": (file((1, QUERIES, 4), (1, QUERIES, 2), "keypoints"), "rf-detr: expected outputs dets, labels;"),
    "masks of another size": (file((1, QUERIES, 4), (1, QUERIES, 2), "masks"), r"\(batch, queries, height / 4, width"),
    "too few names": (
        file(names="['a']"),
        "labels: expected 1 or 2 class slots, as 1 class names say, found 6",
    ),
    "another input": (file(name="images"), "rf-detr: expected an input input, found images"),
    "angles": (file((1, QUERIES, 5)), r"expected outputs \(batch, queries, 4\) and"),
    "one label for each": (file((1, QUERIES, 4), (1, QUERIES)), r"\(batch, queries, slots\), found dets"),
    "no slots": (file((1, QUERIES, 4), (None, None)), "expected outputs"),
}


@pytest.mark.parametrize(("signature", "reason"), NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_outputs_of_neighbours_are_refused(signature, reason):
    with pytest.raises(ModelRefused, match=reason):
        recognise(signature)


def test_a_declared_family_takes_pictures_under_any_name():
    assert recognise(file(name="images"), Settings(family="rf-detr")).picture.name == "images"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"dets": np.zeros((QUERIES, 5))},
            r"expected \(queries, 4\) and \(queries, slots\) .* got \(40, 5\)",
        ),
        ({"labels": np.zeros((QUERIES + 1, SLOTS))}, r"got \(40, 4\) and \(41, 6\)"),
        ({"labels": np.zeros((QUERIES, 9))}, "expected 5 or 6 class slots, as 5 class names say, found 9"),
    ],
)
def test_first_outputs_that_are_others_are_refused(changes, reason):
    family = recognise(file(), Settings(class_names=tuple("abcde")))
    with pytest.raises(ModelRefused, match=reason):
        family.check({**outputs_of(np.random.default_rng(0)), **changes})


def segment():
    return recognise(file((1, QUERIES, 4), (1, QUERIES, SLOTS), "masks", cells=(16, 24)))


@pytest.mark.parametrize("seed", range(200))
def test_masks_are_those_of_another_library(seed):
    family = segment()
    random = np.random.default_rng(seed)
    masks = random.normal(0, 1, (QUERIES, 16, 24)).astype(np.float32)
    x, y = random.integers(0, 16, 2)
    masks[::2] = -np.abs(masks[::2])
    masks[::2, y : y + 3, x : x + 4] *= -1  # objects, and noise
    outputs = {**outputs_of(random), "masks": masks}
    source = tuple(map(int, random.integers(24, 200, 2)))
    options = Options(confidence_threshold=0.6, max_detections=12)
    family.check(outputs)
    found = family.decode(outputs, place(family.picture.layout, *source), options)
    expected = plain_heads.rf_detr(outputs, SIZE, source, options)
    plain_heads.assert_same(found, expected, pixels=0.01, score=1e-6)
    plain_heads.assert_same_masks(found, outputs, source)


def test_masks_of_garbage_are_masks():
    family = segment()
    outputs = {**outputs_of(np.random.default_rng(0)), "masks": np.zeros((QUERIES, 16, 24), np.float32)}
    outputs["masks"][:20] = np.nan
    outputs["masks"][20:30] = np.inf
    found = family.decode(outputs, place(family.picture.layout, 30, 20), Options(confidence_threshold=0.5))
    assert {tuple(mask.tolist()) for mask in found.masks} == {(600,), (0, 600)}  # nowhere, and everywhere
    nothing = family.decode(outputs, place(family.picture.layout, 30, 20), Options(class_ids=frozenset()))
    assert (len(nothing), nothing.masks) == (0, ())


def test_masks_of_another_size_are_refused():
    outputs = {**outputs_of(np.random.default_rng(0)), "masks": np.zeros((QUERIES, 16, 16), np.float32)}
    with pytest.raises(ModelRefused, match=r"output masks: expected \(40, 16, 24\) for each frame, got \(40, 16, 16\)"):
        segment().check(outputs)
