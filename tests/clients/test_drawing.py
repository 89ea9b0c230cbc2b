"""What is drawn for each task, looked at in single pixels; and pictures that are mirrored or turned."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image
from videoai import annotating, drawing
from videoai.inference.v1 import inference_pb2

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, HEIGHT, GREY = 320, 240, (90, 90, 90)


def drawn(*detections: inference_pb2.Detection, **more: Any) -> np.ndarray[Any, Any]:
    picture = Image.new("RGB", (WIDTH, HEIGHT), GREY)
    result = inference_pb2.FrameResult(
        width=WIDTH, height=HEIGHT, model_name="m", model_version=1, detections=detections, **more
    )
    drawing.annotate(picture, result)
    return np.asarray(picture)


def detection(box: tuple[float, float, float, float] = (100, 100, 200, 200), **more: Any) -> inference_pb2.Detection:
    names = ("x_min", "y_min", "x_max", "y_max")
    return inference_pb2.Detection(
        box=inference_pb2.BoundingBox(**dict(zip(names, box, strict=True))), class_id=1, score=0.9, **more
    )


def is_near(found: np.ndarray[Any, Any], x: int, y: int) -> bool:
    """Whether the class's colour is at a point, or one pixel from it: where lines come to lie is Pillow's to round."""
    return bool((found[y - 1 : y + 2, x - 1 : x + 2] == SHADE).all(axis=2).any())


SHADE = drawing.colour(1)
HALF = tuple((part + 90) // 2 for part in SHADE)


def test_a_mask_is_half_transparent_and_nothing_else_is_touched() -> None:
    counts = [130 * HEIGHT + 120, 60, HEIGHT - 60, 60]
    counts.append(WIDTH * HEIGHT - sum(counts))
    mask = inference_pb2.Mask(run_lengths=inference_pb2.RunLengths(counts=counts))
    found = drawn(detection(mask=mask))
    for x, y in ((130, 120), (130, 179), (131, 120), (131, 179)):
        assert np.abs(found[y, x].astype(int) - HALF).max() <= 1
    for x, y in ((130, 119), (130, 180), (129, 150), (132, 150)):
        assert tuple(found[y, x]) == GREY


def test_an_outline_is_filled() -> None:
    part = inference_pb2.Polygon(points=[120, 130, 160, 130, 160, 170, 120, 170])
    mask = inference_pb2.Mask(polygons=inference_pb2.Polygons(parts=[part]))
    found = drawn(detection(mask=mask))
    assert np.abs(found[130, 120].astype(int) - HALF).max() <= 1
    assert np.abs(found[169, 159].astype(int) - HALF).max() <= 1
    assert tuple(found[129, 120]) == tuple(found[170, 159]) == GREY


def test_masks_that_do_not_fit_are_refused() -> None:
    mask = inference_pb2.Mask(run_lengths=inference_pb2.RunLengths(counts=[7]))
    with pytest.raises(ValueError, match="run_lengths: expected 320 x 240"):
        drawn(detection(mask=mask))


def test_an_oriented_box_is_turned_and_the_upright_one_left_out() -> None:
    turned = inference_pb2.OrientedBox(center_x=150, center_y=150, width=80, height=40, angle=math.pi / 2)
    found = drawn(detection(oriented_box=turned))
    for x, y in ((130, 150), (170, 150), (150, 110), (150, 190)):  # the middles of its edges
        assert is_near(found, x, y)
    for x, y in ((100, 150), (200, 150), (150, 150), (150, 200)):
        assert tuple(found[y, x]) == GREY


def test_a_box_turns_clockwise() -> None:
    turned = inference_pb2.OrientedBox(center_x=150, center_y=150, width=100, height=2, angle=math.pi / 6)
    found = drawn(detection(oriented_box=turned))
    along = round(150 + 40 * math.cos(math.pi / 6)), round(150 + 40 * math.sin(math.pi / 6))
    assert is_near(found, *along)
    assert tuple(found[300 - along[1], along[0]]) == GREY


def keypoints(count: int, **hidden: float) -> list[inference_pb2.Keypoint]:
    """In rows of three."""
    return [
        inference_pb2.Keypoint(x=110 + 40 * (index % 3), y=110 + 12 * (index // 3), score=hidden.get(f"k{index}", 0.9))
        for index in range(count)
    ]


def test_keypoints_that_can_be_seen() -> None:
    found = drawn(detection(keypoints=keypoints(5, k1=0.3)))
    assert tuple(found[110, 110]) == tuple(found[110, 190]) == SHADE
    assert tuple(found[110, 150]) == GREY
    assert tuple(found[122, 130]) == GREY  # five points are nobody's bones


def test_the_bones_of_a_person() -> None:
    points = [inference_pb2.Keypoint(x=150, y=150, score=0.1) for _ in range(17)]
    points[5].CopyFrom(inference_pb2.Keypoint(x=120, y=130, score=0.9))
    points[6].CopyFrom(inference_pb2.Keypoint(x=180, y=130, score=0.9))
    found = drawn(detection(keypoints=points))
    assert tuple(found[130, 150]) == SHADE
    assert tuple(found[150, 150]) == GREY
    points[6].score = 0.4
    assert tuple(drawn(detection(keypoints=points))[130, 150]) == GREY


def test_classes_of_the_whole_picture_stand_below_the_version() -> None:
    classes = [
        inference_pb2.Classification(class_id=index, class_name=f"thing {index}", score=0.5) for index in range(2, 5)
    ]
    column = [tuple(pixel) for pixel in drawn(classifications=classes)[:, 1]]
    order = list(dict.fromkeys(column))
    assert order == [(255, 255, 255), *(drawing.colour(index) for index in range(2, 5)), GREY]


def test_boxes_smaller_than_a_pixel_and_over_the_edge() -> None:
    found = drawn(detection((50.2, 50.2, 50.4, 50.9)), detection((0, 0, WIDTH, HEIGHT)), detection((9, 9, 9, 9)))
    assert tuple(found[50, 50]) == tuple(found[HEIGHT - 1, WIDTH - 1]) == SHADE


def test_names_can_be_read_on_every_colour() -> None:
    def luminance(colour: tuple[int, ...]) -> float:
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (part / 255 for part in colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for class_id in range(200):
        shade = drawing.colour(class_id)
        dark, light = sorted((luminance(shade), luminance(drawing.ink(shade))))
        assert (light + 0.05) / (dark + 0.05) > 4.4


def source(path: Path, matrix: tuple[int, ...]) -> Path:
    """One frame, 64 x 48: red top left, green top right, blue bottom left, white bottom right."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, :32], pixels[24:, 32:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    content[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    return path


