"""What the index of an MP4 tells before a picture is decoded, and that nothing else changes where it does."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.video import source
from inference_server.video.containers import index_end
from inference_server.video.foretold import foretold

FASTSTART = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
HEAD = b"\0\0\0\x08vmhd"


def index_of(data: bytes) -> bytes:
    return data[: index_end(data)]


def seen(tools: Any, data: bytes) -> tuple[Any, ...]:
    """All that a video is told of, and its frames; and whether a picture was decoded to open it."""
    with tools.opened(data) as opened:
        untouched = opened._stream.codec_context.pix_fmt is None
        described = opened.info(160, 96)
        frames = [
            (frame.pts, opened.time_base(frame), frame.width, frame.height, [bytes(plane) for plane in frame.planes])
            for frame, _ in opened.frames()
        ]
        return (
            described,
            opened.frame_rate,
            opened.pixel_shape,
            opened.truncated,
            opened.corrupt_packets,
            frames,
        ), untouched


@pytest.mark.parametrize(
    ("pix_fmt", "params"),
    [
        ("yuv420p", ""),
        ("yuv420p", "bframes=0"),
        ("yuv420p", "bframes=5:b-pyramid=strict"),
        ("yuv420p", "interlaced=1"),
        ("yuv420p", "nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500"),
        ("yuv420p", "colorprim=bt709:transfer=bt709:colormatrix=bt709:overscan=show:chromaloc=1"),
        ("yuv444p", ""),
        ("yuv420p10le", ""),
    ],
)
def test_no_picture_is_decoded_only_to_open_a_video_and_all_else_is_the_same(
    tools: Any, monkeypatch: pytest.MonkeyPatch, pix_fmt: str, params: str
) -> None:
    data = tools.encode(pix_fmt=pix_fmt, options=FASTSTART, codec_options={"x264-params": params})
    assert foretold(index_of(data))
    told, untouched = seen(tools, data)
    monkeypatch.setattr(source, "foretold", lambda _: False)
    expected, before = seen(tools, data)
    assert untouched
    assert not before
    assert told == expected


@pytest.mark.parametrize(
    "what",
    [
        {"pixel_shape": Fraction(4, 3)},
        {"options": FRAGMENTS},
        {"codec": "mpeg4"},
        {"codec": "libx265", "codec_options": {"x265-params": "log-level=none"}},
    ],
)
def test_ffmpeg_looks_for_itself_at_all_other_videos(tools: Any, what: dict[str, Any]) -> None:
    data = tools.encode(**{"options": FASTSTART, **what})
    assert index_of(data)
    assert not foretold(index_of(data))


def test_an_index_at_the_end_tells_nothing_before(tools: Any) -> None:
    assert not foretold(index_of(tools.encode()))


class Writer:
    """A sequence parameter set, bit by bit."""

    def __init__(self) -> None:
        self.bits = ""

    def flags(self, *values: int) -> Writer:
        self.bits += "".join(map(str, values))
        return self

    def fixed(self, value: int, bits: int) -> Writer:
        self.bits += f"{value:0{bits}b}"
        return self

    def codes(self, *values: int) -> Writer:
        for value in values:
            binary = f"{value + 1:b}"
            self.bits += "0" * (len(binary) - 1) + binary
        return self

    def set(self) -> bytes:
        bits = self.bits + "1"
        bits += "0" * (-len(bits) % 8)
        content = int(bits, 2).to_bytes(len(bits) // 8, "big")
        escaped, zeros = bytearray(b"\x67"), 0
        for byte in content:
            if zeros >= 2 and byte <= 3:
                escaped.append(3)
                zeros = 0
            escaped.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes(escaped)


def index_with(parameter_set: bytes, sets: int = 1) -> bytes:
    length = len(parameter_set).to_bytes(2, "big")
    return HEAD + b"avcC\x01\x42\0\x1e\xff" + bytes([0xE0 | sets]) + length + parameter_set


def baseline(order: Sequence[int] = (2,)) -> Writer:
    """A plain one of 320 x 240; `order`: pic_order_cnt_type and what belongs to it."""
    return picture(Writer().fixed(66, 8).fixed(0, 8).fixed(30, 8).codes(0), order)


def high(matrix: int) -> Writer:
    """One of the High profile: 4:2:0, 8 bits."""
    return picture(Writer().fixed(100, 8).fixed(0, 8).fixed(30, 8).codes(0, 1, 0, 0).flags(0, matrix), (2,))


def picture(written: Writer, order: Sequence[int]) -> Writer:
    """The rest of a set up to vui_parameters_present_flag."""
    written.codes(0, order[0])
    if order[0] == 1:
        written.flags(0).codes(*order[1:])
    else:
        written.codes(*order[1:])
    return written.codes(1).flags(0).codes(19, 14).flags(1, 1, 0)


def usability(written: Writer, *, restricted: int) -> Writer:
    return written.flags(1, 0, 0, 0, 0, 0, 0, 0, 0, restricted)


@pytest.mark.parametrize("order", [(2,), (0, 4), (1, 3, 5, 2, 7, 9)])
def test_the_order_is_told_where_the_set_restricts_it(order: tuple[int, ...]) -> None:
    assert foretold(index_with(usability(baseline(order), restricted=1).set()))
    assert not foretold(index_with(usability(baseline(order), restricted=0).set()))
    assert not foretold(index_with(baseline(order).flags(0).set()))


def test_a_set_with_a_scaling_matrix_is_left_to_ffmpeg() -> None:
    assert foretold(index_with(usability(high(matrix=0), restricted=1).set()))
    assert not foretold(index_with(usability(high(matrix=1), restricted=1).set()))


@pytest.mark.parametrize(("shape", "told"), [(0, True), (1, True), (2, False), (255, False)])
def test_the_shape_of_pixels_is_square_or_ffmpeg_is_to_say_it(shape: int, told: bool) -> None:
    written = baseline().flags(1, 1).fixed(shape, 8)
    if shape == 255:
        written.fixed(0, 16).fixed(0, 16)
    assert foretold(index_with(written.flags(0, 0, 0, 0, 0, 0, 0, 1).set())) is told


def test_zeros_are_escaped() -> None:
    written = baseline().flags(1, 0, 0, 0, 0, 1).fixed(0, 32).fixed(1, 32).flags(0)  # timing: zeros side by side
    parameter_set = written.flags(0, 0, 0, 1).set()
    assert b"\0\0\3" in parameter_set
    assert foretold(index_with(parameter_set))


def test_several_tracks_or_sets_are_left_to_ffmpeg() -> None:
    parameter_set = usability(baseline(), restricted=1).set()
    assert not foretold(index_with(parameter_set) + HEAD)
    assert not foretold(index_with(parameter_set) + b"avcC")
    assert not foretold(index_with(parameter_set, sets=2))
    assert not foretold(index_with(parameter_set, sets=0))


@given(st.integers(0, 40))
def test_a_set_that_is_cut_tells_nothing(length: int) -> None:
    whole = usability(baseline(), restricted=1).set()
    cut = whole[: min(length, len(whole) - 3)]
    assert not foretold(index_with(cut))


@given(st.binary(max_size=300))
def test_no_bytes_break_it(content: bytes) -> None:
    foretold(HEAD + b"avcC" + content)
    foretold(index_with(b"\x67" + content))
