import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.detection import Layout, Placement, Resize, place

sides = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((1280, 720), (0, 140, 640, 360)),
        ((720, 1280), (140, 0, 360, 640)),
        ((640, 640), (0, 0, 640, 640)),
        ((100, 50), (0, 160, 640, 320)),  # smaller pictures are scaled up
        ((641, 427), (0, 107, 640, 426)),
        ((640, 427), (0, 106, 640, 427)),  # an odd pixel of padding goes to the bottom
        ((10000, 1), (0, 319, 640, 1)),  # nothing vanishes
    ],
)
def test_the_letterbox_rounds_as_in_training(source, expected):
    placement = place(Layout(640, 640), *source)
    assert (placement.left, placement.top, placement.width, placement.height) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((1280, 720), (640, 360)),
        ((641, 427), (640, 426)),
        ((1000, 999), (640, 639)),  # 639.36
        ((1000, 667), (640, 426)),  # 426.88: what is left over is cut off, not rounded
        ((333, 500), (426, 640)),  # 426.24
        ((10000, 1), (640, 1)),
    ],
)
def test_a_letterbox_in_the_corner_rounds_down(source, expected):
    assert place(Layout(640, 640, Resize.TOP_LEFT), *source) == Placement(0, 0, *expected, *source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((1280, 720), (-87, 0, 398, 224)),
        ((500, 333), (-56, 0, 336, 224)),
        ((224, 224), (0, 0, 224, 224)),
        ((100, 400), (0, -336, 224, 896)),
    ],
)
def test_a_crop_covers_the_input(source, expected):
    placement = place(Layout(224, 224, Resize.CENTER_CROP), *source)
    assert (placement.left, placement.top, placement.width, placement.height) == expected


def test_stretching_fills_the_input():
    assert place(Layout(320, 200, Resize.STRETCH), 1280, 720) == Placement(0, 0, 320, 200, 1280, 720)


@given(st.tuples(sides, sides), st.tuples(st.integers(1, 2000), st.integers(1, 2000)), st.sampled_from(Resize))
def test_the_picture_lies_inside_and_its_corners_come_back(source, size, resize):
    placement = place(Layout(*size, resize), *source)
    right, bottom = placement.left + placement.width, placement.top + placement.height
    for start, end, side in ((placement.left, right, size[0]), (placement.top, bottom, size[1])):
        inside = start >= 0 and end <= side
        covering = start <= 0 and end >= side
        assert covering if resize is Resize.CENTER_CROP else inside
    corners = placement.to_source(np.array([[placement.left, placement.top, right, bottom]], np.float32))
    np.testing.assert_allclose(corners, [[0, 0, *source]], rtol=1e-6, atol=1e-3)


def test_what_reaches_out_of_the_picture_is_clipped():
    placement = place(Layout(640, 640), 1280, 720)
    boxes = placement.to_source(np.array([[-10, 100, 700, 600], [0, 0, 5, 5]], np.float32))
    assert boxes.tolist() == [[0, 0, 1280, 720], [0, 0, 10, 0]]
    assert boxes.dtype == np.float32


def test_points_come_back_as_corners_do():
    placement = place(Layout(640, 640), 1280, 720)
    points = placement.to_source(np.array([[[320, 320], [0, 140]]], np.float32))
    assert points.tolist() == [[[640, 360], [0, 0]]]


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (1, 1, Resize.LETTERBOX, 256), (1, 1, Resize.LETTERBOX, -1)])
def test_a_layout_checks_itself(arguments):
    with pytest.raises(ValueError, match="expected"):
        Layout(*arguments)


def test_a_picture_without_pixels_has_no_place():
    with pytest.raises(ValueError, match="0x5"):
        place(Layout(1, 1), 0, 5)
