import numpy as np
import plain
import pytest

from inference_server.detection import Options, place
from inference_server.errors import ModelRefused


@pytest.fixture
def family(family_of):
    return family_of("segment", end2end=True)


def outputs_of(*rows):
    """Objects by box, score, class and the coefficient of the first prototype, which is 1 in the left half."""
    prototypes = np.zeros((4, 16, 16), np.float32)
    prototypes[0] = np.where(np.arange(16) < 8, 1, -1)
    rows = [[*row, 0, 0, 0] for row in rows]
    return {"output0": np.array(rows, np.float32), "output1": prototypes}


def test_a_mask_ends_where_its_box_does_and_where_its_prototypes_say(family):
    outputs = outputs_of([10.2, 20, 50, 40.5, 0.9, 1, 3])
    found = family.decode(outputs, place(family.picture.layout, 128, 128), Options())
    mask = plain.pixels_of(found.masks[0], (128, 128))
    expected = np.zeros((128, 128), bool)
    expected[40:81, 21:64] = True
    np.testing.assert_array_equal(mask, expected)


def test_an_object_without_a_pixel_is_none(family):
    outputs = outputs_of([40, 20, 60, 40, 0.9, 1, 3], [4, 4, 20, 20, 0.8, 2, 3], [30.2, 4, 30.8, 9, 0.7, 0, 3])
    found = family.decode(outputs, place(family.picture.layout, 64, 64), Options())
    assert (found.class_ids.tolist(), len(found.masks), len(found.boxes)) == ([2], 1, 1)


def test_padding_is_cut_off(family):
    outputs = outputs_of([0, 0, 64, 64, 0.9, 1, 3])
    found = family.decode(outputs, place(family.picture.layout, 200, 50), Options())
    mask = plain.pixels_of(found.masks[0], (50, 200))
    assert mask[:, :100].all()
    assert not mask[:, 100:].any()


def test_prototypes_of_another_size_are_refused(family):
    outputs = outputs_of([4, 4, 20, 20, 0.8, 2, 3])
    family.check(outputs)
    with pytest.raises(ModelRefused, match=r"output output1: expected \(4, 16, 16\) for each frame, got \(4, 8, 8\)"):
        family.check({**outputs, "output1": np.zeros((4, 8, 8), np.float32)})