ONE, UNIT = 1 << 16, 1 << 30
# Which quarters of the coded frame are seen, row by row, for each a, b, c, d of the display matrix.
POSES = {
    (ONE, 0, 0, ONE): "rgbw",
    (-ONE, 0, 0, ONE): "grwb",
    (ONE, 0, 0, -ONE): "bwrg",
    (-ONE, 0, 0, -ONE): "wbgr",
    (0, ONE, -ONE, 0): "brwg",
    (0, -ONE, ONE, 0): "gwrb",
    (0, ONE, ONE, 0): "rbgw",
    (0, -ONE, -ONE, 0): "wgbr",
}


@pytest.mark.parametrize(("matrix", "seen"), POSES.items())
def test_turned_and_mirrored_videos(tmp_path: Path, matrix: tuple[int, ...], seen: str) -> None:
    a, b, c, d = matrix
    width, height = (64, 48) if a else (48, 64)
    path = source(tmp_path / "source.mp4", (a, b, 0, c, d, 0, 0, 0, UNIT))
    result = inference_pb2.FrameResult(width=width, height=height)
    _, picture = next(annotating.annotated_frames(path, [result]))
    assert picture.size == (width, height)
    quarters = {(255, 0, 0): "r", (0, 255, 0): "g", (0, 0, 255): "b", (255, 255, 255): "w"}
    found = ""
    for y in (height * 3 // 8, height * 7 // 8):  # below the name of the model
        for x in (width // 8, width * 7 // 8):
            near = np.array(picture.getpixel((x, y)), int)
            found += min(quarters.items(), key=lambda item: np.abs(near - item[0]).sum())[1]
    assert found == seen


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("base", [Fraction(1, 90000), Fraction(1001, 30000), Fraction(1, 7)])
def test_every_time_base(tmp_path: Path, suffix: str, base: Fraction) -> None:
    path = tmp_path / f"source{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        step = math.ceil(Fraction(1, 60) / base)
        for count in (3, 4, 6, 7, 11, 20, 21):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.time_base = count * step, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    results = [inference_pb2.FrameResult(frame_index=index, width=64, height=48) for index in range(1, 7)]
    annotating.save_video(path, results, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        copied = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert copied == [time - times[1] for time in times[1:]]
