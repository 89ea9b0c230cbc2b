"""What a video is, from its first bytes alone."""

from __future__ import annotations

import pytest

from inference_server.errors import UnsupportedVideo
from inference_server.video.containers import CONTAINERS, DEFAULT_CONTAINERS, cut_short, index_end, recognise


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


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "an empty input"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://169.254.169.254/latest\n", "a playlist (M3U, HLS)"),
        (b"\xef\xbb\xbf  #EXTM3U8\n", "a playlist (M3U, HLS)"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "a list of files to join (ffconcat)"),
        (b"file '/etc/passwd'\n", "a list of files to join (ffconcat)"),
        (b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">', "a manifest (MPEG-DASH)"),
        (b"<SmoothStreamingMedia MajorVersion='2'>", "a manifest (Smooth Streaming)"),
        (b"<!DOCTYPE HTML><title>404</title>", "a web page (HTML)"),
        (b"<svg width='1'>", "XML"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "a session description (SDP)"),
        (b"[playlist]\nFile1=http://127.0.0.1/\n", "a playlist (PLS, ASX)"),
        (b";FFMETADATA1\n", "metadata (FFmpeg)"),
        (b"rtsp://user:secret@camera/stream", "an address"),
        (b"concat:/etc/passwd|/etc/hosts", "an address"),
        (b"subfile:,,start,0,end,9,,:/etc/passwd", "an address"),
        (b"RIFF\0\0\0\0WAVEfmt ", "sound"),
        (b"GIF89a" + bytes(500), "a picture"),
        (b"PK\x03\x04", "a document or an archive"),
    ],
)
def test_what_is_no_video_is_called_by_its_name(head: bytes, what: str) -> None:
    with pytest.raises(UnsupportedVideo) as refused:
        recognise(head, DEFAULT_CONTAINERS)
    assert f"MPEG-TS, AVI, FLV, IVF, Motion JPEG, raw H.264 (Annex B), raw HEVC (Annex B), got {what}" in str(
        refused.value
    )
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("head", [bytes(4096), b"\0\0\1\x11", b"\x47" + bytes(600), b"hello, world" * 50])
def test_what_nobody_knows_is_shown_by_its_beginning(head: bytes) -> None:
    with pytest.raises(UnsupportedVideo, match="got one that begins with b'"):
        recognise(head, CONTAINERS)


def test_a_container_that_is_not_allowed_is_named() -> None:
    with pytest.raises(UnsupportedVideo, match="expected MPEG-TS, got Ogg, which is not allowed here"):
        recognise(b"OggS\0\2", ["mpegts"])
    assert recognise(b"OggS\0\2", ["mpegts", "ogg"]) == "ogg"
