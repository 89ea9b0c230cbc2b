"""Pixels: a prepared frame against the letterbox of the same frame in RGB, made by Pillow."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inference_server.detection import Layout, Resize, place
from inference_server.errors import VideoLimitExceeded
from inference_server.video import DecoderPool, DecoderSettings, StreamRequest, Target

# libswscale rounds in fixed point and gives 253 for the white of limited range.
TOLERANCE = 6


def letterbox(pixels: NDArray[np.uint8], layout: Layout, displayed: tuple[int, int]) -> NDArray[np.uint8]:
    """The whole picture, displayed as `displayed` (width, height), where it belongs in the layout."""
    spot = place(layout, *displayed)
    scaled = np.asarray(Image.fromarray(pixels).resize((spot.width, spot.height), Image.Resampling.BILINEAR))
    whole = np.full((layout.height, layout.width, 3), layout.fill, np.uint8)
    for y in range(layout.height):
        row, columns = y - spot.top, np.arange(layout.width) - spot.left
        inside = (columns >= 0) & (columns < spot.width)
        if 0 <= row < spot.height:
            whole[y, inside] = scaled[row, columns[inside]]
    return whole


def assert_close(ours: NDArray[np.uint8], reference: NDArray[np.uint8]) -> None:
    difference = np.abs(ours.astype(int) - reference.astype(int))
    assert difference.max() <= TOLERANCE, f"at {np.unravel_index(difference.argmax(), difference.shape)}"
    assert difference.mean() < 1.5


@pytest.mark.parametrize(
    "layout",
    [
        Layout(64, 64),
        Layout(320, 320),
        Layout(63, 97, fill=0),
        Layout(97, 31, fill=255),
        Layout(50, 80, Resize.STRETCH),
        Layout(160, 96),
        Layout(64, 64, Resize.TOP_LEFT),
        Layout(50, 80, Resize.TOP_LEFT, fill=0),
        Layout(200, 40, Resize.TOP_LEFT, fill=255),
        Layout(64, 64, Resize.CENTER_CROP),
        Layout(50, 80, Resize.CENTER_CROP),
        Layout(200, 40, Resize.CENTER_CROP),
    ],
)
async def test_every_layout_equals_a_letterbox(tools: Any, pool: DecoderPool, video: bytes, layout: Layout) -> None:
    decoded = await tools.decode(pool, video, layout=layout)
    for pixels, original in zip(decoded.pixels, tools.rgb(video), strict=True):
        assert_close(pixels, letterbox(original, layout, (160, 96)))


@pytest.mark.parametrize("size", [(161, 97), (33, 200), (17, 1000), (640, 9)])
@pytest.mark.parametrize(
    "layout",
    [Layout(64, 64), Layout(65, 33), Layout(65, 33, Resize.TOP_LEFT), Layout(65, 33, Resize.CENTER_CROP)],
)
async def test_odd_sizes(tools: Any, pool: DecoderPool, size: tuple[int, int], layout: Layout) -> None:
    data = tools.encode("matroska", "ffv1", pix_fmt="bgr0", size=size, count=2)

    decoded = await tools.decode(pool, data, layout=layout)

    assert {(frame.width, frame.height) for frame in decoded.frames} == {size}
    for pixels, original in zip(decoded.pixels, tools.rgb(data), strict=True):
        assert_close(pixels, letterbox(original, layout, size))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (640, 2), (4, 280)])
async def test_tiny_pictures_go_through(tools: Any, pool: DecoderPool, size: tuple[int, int]) -> None:
    decoded = await tools.decode(pool, tools.encode("matroska", "ffv1", pix_fmt="bgr0", size=size, count=2))
    assert [(frame.width, frame.height) for frame in decoded.frames] == [size] * 2


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv422p", "yuvj420p", "yuv420p10le", "gray"])
async def test_pixel_formats(tools: Any, pool: DecoderPool, pix_fmt: str) -> None:
    data = tools.encode("matroska", "libx264", pix_fmt=pix_fmt, count=2)
    decoded = await tools.decode(pool, data)
    for pixels, original in zip(decoded.pixels, tools.rgb(data), strict=True):
        assert_close(pixels, letterbox(original, Layout(64, 64), (160, 96)))


@pytest.mark.parametrize("space", ["bt709", "smpte170m", "bt470bg"])
@pytest.mark.parametrize("range_", ["tv", "pc"])
async def test_colours_are_read_as_tagged(tools: Any, pool: DecoderPool, space: str, range_: str) -> None:
    data = tools.encode("matroska", codec_options={"colorspace": space, "color_range": range_}, count=2)
    decoded = await tools.decode(pool, data)
    for pixels, original in zip(decoded.pixels, tools.rgb(data), strict=True):
        assert_close(pixels, letterbox(original, Layout(64, 64), (160, 96)))


TURNS = [
    ((0,), lambda pixels: pixels),
    ((90,), lambda pixels: np.rot90(pixels)),
    ((180,), lambda pixels: np.rot90(pixels, 2)),
    ((-90,), lambda pixels: np.rot90(pixels, -1)),
    ((0, True, False), lambda pixels: pixels[:, ::-1]),
    ((0, False, True), lambda pixels: pixels[::-1]),
]


@pytest.mark.parametrize(("rotation", "turn"), TURNS)
@pytest.mark.parametrize("container", ["mp4", "matroska"])
async def test_pictures_stand_upright(tools: Any, pool: DecoderPool, container: str, rotation: Any, turn: Any) -> None:
    data = tools.encode(container, rotation=rotation, count=2)

    decoded = await tools.decode(pool, data)

    upright = [np.ascontiguousarray(turn(original)) for original in tools.rgb(data)]
    height, width = upright[0].shape[:2]
    assert (decoded.info.width, decoded.info.height) == (width, height)
    assert {(frame.width, frame.height) for frame in decoded.frames} == {(width, height)}
    for pixels, original in zip(decoded.pixels, upright, strict=True):
        assert_close(pixels, letterbox(original, Layout(64, 64), (width, height)))


@pytest.mark.parametrize(("rotation", "turn"), TURNS)
@pytest.mark.parametrize("resize", [Resize.TOP_LEFT, Resize.CENTER_CROP, Resize.STRETCH])
async def test_pictures_stand_upright_wherever_they_go(
    tools: Any, pool: DecoderPool, resize: Resize, rotation: Any, turn: Any
) -> None:
    data = tools.encode(rotation=rotation, count=2)
    layout = Layout(72, 40, resize)

    decoded = await tools.decode(pool, data, layout=layout)

    upright = [np.ascontiguousarray(turn(original)) for original in tools.rgb(data)]
    for pixels, original in zip(decoded.pixels, upright, strict=True):
        assert_close(pixels, letterbox(original, layout, (original.shape[1], original.shape[0])))


@pytest.mark.parametrize("resize", Resize)
async def test_no_frame_shows_through_the_border_of_another(tools: Any, pool: DecoderPool, resize: Resize) -> None:
    """Slots are used again for frames of another size, and for models of another layout of the same size."""
    wide, tall = tools.encode("h264", count=20), tools.encode("h264", size=(96, 160), count=20)
    layouts = [Layout(64, 64, resize), Layout(64, 64, Resize.CENTER_CROP), Layout(64, 64, Resize.TOP_LEFT, fill=9)]
    originals = tools.rgb(wide) + tools.rgb(tall) + tools.rgb(wide)
    async with await pool.open(StreamRequest(), Target(layouts[0], 0)) as stream:
        tasks = [asyncio.create_task(tools.send(stream, wide + tall + wide))]
        seen = []
        async for frame in stream:
            original, layout = originals[frame.frame_index], layouts[frame.target.generation]
            assert_close(frame.pixels, letterbox(original, layout, (original.shape[1], original.shape[0])))
            seen.append(frame.target.generation)
            frame.release()
            if frame.frame_index in (10, 30):
                tasks.append(asyncio.create_task(stream.retarget(Target(layouts[len(tasks)], len(tasks)))))
        await asyncio.gather(*tasks)
    assert len(seen) == 60
    assert set(seen) == {0, 1, 2}


@pytest.mark.parametrize(("shape", "width"), [(Fraction(2), 320), (Fraction(4, 3), 213), (Fraction(1, 2), 80)])
async def test_pixels_that_are_not_square(tools: Any, pool: DecoderPool, shape: Fraction, width: int) -> None:
    data = tools.encode(pixel_shape=shape, count=2)

    decoded = await tools.decode(pool, data)

    assert (decoded.info.width, decoded.info.height) == (width, 96)
    for pixels, original in zip(decoded.pixels, tools.rgb(data), strict=True):
        assert_close(pixels, letterbox(original, Layout(64, 64), (width, 96)))


async def test_the_limit_holds_for_the_picture_as_displayed(tools: Any, spool: Any) -> None:
    data = tools.encode(pixel_shape=Fraction(2), count=2)
    async with DecoderPool(DecoderSettings(spool_folder=spool, max_pixels=320 * 96 - 1)) as pool:
        with pytest.raises(VideoLimitExceeded, match="max_pixels: expected at most 30719, got 320x96"):
            await tools.decode(pool, data)


async def test_the_size_may_change_on_the_way(tools: Any, pool: DecoderPool) -> None:
    wide, tall = tools.encode("h264", count=5), tools.encode("h264", size=(96, 160), count=5)

    decoded = await tools.decode(pool, wide + tall)

    assert [(frame.width, frame.height) for frame in decoded.frames] == [(160, 96)] * 5 + [(96, 160)] * 5
    for pixels, original in zip(decoded.pixels, tools.rgb(wide) + tools.rgb(tall), strict=True):
        assert_close(pixels, letterbox(original, Layout(64, 64), (original.shape[1], original.shape[0])))
