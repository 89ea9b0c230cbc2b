import numpy as np
import pytest

from inference_server.detection import Options, place, recognise


@pytest.fixture
def outputs():
    """One object of 64x64 pixels, its first keypoint inside, its second beyond the picture."""
    return {"output0": np.array([[32, 32, 20, 20, 0.9, 40, 24, 0.25, -10, 90, 1.25]], np.float32).T.copy()}


def test_keypoints_are_brought_to_the_picture_and_stay_inside(signature, outputs):
    family = recognise(signature((1, 3, 64, 64), (1, 11, None), task="pose", names="['a']", kpt_shape="[2, 3]"))
    found = family.decode(outputs, place(family.picture.layout, 128, 64), Options())
    assert found.keypoints.tolist() == [[[80, 16, 0.25], [0, 64, 1]]]


def test_keypoints_without_confidence_are_sure(signature, outputs):
    family = recognise(signature((1, 3, 64, 64), (1, 11, None), task="pose", names="['a']", kpt_shape="[3, 2]"))
    found = family.decode(outputs, place(family.picture.layout, 64, 64), Options())
    assert found.keypoints.tolist() == [[[40, 24, 1], [0.25, 0, 1], [64, 1.25, 1]]]
