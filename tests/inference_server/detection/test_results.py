import pytest

from inference_server.detection import Options
from inference_server.errors import InvalidField


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("confidence_threshold", -0.1),
        ("confidence_threshold", 1.1),
        ("confidence_threshold", float("nan")),
        ("iou_threshold", 2),
        ("iou_threshold", float("nan")),
        ("max_detections", 0),
        ("max_detections", 10_001),
    ],
)
def test_options_check_themselves_and_name_the_field(field, value):
    with pytest.raises(InvalidField, match=f"{field}: expected .*got"):
        Options(**{field: value})


def test_the_bounds_are_allowed():
    Options(0, 0, 1)
    Options(1, 1, 10_000)
