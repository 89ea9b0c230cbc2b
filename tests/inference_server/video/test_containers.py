"""What a video is, from its first bytes alone."""

from __future__ import annotations

import pytest

from inference_server.video.containers import cut_short, index_end


def box(kind: bytes, size: int) -> bytes:
    return size.to_bytes(4, "big") + kind + bytes(size - 8)


LARGE = (1).to_bytes(4, "big") + b"free" + (24).to_bytes(8, "big") + bytes(8)


@pytest.mark.parametrize(
    ("head", "end"),
    [
        (box(b"ftyp", 24) + box(b"moov", 100) + box(b"mdat", 500), 124),
        (box(b"ftyp", 24) + LARGE + box(b"moov", 100)[:16], 148),
        (box(b"ftyp", 24) + box(b"mdat", 500), 0),
        (box(b"ftyp", 24) + bytes(16), 0),
        (box(b"ftyp", 24), None),
        (box(b"ftyp", 24) + box(b"free", 9000)[:200], None),
        (b"", None),
    ],
)
def test_the_index_is_in_front_or_not_or_more_must_tell(head: bytes, end: int | None) -> None:
    assert index_end(head) == end


def test_an_index_that_claims_no_size_does_not_loop() -> None:
    assert index_end((7).to_bytes(4, "big") + b"free" + bytes(16)) == 0


@pytest.mark.parametrize(
    ("demuxer", "head", "whole"),
    [
        ("avi", b"RIFF" + (92).to_bytes(4, "little") + b"AVI ", 100),
        ("matroska", b"\x1a\x45\xdf\xa3\x82\0\0\x18\x53\x80\x67\x40\x5a" + bytes(90), 103),
        ("mpegts", b"\x47" + bytes(187), 188),
        ("mpegts", bytes(4) + b"\x47" + bytes(187), 192),
    ],
)
def test_an_input_shorter_than_its_container_says_is_cut_short(demuxer: str, head: bytes, whole: int) -> None:
    assert not cut_short(demuxer, head, whole)
    assert cut_short(demuxer, head, whole - 1)


def test_a_matroska_stream_of_unknown_length_is_never_cut_short() -> None:
    head = b"\x1a\x45\xdf\xa3\x82\0\0\x18\x53\x80\x67\x01" + b"\xff" * 7
    assert not cut_short("matroska", head, 5)
    assert not cut_short("matroska", b"\x1a\x45\xdf\xa3", 4)
