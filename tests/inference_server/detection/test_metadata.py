import pytest

from inference_server.detection.metadata import (
    MAX_CLASSES,
    MAX_LENGTH,
    of_rtdetr,
    read_class_names,
    read_keypoint_shape,
    read_size,
    says_selected,
)
from inference_server.errors import ModelRefused


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: 'person', 1: 'traffic light'}", ("person", "traffic light")),
        ("{1: 'b', 0: 'a'}", ("a", "b")),
        ("['a', \"b's\"]", ("a", "b's")),
        ("{0: '(deep [brackets {in a name'}", ("(deep [brackets {in a name",)),
        (r"{0: 'it\'s', 1: 'lu\u00e1'}", ("it's", "luá")),
        (str({index: f"class {index}" for index in range(1000)}), tuple(f"class {index}" for index in range(1000))),
    ],
)
def test_names_are_read_in_the_order_of_their_ids(text, names):
    assert read_class_names({"names": text}) == names


def test_a_file_without_the_keys_tells_nothing():
    assert read_class_names({}) is None
    assert read_size({}) is None
    assert read_keypoint_shape({}) is None
    assert says_selected({}) is None
    assert not of_rtdetr({})


CODE = "__import__('os').system('touch {}')"
NAMES = {
    "nothing": "",
    "no classes": "{}",
    "a gap": "{0: 'a', 2: 'b'}",
    "ids that are strings": "{'0': 'a'}",
    "names that are numbers": "{0: 1}",
    "a name alone": "'person'",
    "too many": str(list(map(str, range(MAX_CLASSES + 1)))),
    "too long": "[" + "'a', " * (MAX_LENGTH // 5) + "]",
    "a set": "{'a'}",
    "not ended": "{0: 'a'",
    "a string not ended": "{0: 'a",
    "brackets": "[" * 100_000,
    "pairs of brackets": "(" * 1000 + "'a'" + ")" * 1000,
    "operators": "-" * 500_000 + "1",
    "sums": "1+" * 200_000 + "1",
    "attributes": "a" + ".a" * 200_000,
    "conditions": "1 if 1 else " * 50_000 + "1",
    "escaped quotes": "'" + "\\'" * 400_000,
    "digits": "[" + "9" * 100_000 + "]",
    "fractions": "1." * 200_000,
    "signs": "1e-" * 200_000,
    "differences": "1-" * 200_000 + "1",
    "a null byte": "['a\0']",
    "a comprehension": "[x for x in range(3)]",
}


@pytest.mark.parametrize("text", NAMES.values(), ids=NAMES)
def test_anything_else_is_refused_at_once_and_in_words(text):
    with pytest.raises(ModelRefused, match=r"metadata key 'names': expected .*, got ") as refusal:
        read_class_names({"names": text})
    assert len(str(refusal.value)) < 300


def test_code_is_not_run(tmp_path):
    with pytest.raises(ModelRefused, match="names"):
        read_class_names({"names": CODE.format(tmp_path / "run")})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("text", "size"), [("[384, 640]", (384, 640)), ("640", (640, 640)), ("(32, 64)", (32, 64))])
def test_the_size_is_height_and_width(text, size):
    assert read_size({"imgsz": text}) == size


@pytest.mark.parametrize(
    "text", ["[640]", "[0, 640]", "[640, 9000]", "True", "[True, 640]", "None", "['a', 'b']", "-1"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ModelRefused, match="metadata key 'imgsz'"):
        read_size({"imgsz": text})


def test_keypoints_are_so_many_of_two_or_three_numbers():
    assert read_keypoint_shape({"kpt_shape": "[17, 3]"}) == (17, 3)
    assert read_keypoint_shape({"kpt_shape": "(4, 2)"}) == (4, 2)


@pytest.mark.parametrize("text", ["17", "[17]", "[0, 3]", "[17, 1]", "[2000, 3]", "[17.0, 3]", "[True, 3]", "None"])
def test_what_is_no_shape_of_keypoints_is_refused(text):
    with pytest.raises(ModelRefused, match="metadata key 'kpt_shape': expected"):
        read_keypoint_shape({"kpt_shape": text})


ARGUMENTS = "{{'data': None, 'fraction': 1.0, 'conf': 1e-05, 'quantize': None, 'nms': {}, 'simplify': True}}"


@pytest.mark.parametrize(
    ("metadata", "selected"),
    [
        ({"end2end": "True", "args": ARGUMENTS.format(None)}, True),
        ({"end2end": "False", "args": ARGUMENTS.format(True)}, True),
        ({"args": ARGUMENTS.format(True)}, True),
        ({"end2end": "False", "args": ARGUMENTS.format(False)}, False),
        ({"args": ARGUMENTS.format(False)}, None),
        ({"end2end": "maybe", "args": "{'data': PosixPath('x')}"}, None),
        ({"end2end": "1", "args": "['nms', True]"}, None),
    ],
)
def test_whether_the_graph_selects_is_said_or_not(metadata, selected):
    assert says_selected(metadata) is selected


def test_an_rtdetr_is_known_by_its_head_or_its_description():
    assert of_rtdetr({"head": "RTDETRDecoder"})
    assert of_rtdetr({"description": "Ultralytics RT-DETR-l model"})
    assert not of_rtdetr({"head": "v10Detect", "description": "Ultralytics YOLOv10n model"})
