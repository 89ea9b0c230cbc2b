import itertools

import av
import numpy as np
import pytest
from demo import models, scene

from inference_server.detection import Options, place
from inference_server.engine import Device, ModelVersion, load

SIZES = [(1280, 720), (720, 1280), (640, 640), (320, 240), (1279, 333)]
INDICES = range(0, 1500, 7)


@pytest.mark.parametrize("size", SIZES)
def test_shapes_stay_in_the_picture_and_apart(size):
    for index in INDICES:
        truth = scene.ground_truth(index, size)
        for _, (x0, y0, x1, y1) in truth:
            assert 0 <= x0 < x1 <= size[0]
            assert 0 <= y0 < y1 <= size[1]
        for (_, a), (_, b) in itertools.combinations(truth, 2):
            assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_every_frame_can_be_made_again():
    for index in (0, 41):
        first = scene.render(index, (320, 180)).copy()
        scene.render(7, (320, 180))
        np.testing.assert_array_equal(scene.render(index, (320, 180)), first)
    assert (scene.render(0, (320, 180)) != scene.render(41, (320, 180))).any()


def test_boxes_are_where_the_colours_are():
    picture = scene.render(12).astype(int)
    red = picture[..., 0] - picture[..., 1:].max(axis=-1) > 90
    for name, (x0, y0, x1, y1) in scene.ground_truth(12):
        if name == "red circle":
            ys, xs = np.nonzero(red[int(y0) - 3 : int(y1) + 4, int(x0) - 3 : int(x1) + 4])
            found = [xs.min() + int(x0) - 3, ys.min() + int(y0) - 3, xs.max() + int(x0) - 2, ys.max() + int(y0) - 2]
            np.testing.assert_allclose(found, (x0, y0, x1, y1), atol=1)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.mp4"
    scene.encode(path, frames=60, fps=25)
    return path


def test_the_video_is_what_it_says(video):
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
        frames = list(container.decode(stream))
    assert [(frame.width, frame.height) for frame in frames] == [(1280, 720)] * 60
    content = video.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # so that it can be analysed while it is uploaded


def test_the_suffix_chooses_the_container(tmp_path):
    for suffix, name in (("mkv", "matroska"), ("ts", "mpegts")):
        scene.encode(tmp_path / f"scene.{suffix}", frames=3, size=(320, 180))
        with av.open(str(tmp_path / f"scene.{suffix}")) as container:
            assert name in container.format.name
            assert len(list(container.decode(video=0))) == 3


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def letterboxed(frame, layout):
    placement = place(layout, frame.width, frame.height)
    scaled = frame.reformat(placement.width, placement.height, "rgb24", interpolation="AREA").to_ndarray()
    square = np.full((layout.height, layout.width, 3), layout.fill, np.uint8)
    square[placement.top : placement.top + placement.height, placement.left : placement.left + placement.width] = scaled
    return square, placement


@pytest.mark.parametrize("version", models.VERSIONS)
def test_each_version_finds_exactly_the_shapes_that_it_knows(video, tmp_path, version):
    models.write(models.VERSIONS[version], tmp_path / "model.onnx")
    model = load(ModelVersion("shapes", version, tmp_path / "model.onnx"), Device("cpu"))
    overlaps = []
    with av.open(str(video)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            square, placement = letterboxed(frame, model.layout)
            found = model.family.decode(model.run([square])[0], placement, Options())
            truth = [(name, box) for name, box in scene.ground_truth(index) if name in models.CLASS_NAMES[version]]
            names = [models.CLASS_NAMES[version][class_id] for class_id in found.class_ids]
            assert sorted(names) == sorted(name for name, _ in truth)
            for name, box in truth:
                boxes = [other for other, other_name in zip(found.boxes, names, strict=True) if other_name == name]
                overlaps.append(max(iou(box, other) for other in boxes))
    model.close()
    print(f"version {version}: mean IoU {np.mean(overlaps):.3f}, lowest {min(overlaps):.3f}")
    assert np.mean(overlaps) > 0.9
    assert min(overlaps) > 0.85
