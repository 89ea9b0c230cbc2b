import pytest

from inference_server.detection import FamilyKind, Layout, Settings, read_settings, recognise
from inference_server.detection import recognition as recognition_module
from inference_server.detection.families import KINDS, yolo_detect
from inference_server.errors import ModelRefused


def declared(family):
    return Settings(family=family)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("inputs", "layout", "batch", "channels_last"),
    [
        ((1, 3, 640, 640), Layout(640, 640), 1, False),
        ((None, 3, 384, 640), Layout(640, 384), None, False),
        ((4, 3, 320, 320), Layout(320, 320), 4, False),
        ((1, 640, 480, 3), Layout(480, 640), 1, True),
        ((None, 3, None, None), Layout(512, 256), None, False),
        ((1, None, 480, 3), Layout(480, 256), 1, True),
    ],
)
def test_the_input_tells_its_layout(signature, dtype, inputs, layout, batch, channels_last):
    family = recognise(signature(inputs, dtype=dtype, imgsz="[256, 512]"))
    assert (family.name, family.picture.layout) == ("yolo-detect", layout)
    picture = family.picture
    assert (picture.batch, picture.channels_last, picture.dtype) == (batch, channels_last, dtype)


def test_classes_come_from_the_file(signature):
    assert recognise(signature((1, 3, 64, 64), (1, 6, 84), names="{0: 'cat', 1: 'dog'}")).class_names == (
        "cat",
        "dog",
    )


def test_without_names_the_shape_must_leave_one_reading(signature):
    family = recognise(signature((1, 3, 64, 64), (1, 6, 84), names=None, task="detect"))
    assert family.class_names == ("class0", "class1")
    with pytest.raises(ModelRefused, match=r"no metadata key 'names'.*\(batch, 4 \+ classes, 84\)"):
        recognise(signature((1, 3, 64, 64), (1, 6, 85), names=None, task="detect"))
    with pytest.raises(ModelRefused, match="fits yolo-detect and yolo-obb alike"):
        recognise(signature((1, 3, 64, 64), (1, 6, 84), names=None))


def test_a_declared_family_needs_less_of_the_file(signature):
    family = recognise(signature((1, 3, 64, 64), (1, 6, 85), names=None), declared("yolo-detect"))
    assert len(family.class_names) == 2


def test_tensors_are_served_only_where_declared(signature):
    other = signature((1, 3, 64, 64), (1, 1000))
    family = recognise(other, declared("tensors"))
    assert (family.name, family.class_names, family.picture.layout) == ("tensors", (), Layout(64, 64))
    with pytest.raises(ModelRefused):
        recognise(other)


