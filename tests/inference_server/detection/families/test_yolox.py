import numpy as np
import plain_heads
import pytest

from inference_server.detection import (
    Colors,
    GraphSignature,
    Layout,
    Options,
    Pixels,
    Resize,
    Settings,
    TensorSpec,
    place,
    recognise,
)
from inference_server.errors import ModelRefused

CLASSES = 3
SIZE = (96, 64)
CELLS = 96 + 24 + 6


def file(shape, operators=("Conv", "Sigmoid"), name="output", size=(64, 96), **metadata):
    """The signature of a file as YOLOX exports it, without metadata."""
    return GraphSignature(
        (TensorSpec("images", "float32", (1, 3, *size)),),
        (TensorSpec(name, "float32", shape),),
        metadata,
        frozenset(operators),
    )


RAW, DECODED = file((1, CELLS, 5 + CLASSES)), file((1, CELLS, 5 + CLASSES), ("Conv", "Exp", "Sigmoid"))


def test_the_graph_tells_whether_boxes_are_decoded():
    raw, decoded = recognise(RAW), recognise(DECODED)
    assert (raw.name, decoded.name) == ("yolox", "yolox-decoded")
    assert raw.class_names == ("class0", "class1", "class2")
    for family in (raw, decoded):
        assert family.picture.layout == Layout(*SIZE, Resize.TOP_LEFT)
        assert family.picture.pixels == Pixels(Colors.BGR, scale=1.0)
        assert family.defaults.iou_threshold == 0.45


def test_a_declaration_goes_before_the_graph():
    assert recognise(DECODED, Settings(family="yolox")).name == "yolox"
    assert recognise(RAW, Settings(family="yolox-decoded")).name == "yolox-decoded"
    legacy = Settings(color_order=Colors.RGB, scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert recognise(RAW, legacy).picture.pixels.colors is Colors.RGB


@pytest.mark.parametrize("signature", [RAW, DECODED], ids=["raw", "decoded"])
@pytest.mark.parametrize("seed", range(200))
def test_detections_are_those_of_a_plain_loop(signature, seed):
    family = recognise(signature)
    random = np.random.default_rng(seed)
    low, high = ((-2, 3), (-1, 1.5)) if signature is RAW else ((0, 64), (2, 40))
    rows = np.concatenate(
        [
            random.uniform(*low, (CELLS, 2)),
            random.uniform(*high, (CELLS, 2)),
            random.uniform(0, 1, (CELLS, 1 + CLASSES)),
        ],
        axis=1,
    ).astype(np.float32)
    source = tuple(map(int, random.integers(20, 3000, 2)))
    options = Options(
        confidence_threshold=float(random.choice([0.1, 0.25, 0.6])),
        iou_threshold=float(random.choice([0.2, 0.45])),
        max_detections=int(random.choice([3, 300])),
        class_ids=None if seed % 3 else frozenset({1}),
    )
    plain = plain_heads.yolox if signature is RAW else plain_heads.yolox_decoded
    expected = plain({"output": rows}, SIZE, source, options)
    found = family.decode({"output": rows}, place(family.picture.layout, *source), options)
    plain_heads.assert_same(found, expected, pixels=0.02, score=1e-6)


def test_a_known_box_comes_out_of_its_cell():
    """The last cell of stride 16 in the first row: column 5 of 6."""
    family = recognise(RAW)
    rows = np.zeros((CELLS, 5 + CLASSES), np.float32)
    rows[96 + 5] = [0.5, 0.25, np.log(2), 0, 1, 0, 0.75, 0]
    found = family.decode({"output": rows}, place(family.picture.layout, 96, 64), Options())
    np.testing.assert_allclose(found.boxes, [[72, 0, 96, 12]], atol=1e-4)
    assert (found.class_ids.tolist(), found.scores.tolist()) == ([1], [0.75])


NEIGHBOURS = {
    "YOLOv8": (file((1, 4 + CLASSES, CELLS), names="['a', 'b', 'c']", task="detect"), "yolo-detect"),
    "YOLOv5": (file((1, 3 * CELLS, 8)), "yolov5"),
    "swapped": (file((1, CELLS, 84), ("Softmax",)), "yolox, yolox-decoded: expected a graph without Softmax"),
    "end to end": (file((1, 300, 6), name="output0"), "expected an output called output, found output0"),
    "another size": (file((1, 84, 8)), r"yolox: output .*expected \(batch, 126, 5 \+ classes\)"),
    "no classes": (file((1, CELLS, 5)), r"expected \(batch, 126, 5 \+ classes\)"),
    "other names": (file((1, CELLS, 8), names="['a']"), r"expected \(batch, 126, 6 for 1 classes\)"),
    "open": (file((None, None, None)), "says how many classes there are"),
}


@pytest.mark.parametrize(("signature", "answer"), NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_neighbours_are_read_by_their_own_family_or_refused(signature, answer):
    if answer in ("yolo-detect", "yolov5"):
        assert recognise(signature).name == answer
        return
    with pytest.raises(ModelRefused, match=answer):
        recognise(signature)


def test_a_shape_with_two_readings_is_refused_with_both_and_the_key():
    """As many classes as make rows and columns alike: YOLOv8 with 80 classes, or YOLOX with 79."""
    both = file((1, 84, 84), size=(64, 64))
    with pytest.raises(ModelRefused, match=r"fits yolo-detect .*and yolox alike: set .*family"):
        recognise(both)
    with pytest.raises(ModelRefused, match=r"fits yolov5 and yolox alike"):
        recognise(file((None, None, 8)))


def test_a_declared_family_waits_for_the_output():
    family = recognise(file((None, None, None)), Settings(family="yolox"))
    assert family.class_names == ()
    family.check({"output": np.zeros((CELLS, 9), np.float32)})
    with pytest.raises(ModelRefused, match=r"expected \(126, 5 \+ classes\) for each frame, got \(84, 9\)"):
        family.check({"output": np.zeros((84, 9), np.float32)})
    with pytest.raises(ModelRefused, match=r"expected scores in 0..1"):
        family.check({"output": np.full((CELLS, 9), -3, np.float32)})
