"""Models of every task through both servers, and a swap from one task to another."""

from types import SimpleNamespace

import heads
import numpy as np
import onnxruntime
import plain
import pytest
from harness import NAME, Pair, eventually

from inference_server.detection import Options

TASKS = ("detect", "segment", "pose", "obb", "classify")
OPTIONS = Options(confidence_threshold=0.6, iou_threshold=0.5)


@pytest.fixture(scope="module")
def picture():
    """Patches of colour, as large as the models' input."""
    return np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)


@pytest.fixture
def place_model(pair: Pair, tmp_path):
    """A function that registers a model as a version and returns what runs its file as it is."""

    def place(version, task, **arguments):
        path = tmp_path / f"{task}.onnx"
        path.write_bytes(heads.build(task, **arguments).SerializeToString())
        pair.register(path, version)
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    return place


def test_every_task_is_answered_as_by_plain_loops(pair, place_model, picture):
    pair.start_registry()
    sessions = {task: place_model(version, task) for version, task in enumerate(TASKS, start=1)}
    pair.activate(1)
    pair.start_inference()
    for version, task in enumerate(TASKS, start=1):
        pair.activate(version)
        assert pair.wait_until_running(version).family == f"yolo-{task}"
        outputs = sessions[task].run(None, {"images": (picture.astype(np.float32) / 255).transpose(2, 0, 1)[None]})
        if task == "classify":
            check_classes(pair.answer(picture), outputs[0][0])
        else:
            answer = pair.answer(picture, confidence_threshold=0.6, iou_threshold=0.5)
            check_objects(answer, task, [output[0] for output in outputs])


def check_classes(answer, scores):
    assert [item.class_id for item in answer.classifications] == np.argsort(-scores).tolist()
    np.testing.assert_allclose([item.score for item in answer.classifications], np.sort(scores)[::-1], atol=1e-3)
    assert [item.class_name for item in answer.classifications] == [
        f"thing {item.class_id}" for item in answer.classifications
    ]
    assert not answer.detections


def check_objects(answer, task, outputs):
    expected = plain.find(task, outputs, (64, 64), classes=3, end2end=False, options=OPTIONS, keypoints=heads.KEYPOINTS)
    assert len(expected) > 5
    plain.same(arrays(answer), expected)
    for detection in answer.detections:
        assert detection.class_name == f"thing {detection.class_id}"
        assert len(detection.keypoints) == (3 if task == "pose" else 0)
        assert detection.HasField("mask") == (task == "segment")
        assert detection.HasField("oriented_box") == (task == "obb")


class Objects(SimpleNamespace):
    def __len__(self):
        return len(self.scores)


def arrays(answer):
    """The detections of an answer, as the server had them before they were sent."""
    rows = answer.detections
    turned = [
        (box.center_x, box.center_y, box.width, box.height, box.angle) for box in (one.oriented_box for one in rows)
    ]
    return Objects(
        boxes=np.array([(one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max) for one in rows], np.float32),
        scores=np.array([one.score for one in rows], np.float32),
        class_ids=np.array([one.class_id for one in rows], np.int64),
        keypoints=np.array([[(point.x, point.y, point.score) for point in one.keypoints] for one in rows]),
        masks=[list(one.mask.run_lengths.counts) for one in rows],
        oriented_boxes=np.array(turned, np.float32),
    )


def test_a_stream_goes_on_from_boxes_to_masks_of_a_larger_input(pair, place_model, video):
    pair.start_registry()
    place_model(1, "detect")
    place_model(2, "segment", size=96)
    pair.activate(1)
    pair.start_inference()
    pair.wait_until_running(1)
    whole = video.read_bytes()
    begun, swapped = [], []

    def upload():
        yield whole[: len(whole) // 2]
        eventually(lambda: begun, "frames are answered")
        pair.activate(2)
        swapped.append(pair.wait_until_running(2))
        yield whole[len(whole) // 2 :]

    frames = []
    for frame in pair.analyze(upload(), confidence_threshold=0.6, max_detections=20):
        begun.append(frame.frame_index)
        frames.append(frame)
    assert [frame.frame_index for frame in frames] == list(range(120))
    versions = [frame.model_version for frame in frames]
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}
    masks = {1: 0, 2: 0}
    for frame in frames:
        for detection in frame.detections:
            counts = detection.mask.run_lengths.counts
            masks[frame.model_version] += bool(counts)
            assert sum(counts) in ((640 * 360,) if frame.model_version == 2 else (0,))
    assert masks[1] == 0 < masks[2]
    served = pair.serving(NAME)
    assert (served.family, served.frames_answered, served.frames_failed) == ("yolo-segment", 120, 0)