REFUSED = {
    "two inputs": ({"inputs": ((1, 3, 64, 64), (1, 2))}, "expected one input, found 2"),
    "bytes": ({"dtype": "uint8"}, "expected float32 or float16"),
    "three dimensions": ({"inputs": (3, 64, 64)}, r"expected \(batch, channels, height, width\)"),
    "two channels": ({"inputs": (1, 2, 64, 64)}, "3 or 1 channels"),
    "unknown input shape": ({"inputs": None}, "of unknown shape: expected"),
    "any size without imgsz": ({"inputs": (1, 3, None, None)}, "no metadata key 'imgsz'"),
    "a huge input": ({"inputs": (1, 3, 64, 10**6)}, "sides of at most 8192"),
    "a huge batch": ({"inputs": (10**6, 3, 64, 64)}, "a batch of at most 256"),
    "another task": ({"task": "segment"}, "yolo-detect, .*: for another task than segment"),
    "two outputs": ({"outputs": ((1, 116, 8400), (1, 2))}, "expected one output, found 2"),
    "keypoint rows": ({"outputs": (1, 56, 8400), "names": "{0: 'person'}"}, r"expected \(batch, 5, anchors\)"),
    "YOLOv5 columns": ({"outputs": (1, 25200, 86)}, r"expected \(batch, 25200 or 25500, 85 for 80 classes\)"),
    "end to end": ({"outputs": (1, 300, 6)}, r"expected \(batch, 84, anchors\) for 80 classes"),
    "class scores alone": ({"outputs": (1, 1000)}, "three dimensions"),
    "unknown output shape": ({"outputs": None}, "of unknown shape: expected"),
    "no class rows": ({"outputs": (1, 4, 8400), "names": None}, "no metadata key 'names'"),
    "unknown rows": ({"outputs": (1, None, None), "names": None}, "no metadata key 'names'"),
    "code for names": ({"names": "__import__('os')"}, "metadata key 'names': expected"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_fits_no_family_is_refused_with_what_was_seen_and_what_to_set(signature, changes, reason):
    with pytest.raises(ModelRefused, match=reason) as refusal:
        recognise(signature(**changes))
    text = str(refusal.value)
    assert "metadata.attributes.videoai.family" in text
    assert all(kind.name in text for kind in KINDS)
    assert "Seen: inputs: images" in text


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"videoai": "tensors"}, "metadata.attributes.videoai: expected an object"),
        ({"videoai": {"famly": "tensors"}}, "metadata.attributes.videoai.famly: no such key"),
        ({"videoai": {"family": "yolo"}}, r"family: expected one of yolo-detect, .*tensors, got 'yolo'"),
        ({"videoai": {"family": None}}, "got None"),
        ({"videoai": {"family": ["tensors"]}}, r"got \['tensors'\]"),
        ({"videoai": {"task": "detection"}}, r"task: expected one of detect, segment, .*got 'detection'"),
        ({"videoai": {"class_names": ["a", 1]}}, r"class_names: expected a list of 1..65536 names"),
        ({"videoai": {"input_size": [640]}}, r"input_size: expected \[height, width\] of 1..8192 pixels, got \[640\]"),
        ({"videoai": {"input_size": [640, 640.5]}}, "input_size: expected"),
        ({"videoai": {"input_size": [320, 320]}}, r"input_size: expected \[640, 640\] as input images"),
        ({"videoai": {"color_order": "gray"}}, "color_order: input images .* has 3 channels, got gray"),
        ({"videoai": {"resize": "squash"}}, "resize: expected one of letterbox, .*got 'squash'"),
        ({"videoai": {"mean": [1, 2]}}, "mean: expected 1 or 3 numbers, got 2"),
        ({"videoai": {"std": [0]}}, "std: expected a list of one number above 0"),
        ({"videoai": {"scale": True}}, "scale: expected a number above 0, got True"),
        ({"videoai": {"mean": [float("nan")]}}, "mean: expected"),
        ({"videoai": {"confidence_threshold": 1.5}}, "confidence_threshold: expected 0..1, got 1.5"),
        ({"videoai": {"max_detections": 0}}, "max_detections: expected 1..10000, got 0"),
        ({"videoai": {"keypoint_shape": [17, 4]}}, r"keypoint_shape: expected \[1..1024, 2 or 3\]"),
    ],
)
def test_an_override_that_means_nothing_is_refused(signature, attributes, reason):
    with pytest.raises(ModelRefused, match=reason):
        recognise(signature(), read_settings(attributes))


def test_a_declared_family_must_fit(signature):
    with pytest.raises(ModelRefused, match=r"not a yolo-detect model.*expected one output, found 2.*Seen: "):
        recognise(signature(outputs=((1, 84, 8400), (1, 2))), declared("yolo-detect"))


def test_attributes_of_others_do_not_matter(signature):
    assert recognise(signature(), read_settings({"team": "vision", "videoai": {}})).name == "yolo-detect"


def test_a_file_that_fits_two_families_is_refused(signature, monkeypatch):
    monkeypatch.setattr(
        recognition_module, "KINDS", (yolo_detect.KIND, FamilyKind("twin", "detect", yolo_detect.KIND.build))
    )
    with pytest.raises(ModelRefused, match=r"fits .* alike: set metadata.attributes.videoai.family"):
        recognise(signature())
    assert recognise(signature(), declared("twin")).picture.layout == Layout(640, 640)


def test_names_of_families_are_unique():
    assert len({kind.name for kind in KINDS}) == len(KINDS)
