"""Files as other exporters than Ultralytics write them, through both servers."""

import threading
from itertools import pairwise

import detr_heads
import numpy as np
import plain_heads
import pytest
from harness import PATIENCE

from inference_server.detection import Detections, Options

KINDS = dict(enumerate(plain_heads.FAMILIES, start=1))
OPTIONS = Options(confidence_threshold=0.5, iou_threshold=0.5)
SIZE = detr_heads.SIZE


@pytest.fixture
def models(pair, tmp_path):
    """A running pair and, by version, a model of each kind: registered, the first in production."""
    pair.start_registry()
    built = {version: detr_heads.build(kind) for version, kind in KINDS.items()}
    for version, model in built.items():
        path = tmp_path / f"{version}.onnx"
        path.write_bytes(model.SerializeToString())
        pair.register(path, version)
    pair.activate(1)
    pair.start_inference()
    pair.wait_until_running(1)
    return built


def test_every_family_is_answered_as_by_plain_loops(pair, models):
    random = np.random.default_rng(3)
    picture = random.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    for version, kind in KINDS.items():
        family, _, plain = plain_heads.FAMILIES[kind]
        pair.activate(version)
        served = pair.wait_until_running(version)
        assert served.family == family
        exported = plain_heads.outputs_as_exported(models[version], kind, picture[None])
        outputs = {name: array[0] for name, array in exported.items()}
        answer = pair.answer(picture, confidence_threshold=0.5, iou_threshold=0.5)
        found = arrays(answer)
        expected = plain(outputs, (SIZE, SIZE), (SIZE, SIZE), OPTIONS)
        assert expected
        plain_heads.assert_same(found, expected, pixels=1, score=1e-3)
        if found.masks is not None:
            plain_heads.assert_same_masks(found, outputs, (SIZE, SIZE))
        names = list(served.class_names) or ["class0", "class1", "class2"]  # `detr` files say not even how many
        assert {item.class_name for item in answer.detections} <= set(names)


def arrays(answer):
    boxes = [(item.box.x_min, item.box.y_min, item.box.x_max, item.box.y_max) for item in answer.detections]
    masks = [np.array(item.mask.run_lengths.counts) for item in answer.detections if item.HasField("mask")]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([item.score for item in answer.detections], np.float32),
        np.array([item.class_id for item in answer.detections], np.int64),
        masks=tuple(masks) if masks else None,
    )


def test_one_stream_goes_through_all_families(pair, models, video):
    """Stretched, letterboxed in the middle and in the corner: each frame is placed as its own version wants it."""
    whole, begun = video.read_bytes(), threading.Event()
    half = len(whole) // 2
    step = half // (len(KINDS) - 1)

    def upload():
        yield whole[:half]
        assert begun.wait(PATIENCE), "the first frame is answered"
        for version in list(KINDS)[1:]:
            pair.activate(version)
            pair.wait_until_running(version)
            yield whole[half + (version - 2) * step : half + (version - 1) * step]
        yield whole[half + (len(KINDS) - 1) * step :]

    frames = []
    stream = pair.analyze(upload())
    for frame in stream:
        begun.set()
        frames.append(frame)
    assert [frame.frame_index for frame in frames] == list(range(120))
    versions = [frame.model_version for frame in frames]
    assert all(before <= after for before, after in pairwise(versions))
    assert (versions[0], versions[-1]) == (1, len(KINDS))
    assert sum(stream.summary.frames_per_version.values()) == 120
    served = pair.serving()
    assert (served.frames_failed, served.swaps) == (0, len(KINDS) - 1)
    for frame in frames:
        for box in (detection.box for detection in frame.detections):
            assert 0 <= box.x_min <= box.x_max <= frame.width
            assert 0 <= box.y_min <= box.y_max <= frame.height
