"""What counts for a frame: what the request names, and the defaults of the version that answers for the rest."""

from types import SimpleNamespace

import pytest

from inference_server.asking import Analysis
from inference_server.detection import Options


def model(*class_names, **defaults):
    return SimpleNamespace(defaults=Options(**defaults), family=SimpleNamespace(class_names=class_names))


def test_what_a_request_leaves_open_is_each_versions_own():
    analysis = Analysis({"iou_threshold": 0.3})
    strict, lenient = model("a", confidence_threshold=0.9, max_detections=5), model("a", iou_threshold=0.8)
    assert analysis.options_for(strict) == Options(0.9, 0.3, 5)
    assert analysis.options_for(lenient) == Options(iou_threshold=0.3)
    assert Analysis().options_for(lenient) == Options(iou_threshold=0.8)


@pytest.mark.parametrize(("field", "value"), [("confidence_threshold", 0.0), ("iou_threshold", 1.0)])
def test_what_a_request_names_goes_first_whatever_it_is(field, value):
    assert getattr(Analysis({field: value}).options_for(model("a", **{field: 0.5})), field) == value


def test_classes_are_those_that_the_version_calls_so():
    analysis = Analysis(class_names=("person", "dog"))
    assert analysis.options_for(model("dog", "cat", "person")).class_ids == {0, 2}
    assert analysis.options_for(model("person")).class_ids == {0}
    assert analysis.options_for(model("cat")).class_ids == frozenset()
    assert Analysis().options_for(model("cat")).class_ids is None
