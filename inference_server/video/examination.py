"""What the decoders are made of. Loads FFmpeg, which the server's own process never does."""

from __future__ import annotations

from collections.abc import Iterable

import av
from av.codec.codec import UnknownCodecError


def version() -> str:
    """PyAV's version and that of FFmpeg's decoders."""
    return f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def missing(codecs: Iterable[str]) -> list[str]:
    """Those of `codecs`, the allow-list, that this FFmpeg cannot decode."""
    return [name for name in sorted(codecs) if not _decodes(name)]


def _decodes(name: str) -> bool:
    try:
        av.codec.Codec(name, "r")
    except UnknownCodecError:
        return False
    return True
