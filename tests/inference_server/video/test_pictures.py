"""Pictures on their own: JPEG, PNG and raw pixels."""

from __future__ import annotations

import asyncio
import gc
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from inference_server.detection import Layout, Resize, place
from inference_server.errors import InvalidPicture, UnsupportedVideo, VideoLimitExceeded
from inference_server.video import DecoderPool, DecoderSettings, EncodedPicture, Picture, RawPicture

LAYOUT = Layout(64, 64)


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def letterbox(image: Image.Image, layout: Layout) -> NDArray[np.uint8]:
    spot = place(layout, image.width, image.height)
    whole = Image.new("RGB", (layout.width, layout.height), (layout.fill,) * 3)
    scaled = image.convert("RGB").resize((spot.width, spot.height), Image.Resampling.BILINEAR)
    whole.paste(scaled, (spot.left, spot.top))
    return np.asarray(whole, np.uint8)


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.fixture
def image(tools: Any) -> Image.Image:
    return Image.fromarray(tools.scene(9, 120, 80))


async def test_pictures_come_out_in_order(pool: DecoderPool, image: Image.Image) -> None:
    small = image.resize((31, 63))
    pictures: list[Picture] = [
        EncodedPicture(file(image, "JPEG", quality=98, subsampling=0)),
        RawPicture(31, 63, small.tobytes()),
        EncodedPicture(file(image, "PNG")),
        EncodedPicture(file(image.convert("RGBA"), "PNG")),
        EncodedPicture(file(image.convert("L"), "PNG")),
    ]
    expected = [image, small, image, image, image.convert("L")]

    async with pool.prepare_pictures(pictures, LAYOUT) as prepared:
        assert [frame.frame_index for frame in prepared] == [0, 1, 2, 3, 4]
        assert [(frame.width, frame.height) for frame in prepared] == [i.size for i in expected]
        assert all(frame.pts is None and frame.target.layout == LAYOUT for frame in prepared)
        for frame, original in zip(prepared, expected, strict=True):
            assert difference(frame.pixels, letterbox(original, LAYOUT)) <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_pictures_are_turned_as_the_camera_was_held(
    pool: DecoderPool, image: Image.Image, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file(image, "JPEG", exif=exif, quality=98, subsampling=0)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))

    async with pool.prepare_pictures([EncodedPicture(data)], LAYOUT) as (frame,):
        assert (frame.width, frame.height) == upright.size
        assert difference(frame.pixels, letterbox(upright, LAYOUT)) <= 6


async def test_stretching(pool: DecoderPool, image: Image.Image) -> None:
    layout = Layout(40, 64, Resize.STRETCH)
    async with pool.prepare_pictures([RawPicture(120, 80, image.tobytes())], layout) as (frame,):
        assert difference(frame.pixels, letterbox(image, layout)) <= 6


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (b"", UnsupportedVideo, r"frames\[1\]: expected a JPEG or PNG file"),
        (b"GIF89a", UnsupportedVideo, r"frames\[1\]: expected a JPEG or PNG file"),
        (b"\xff\xd8\xff\xe0\0", InvalidPicture, r"frames\[1\]: mjpeg: its header is damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), InvalidPicture, r"frames\[1\]: png: its header is damaged"),
    ],
)
async def test_a_bad_picture_is_named(
    pool: DecoderPool, image: Image.Image, bad: bytes, error: type[Exception], message: str
) -> None:
    good = EncodedPicture(file(image, "PNG"))
    with pytest.raises(error, match=message):
        async with pool.prepare_pictures([good, EncodedPicture(bad), good], LAYOUT):
            pass


async def test_a_cut_off_picture_is_named(pool: DecoderPool, image: Image.Image) -> None:
    data = file(image, "PNG")
    with pytest.raises(InvalidPicture, match=r"frames\[0\]: png: it does not decode"):
        async with pool.prepare_pictures([EncodedPicture(data[: len(data) // 2])], LAYOUT):
            pass


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "raw"])
async def test_pictures_over_the_limit_are_refused_before_they_are_decoded(
    spool: Path, image: Image.Image, kind: str
) -> None:
    picture = RawPicture(120, 80, image.tobytes()) if kind == "raw" else EncodedPicture(file(image, kind))
    async with DecoderPool(DecoderSettings(spool_folder=spool, max_pixels=9599)) as pool:
        with pytest.raises(VideoLimitExceeded, match=r"frames\[0\]: max_pixels: expected at most 9599, got 120x80"):
            async with pool.prepare_pictures([picture], LAYOUT):
                pass


async def test_sixty_four_large_pictures_at_once(pool: DecoderPool) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8).tobytes()
    async with pool.prepare_pictures([RawPicture(400, 300, noise)] * 64, Layout(320, 320)) as prepared:
        assert len(prepared) == 64
        assert all(np.array_equal(frame.pixels, prepared[0].pixels) for frame in prepared)


async def test_no_pictures(pool: DecoderPool) -> None:
    async with pool.prepare_pictures([], LAYOUT) as prepared:
        assert prepared == []


async def test_requests_run_side_by_side_and_leave_no_process(
    tools: Any, pool: DecoderPool, image: Image.Image
) -> None:
    async def one() -> bytes:
        async with pool.prepare_pictures([EncodedPicture(file(image, "PNG"))], LAYOUT) as (frame,):
            return frame.pixels.tobytes()

    assert len(set(await asyncio.gather(*(one() for _ in range(8))))) == 1
    assert [p for p in tools.workers() if p.status() != psutil.STATUS_ZOMBIE] == []


def test_raw_pictures_have_the_size_they_claim() -> None:
    with pytest.raises(ValueError, match="rgb: expected 2 x 2 x 3 bytes, got 5"):
        RawPicture(2, 2, b"12345")


async def test_pictures_that_do_not_decode_keep_no_memory(pool: DecoderPool) -> None:
    """Not even until the garbage collector comes, to which the memory of frames looks small."""

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("/memfd:")

    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc to count mappings in")
    gc.collect()
    before = mapped()
    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(InvalidPicture):
                async with pool.prepare_pictures([EncodedPicture(b"\x89PNG\r\n\x1a\n" + bytes(100))], LAYOUT):
                    pass
        assert mapped() == before
    finally:
        gc.enable()
