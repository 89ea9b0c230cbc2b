"""What the decoders are made of. Loads FFmpeg, which the server's own process never does."""

from __future__ import annotations

import av
from av.codec.codec import UnknownCodecError

from inference_server.video.containers import CODECS


def version() -> str:
    """PyAV's version and that of FFmpeg's decoders."""
    return f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def missing() -> list[str]:
    """The codecs of the allow-list that this FFmpeg cannot decode."""
    return [name for name in sorted(CODECS) if not _decodes(name)]


def _decodes(name: str) -> bool:
    try:
        av.codec.Codec(name, "r")
    except UnknownCodecError:
        return False
    return True
