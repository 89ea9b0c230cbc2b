"""Which family a file of Ultralytics' is taken for, and what is never taken for one."""

import pytest

from inference_server.detection import Layout, Resize, Settings, recognise
from inference_server.errors import ModelRefused

COCO = str({index: f"thing {index}" for index in range(80)})
ONE, TWO = "{0: 'a'}", "{0: 'a', 1: 'b'}"
PROTOTYPES = (1, 32, 160, 160)
POSE = {"kpt_shape": "[17, 3]"}
NMS = "{'data': None, 'batch': 1, 'fraction': 1.0, 'conf': 1e-05, 'nms': True, 'dynamic': False}"

# What exporters of several years write: outputs, metadata, and the family that reads them.
FILES = {
    "detect": ((1, 84, 8400), {"task": "detect", "end2end": "False"}, "yolo-detect"),
    "detect, 8.0": ((1, 84, 8400), {"task": "detect"}, "yolo-detect"),
    "detect, any size": ((None, 84, None), {"task": "detect"}, "yolo-detect"),
    "detect, one class": ((1, 5, 8400), {"task": "detect", "names": ONE}, "yolo-detect"),
    "detect, shape hidden": ((None, None, None), {"task": "detect"}, "yolo-detect"),
    "end to end": ((1, 300, 6), {"task": "detect", "end2end": "True"}, "yolo-detect-end2end"),
    "end to end, 8.3": ((1, 300, 6), {"task": "detect"}, "yolo-detect-end2end"),
    "end to end, one class": ((1, 300, 6), {"task": "detect", "names": ONE}, "yolo-detect-end2end"),
    "end to end, two classes, 8.3": (
        (1, 300, 6),
        {"task": "detect", "names": TWO, "description": "Ultralytics YOLOv10n model"},
        "yolo-detect-end2end",
    ),
    "end to end, any size": ((None, 300, None), {"task": "detect", "end2end": "True"}, "yolo-detect-end2end"),
    "end to end, shape hidden": ((None, None, None), {"task": "detect", "end2end": "True"}, "yolo-detect-end2end"),
    "end to end, any size, 8.3": ((None, 300, None), {"task": "detect"}, "yolo-detect-end2end"),
    "nms=True": ((1, 300, 6), {"task": "detect", "end2end": "False", "args": NMS}, "yolo-detect-end2end"),
    "segment": (((1, 116, 8400), PROTOTYPES), {"task": "segment"}, "yolo-segment"),
    "segment, any size": (((None, 116, None), (None, 32, None, None)), {"task": "segment"}, "yolo-segment"),
    "segment, shape hidden": (((None, None, None), (None, 32, None, None)), {"task": "segment"}, "yolo-segment"),
    "segment, end to end": (((1, 300, 38), PROTOTYPES), {"task": "segment"}, "yolo-segment-end2end"),
    "segment, nms=True": (((1, 300, 38), PROTOTYPES), {"task": "segment", "args": NMS}, "yolo-segment-end2end"),
    "pose": ((1, 56, 8400), {"task": "pose", "names": ONE, **POSE}, "yolo-pose"),
    "pose, 80 classes": ((1, 135, 8400), {"task": "pose", **POSE}, "yolo-pose"),
    "pose, no task": ((1, 135, 8400), POSE, "yolo-pose"),
    "pose, shape hidden": ((None, None, None), {"task": "pose", **POSE}, "yolo-pose"),
    "pose, end to end": ((1, 300, 57), {"task": "pose", "end2end": "True", **POSE}, "yolo-pose-end2end"),
    "obb": ((1, 85, 8400), {"task": "obb"}, "yolo-obb"),
    "obb, no task": ((1, 85, 8400), {}, "yolo-obb"),
    "obb, nms=True": ((1, 300, 7), {"task": "obb", "end2end": "False", "args": NMS}, "yolo-obb-end2end"),
    "classify": ((1, 80), {"task": "classify"}, "yolo-classify"),
    "classify, any batch": ((None, 80), {"task": "classify"}, "yolo-classify"),
    "classify, no names": ((1, 80), {"task": "classify", "names": None}, "yolo-classify"),
    # Neighbours that look like them.
    "YOLOv5, one class": ((1, 25200, 6), {"names": ONE, "stride": "32"}, "yolov5"),
    "YOLOv5, any size": ((None, None, None), {"stride": "32"}, "yolov5"),
    "RT-DETR": (
        (1, 300, 6),
        {"task": "detect", "head": "RTDETRDecoder", "end2end": "False", "args": "{'nms': None}"},
        "rtdetr",
    ),
    "RT-DETR, shape hidden": ((None, None, None), {"task": "detect", "description": "Ultralytics rtdetr-l"}, "rtdetr"),
    "RT-DETR that says less": ((1, 300, 6), {"task": "detect", "head": "RTDETRDecoder"}, "rtdetr"),
    "RT-DETR, 8.3": ((1, 300, 84), {"task": "detect", "description": "Ultralytics rtdetr-l model"}, "rtdetr"),
    "RT-DETR, two classes, 8.3": (
        (1, 300, 6),
        {"task": "detect", "names": TWO, "description": "Ultralytics rtdetr-l model"},
        "rtdetr",
    ),
}


