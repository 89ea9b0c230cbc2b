"""The sound videos and pictures that mutations start from, made on the spot: a few small frames in every container."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
from demo import scene
from PIL import Image

os.environ.setdefault("SVT_LOG", "1")  # errors alone

SIZE = (128, 96)
FRAMES = 8
_FRONT = {"movflags": "faststart"}
_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
# A frame of each kind, and more than one key frame.
_X264 = {"preset": "veryfast", "bf": "2", "g": "5", "threads": "1"}
_X265 = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1:keyint=5"}
_VPX = {"deadline": "realtime", "cpu-used": "8", "g": "5"}
_AV1 = {"preset": "12", "svtav1-params": "lp=1:keyint=5"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one video is made: the muxer, the encoder, and the options of each."""

    muxer: str
    encoder: str
    options: Mapping[str, str]
    muxer_options: Mapping[str, str] | None = None
    pixels: str = "yuv420p"


RECIPES: Mapping[str, Recipe] = {
    "mp4-front-h264": Recipe("mp4", "libx264", _X264, _FRONT),
    "mp4-behind-h264": Recipe("mp4", "libx264", _X264),
    "mp4-fragmented-h264": Recipe("mp4", "libx264", _X264, _FRAGMENTED),
    "mp4-front-hevc": Recipe("mp4", "libx265", _X265, _FRONT),
    "mp4-front-av1": Recipe("mp4", "libsvtav1", _AV1, _FRONT),
    "mov-behind-prores": Recipe("mov", "prores", {}, None, "yuv422p10le"),
    "mkv-h264": Recipe("matroska", "libx264", _X264),
    "mkv-hevc": Recipe("matroska", "libx265", _X265),
    "mkv-ffv1": Recipe("matroska", "ffv1", {"level": "3"}),
    "webm-vp8": Recipe("webm", "libvpx", _VPX),
    "webm-vp9": Recipe("webm", "libvpx-vp9", _VPX),
    "webm-av1": Recipe("webm", "libsvtav1", _AV1),
    "ts-h264": Recipe("mpegts", "libx264", _X264),
    "ts-hevc": Recipe("mpegts", "libx265", _X265),
    "ts-mpeg2": Recipe("mpegts", "mpeg2video", {"g": "5"}),
    "avi-mpeg4": Recipe("avi", "mpeg4", {"g": "5"}),
    "avi-mjpeg": Recipe("avi", "mjpeg", {}, None, "yuvj420p"),
    "flv-h264": Recipe("flv", "libx264", _X264),
    "flv-flv1": Recipe("flv", "flv", {"g": "5"}),
    "ivf-vp8": Recipe("ivf", "libvpx", _VPX),
    "ivf-vp9": Recipe("ivf", "libvpx-vp9", _VPX),
    "ivf-av1": Recipe("ivf", "libsvtav1", _AV1),
    "mjpeg": Recipe("mjpeg", "mjpeg", {}, None, "yuvj420p"),
    "raw-h264": Recipe("h264", "libx264", _X264),
    "raw-hevc": Recipe("hevc", "libx265", _X265),
}
"""What the project's FFmpeg can make. A build that lacks an encoder leaves those out, and the report says so."""


def videos() -> tuple[dict[str, bytes], list[str]]:
    """The videos by name, and the names of those that this FFmpeg has no encoder for."""
    made, missing = {}, []
    for name, recipe in RECIPES.items():
        try:
            made[name] = encode(recipe)
        except av.codec.codec.UnknownCodecError:
            missing.append(name)
    return made, missing


def encode(recipe: Recipe, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> bytes:
    """A video of the demo's scene."""
    options = {"fflags": "bitexact", **(recipe.muxer_options or {})}  # without, Matroska has random numbers in it
    with tempfile.NamedTemporaryFile() as file:  # the muxer opens it again to move the index to the front
        with av.open(file.name, "w", format=recipe.muxer, options=options) as container:
            stream: Any = container.add_stream(recipe.encoder, rate=Fraction(25), options=dict(recipe.options))
            stream.width, stream.height, stream.pix_fmt = *size, recipe.pixels
            for index in range(frames):
                container.mux(stream.encode(_picture(index, size)))
            container.mux(stream.encode())
        return Path(file.name).read_bytes()


def pictures() -> dict[str, bytes]:
    """JPEG, also progressive, and PNG, also with a palette."""
    picture = Image.fromarray(scene.render(0, SIZE))
    variants: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "jpeg": (picture, "JPEG", {"quality": 85}),
        "jpeg-progressive": (picture, "JPEG", {"progressive": True}),
        "jpeg-grey": (picture.convert("L"), "JPEG", {}),
        "png": (picture, "PNG", {}),
        "png-palette": (picture.convert("P"), "PNG", {}),
        "png-alpha": (picture.convert("RGBA"), "PNG", {}),
    }
    made = {}
    for name, (image, kind, options) in variants.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        made[name] = file.getvalue()
    return made


@cache
def _picture(index: int, size: tuple[int, int]) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(scene.render(index, size), format="rgb24")
    frame.pts = index
    return frame
