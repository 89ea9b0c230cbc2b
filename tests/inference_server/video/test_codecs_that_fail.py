"""What PyAV says, besides errors of FFmpeg, of codecs that damaged headers name; fuzzing found both."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from av.codec.codec import UnknownCodecError

from inference_server.errors import CorruptVideo
from inference_server.video.decoding import Decoding, _codec


class Nameless:
    @property
    def codec(self) -> Any:
        raise UnknownCodecError("None")


class Unopened:
    size = 1

    def decode(self, _packet: Any) -> Any:
        raise ValueError("cannot decode unknown codec")


def test_a_codec_that_has_no_name_is_one_without_a_decoder() -> None:
    stream: Any = SimpleNamespace(codec_context=Nameless())
    assert _codec(stream) == "one without a decoder"


def test_a_codec_that_did_not_open_is_the_videos_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding: Any = object.__new__(Decoding)
    decoding._max_pixels = 1
    decoding._wall_clock = False
    decoding._stream = SimpleNamespace(codec_context=Nameless())
    decoding._codec, decoding._parallel = Unopened(), None
    monkeypatch.setattr(decoding, "_demux", lambda: iter([Unopened()]))
    with pytest.raises(CorruptVideo, match="does not take it: cannot decode unknown codec"):
        list(decoding.frames())
