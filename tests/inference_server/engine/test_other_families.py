"""Files as other exporters write them, read by the server: against the file as exported and plain loops."""

import detr_heads
import numpy as np
import plain_heads
import pytest

from inference_server.detection import Options, place
from inference_server.engine import Device, load
from inference_server.errors import ModelRefused

COUNT, SIZE = 208, detr_heads.SIZE
SOURCES = [(64, 64), (128, 96), (75, 133), (61, 30), (40, 57)]


def pictures(count, seed=3):
    """(count, 64, 64, 3) uint8: patches of colour, and noise upon them."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, 256, (count, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(patches + random.normal(0, 12, patches.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", plain_heads.FAMILIES)
def test_objects_are_those_of_plain_loops_on_the_file_as_exported(loaded, kind):
    name, _, plain = plain_heads.FAMILIES[kind]
    model = detr_heads.build(kind)
    served = loaded(model)
    assert (served.family.name, served.max_batch) == (name, 8)
    frames = pictures(COUNT)
    outputs = plain_heads.outputs_as_exported(model, kind, frames)
    # Of 50 masks in a picture twelve are enough: each is laid out and compared pixel by pixel.
    most = 12 if kind == "rf-detr-segment" else 300
    options = Options(confidence_threshold=0.5, iou_threshold=0.5, max_detections=most)
    count = 0
    for start in range(0, COUNT, served.max_batch):
        for index, answer in enumerate(served.run(list(frames[start : start + served.max_batch])), start):
            source = SOURCES[index % len(SOURCES)]
            exported = {key: array[index] for key, array in outputs.items()}
            expected = plain(exported, (SIZE, SIZE), source, options)
            found = served.family.decode(answer, place(served.layout, *source), options)
            plain_heads.assert_same(found, expected, pixels=1, score=1e-3)
            if found.masks is not None:
                plain_heads.assert_same_masks(found, exported, source)
            count += len(expected)
    assert count > 2 * COUNT


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", plain_heads.FAMILIES)
def test_a_known_object_is_found_where_it_is(loaded, kind, batch):
    """A green block of 16 pixels, in a file that takes so many pictures at once."""
    served = loaded(detr_heads.build(kind, batch=batch))
    frame = np.full((SIZE, SIZE, 3), 128, np.uint8)
    frame[32:48, 16:32] = (20, 235, 20)
    for answer in served.run([frame] * batch):
        found = served.family.decode(answer, place(served.layout, SIZE, SIZE), Options(confidence_threshold=0.5))
        assert set(found.class_ids.tolist()) == {1}
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        assert np.abs(centres - [24, 40]).max() <= 16


DECLARED = ("yolov5", "yolox", "rtdetr", "detr", "rf-detr", "rf-detr-segment", "yolo-detect")
WRONG = [
    (kind, declared)
    for kind, (family, _, _) in plain_heads.FAMILIES.items()
    for declared in DECLARED
    if declared != family and "yolox" not in kind
]


@pytest.mark.parametrize(("kind", "declared"), WRONG)
def test_a_file_is_refused_as_what_it_is_not(version_of, kind, declared):
    with pytest.raises(ModelRefused, match=f"not a {declared} model, as metadata.attributes.videoai.family says"):
        load(version_of(detr_heads.build(kind), family=declared), Device("cpu"))
