import pytest

from inference_server.detection.metadata import MAX_CLASSES, MAX_LENGTH, read_class_names, read_size
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