@pytest.mark.parametrize(("outputs", "metadata", "name"), FILES.values(), ids=FILES)
def test_the_file_tells_its_family(signature, outputs, metadata, name):
    assert recognise(signature(outputs=outputs, dtype="float32", **metadata)).name == name
    assert recognise(signature((None, 3, 640, 640), outputs, dtype="float16", **metadata)).name == name
    assert recognise(signature((1, 1, 640, 640), outputs, **metadata)).name == name


# What looks like one of them and is none, or could be two.
REFUSED = {
    "YOLOv5 segments": (((1, 25200, 117), PROTOTYPES), {"stride": "32"}, r"expected \(batch, 116, anchors\)"),
    "YOLOX, one class": ((1, 8400, 6), {"names": None}, "expected metadata"),
    "YOLOX": ((1, 8400, 85), {"names": None}, "no metadata key 'names'"),
    "two classes, of whatever": ((1, 300, 6), {"task": "detect", "names": TWO}, "expected metadata"),
    "RT-DETR, 8.3, of unknown origin": ((1, 300, 84), {"task": "detect"}, r"expected \(batch, objects, 6\)"),
    "not selected, it says": ((1, 300, 6), {"task": "detect", "end2end": "False"}, "expected metadata"),
    "rows of an end-to-end file": (
        (1, 84, 8400),
        {"task": "detect", "end2end": "True"},
        "says that its graph selects the objects",
    ),
    "pose without its keypoints": ((1, 56, 8400), {"task": "pose", "names": ONE}, "no metadata key 'kpt_shape'"),
    "pose of other keypoints": (
        (1, 56, 8400),
        {"task": "pose", "names": ONE, "kpt_shape": "[17, 2]"},
        r"expected \(batch, 39, anchors\)",
    ),
    "keypoints of four numbers": (
        (1, 73, 8400),
        {"task": "pose", "names": ONE, "kpt_shape": "[17, 4]"},
        r"'kpt_shape': expected \[1..1024, 2 or 3\]",
    ),
    "boxes or boxes at an angle": ((1, 20, 8400), {"names": None}, "fits yolo-detect and yolo-obb alike"),
    "prototypes of another size": (
        ((1, 116, 8400), (1, 32, 80, 80)),
        {"task": "segment"},
        r"expected float32 or float16 \(batch, prototypes, 160, 160\)",
    ),
    "prototypes without a number": (
        ((1, 116, 8400), (1, None, 160, 160)),
        {"task": "segment"},
        "a quarter of the input",
    ),
    "segments without prototypes": ((1, 116, 8400), {"task": "segment"}, "expected two outputs"),
    "other scores of classes": ((1, 80), {}, "no metadata key 'task', expected 'classify'"),
    "other classes": ((1, 81), {"task": "classify"}, r"expected float32 or float16 \(batch, 80\)"),
    "a task of its own": ((1, 19, 640, 640), {"task": "semantic"}, "for another task than semantic"),
}


@pytest.mark.parametrize(("outputs", "metadata", "reason"), REFUSED.values(), ids=REFUSED)
def test_neighbours_are_refused(signature, outputs, metadata, reason):
    with pytest.raises(ModelRefused, match=reason):
        recognise(signature(outputs=outputs, **{"names": COCO, **metadata}))


@pytest.mark.parametrize("name", ["yolo-detect-end2end", "yolo-obb-end2end"])
def test_a_declared_family_needs_no_metadata(signature, name):
    columns = 7 if name == "yolo-obb-end2end" else 6
    family = recognise(signature(outputs=(1, 300, columns), names=None), Settings(family=name))
    assert (family.name, family.class_names) == (name, ())
    with pytest.raises(ModelRefused, match=rf"expected \(batch, objects, {columns}\)"):
        recognise(signature(outputs=(1, 300, 9)), Settings(family=name))


def test_the_entry_says_what_the_file_does_not(signature):
    settings = Settings(task="pose", keypoint_shape=(4, 2), class_names=("gate",))
    family = recognise(signature(outputs=(1, 13, 8400), names=None), settings)
    assert (family.name, family.class_names, family.keypoint_shape) == ("yolo-pose", ("gate",), (4, 2))


def test_pictures_to_classify_are_cropped(signature):
    square = recognise(signature((1, 3, 224, 224), (1, 80), task="classify")).picture.layout
    assert square == Layout(224, 224, Resize.CENTER_CROP)
    assert recognise(signature((1, 3, 224, 320), (1, 80), task="classify")).picture.layout.resize is Resize.STRETCH
    chosen = recognise(signature((1, 3, 224, 320), (1, 80), task="classify"), Settings(resize=Resize.LETTERBOX))
    assert chosen.picture.layout.resize is Resize.LETTERBOX
