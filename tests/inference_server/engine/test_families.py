"""Each family's real files: loaded, run and read by the server, against the file as exported and plain loops."""

import heads
import numpy as np
import plain
import pytest
from onnx import helper

from inference_server.detection import Options, place

COUNT, SIZE = 208, 64
SOURCES = [(64, 64), (128, 96), (75, 133), (61, 30), (40, 57)]


def pictures(count, seed=3):
    """(count, 64, 64, 3) uint8: patches of colour, and noise upon them."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, 256, (count, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(patches + random.normal(0, 12, patches.shape), 0, 255).astype(np.uint8)


def run_original(original, model, frames):
    return original(model, (frames.astype(np.float32) / 255).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("end2end", [False, True])
@pytest.mark.parametrize("task", heads.TASKS)
def test_objects_are_those_of_plain_loops_on_the_file_as_exported(loaded, original, task, end2end):
    model = heads.build(task, end2end=end2end)
    served = loaded(model)
    assert served.family.name == f"yolo-{task}" + ("-end2end" if end2end else "")
    frames = pictures(COUNT)
    outputs = run_original(original, model, frames)
    # Of 28 masks in a picture twelve are enough: a plain one takes a millisecond.
    options = Options(confidence_threshold=0.6, iou_threshold=0.5, max_detections=12 if task == "segment" else 300)
    count = 0
    for start in range(0, COUNT, served.max_batch):
        for index, answer in enumerate(served.run(list(frames[start : start + served.max_batch])), start):
            source = SOURCES[index % len(SOURCES)]
            expected = plain.find(
                task,
                [output[index] for output in outputs],
                source,
                classes=3,
                end2end=end2end,
                options=options,
                keypoints=heads.KEYPOINTS,
            )
            plain.same(served.family.decode(answer, place(served.layout, *source), options), expected)
            count += len(expected)
    assert count > 2 * COUNT


def test_classes_are_those_of_the_file_as_exported(loaded, original):
    model = heads.build("classify", classes=7)
    served = loaded(model)
    frames = pictures(COUNT)
    (outputs,) = run_original(original, model, frames)
    for frame, scores in zip(frames, outputs, strict=True):
        found = served.family.decode(served.run([frame])[0], place(served.layout, 64, 64), served.defaults)
        best = sorted(range(7), key=lambda index: -scores[index])[:5]
        assert found.class_ids.tolist() == best
        np.testing.assert_allclose(found.scores, scores[best], atol=1e-3)


@pytest.mark.parametrize("end2end", [False, True])
@pytest.mark.parametrize("task", heads.TASKS)
def test_what_an_older_exporter_leaves_unsaid_follows_from_the_shapes(loaded, task, end2end):
    model = heads.build(task, end2end=end2end)
    keys = {"end2end", "description"}
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key not in keys}
    helper.set_model_props(model, kept)
    assert loaded(model).family.name == f"yolo-{task}" + ("-end2end" if end2end else "")


def test_the_comparison_sees_a_difference(loaded, original):
    model = heads.build("segment")
    served = loaded(model)
    (frame,) = pictures(1)
    expected = plain.find(
        "segment",
        [output[0] for output in run_original(original, model, frame[None])],
        (64, 64),
        classes=3,
        end2end=False,
        options=Options(),
    )
    found = served.family.decode(served.run([frame])[0], place(served.layout, 64, 64), Options())
    plain.same(found, expected)
    expected[0]["mask"] = ~expected[0]["mask"]
    with pytest.raises(AssertionError):
        plain.same(found, expected)
