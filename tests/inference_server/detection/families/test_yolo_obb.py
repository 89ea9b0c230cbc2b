import numpy as np
import pytest

from inference_server.detection import Options, place


@pytest.mark.parametrize("angle", [-7.0, -0.7, 0.0, 1.2, 2.4, 3.0, 40.0])
def test_boxes_enclose_what_lies_at_an_angle(family_of, angle):
    family = family_of("obb", end2end=True)
    row = [32, 40, 30, 10, 0.9, 1, angle]
    outputs = {"output0": np.array([row], np.float32)}
    found = family.decode(outputs, place(family.picture.layout, 128, 128), Options())
    (oriented,) = found.oriented_boxes
    assert oriented[:4].tolist() == pytest.approx([64, 80, 60, 20])
    assert -np.pi / 4 <= oriented[4] < 3 * np.pi / 4
    assert np.sin(oriented[4] - angle) == pytest.approx(0, abs=1e-5)
    reach = abs(30 * np.cos(angle)) + abs(10 * np.sin(angle)), abs(30 * np.sin(angle)) + abs(10 * np.cos(angle))
    expected = [64 - reach[0], 80 - reach[1], 64 + reach[0], 80 + reach[1]]
    assert found.boxes[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_what_encloses_a_box_stays_inside_the_picture_and_the_box_does_not(family_of):
    family = family_of("obb", end2end=True)
    outputs = {"output0": np.array([[2, 32, 30, 10, 0.9, 1, 0]], np.float32)}
    found = family.decode(outputs, place(family.picture.layout, 64, 64), Options())
    assert found.oriented_boxes.tolist() == [[2, 32, 30, 10, 0]]
    assert found.boxes.tolist() == [[0, 27, 17, 37]]
