"""The names on the allow-list are FFmpeg's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inference_server.video.codecs import CODECS, DEFAULT_CODECS, SOUND, decoders
from inference_server.video.containers import CONTAINERS

TELL = """
import av
from inference_server.video.codecs import *
for name in (*CODECS, *SOUND):
    found = [av.codec.Codec(decoder, "r") for decoder in decoders([name])[: -len(decoders([]))] or decoders([name])]
    assert {codec.canonical_name for codec in found} == {name} or name in SOUND, (name, found)
print(*av.formats_available)
"""


def test_every_name_is_one_that_the_decoders_know() -> None:
    """In a process of its own: a server, and so its tests of settings, never loads FFmpeg."""
    formats = subprocess.check_output([sys.executable, "-c", TELL], text=True).split()
    assert {name for known in formats for name in known.split(",")} >= {known.demuxer for known in CONTAINERS.values()}


def test_no_other_decoder_is_opened_than_those_for_what_is_allowed() -> None:
    assert decoders(["h264", "av1"])[:3] == ["h264", "libdav1d", "av1"]
    assert not {"hevc", "vp9", "cinepak"} & set(decoders(["h264"]))
    assert set(DEFAULT_CODECS) < set(CODECS)
    assert not set(CODECS) & set(SOUND)


@pytest.mark.parametrize("codec", ["cinepak", "rv40", "rawvideo"])
def test_what_strangers_have_little_reason_to_send_is_off(codec: str) -> None:
    assert codec in CODECS
    assert codec not in DEFAULT_CODECS
