"""Which codecs there are, by FFmpeg's names."""

from __future__ import annotations

from collections.abc import Iterable

DEFAULT_CODECS = (
    *("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg"),
    *("h263", "flv1", "prores", "dnxhd", "ffv1", "vc1"),
)
# What an operator may add: codecs in use that strangers have little reason to send.
OTHER_CODECS = (
    *("vvc", "theora", "dirac", "cavs", "wmv1", "wmv2", "wmv3", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3"),
    *("vp3", "vp6", "vp6f", "h261", "h263p", "svq1", "svq3", "rv30", "rv40", "cinepak", "indeo5"),
    *("dvvideo", "cfhd", "jpeg2000", "apv", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "hap", "qtrle"),
    *("png", "gif", "rawvideo", "v210"),
)
CODECS = (*DEFAULT_CODECS, *OTHER_CODECS)

# Sound is not wanted, but without a look at it FFmpeg reads up to eight times as much before it lets a video begin.
SOUND = ("aac", "aac_latm", "ac3", "eac3", "mp1", "mp2", "mp3", "opus", "vorbis")
# Where a decoder is not called like its codec; libraries first.
_DECODERS = {
    "av1": ("libdav1d", "av1"),
    "msmpeg4v3": ("msmpeg4",),
    "mp1": ("mp1float", "mp1"),
    "mp2": ("mp2float", "mp2"),
    "mp3": ("mp3float", "mp3"),
}


def decoders(codecs: Iterable[str]) -> list[str]:
    """The decoders that FFmpeg may open where `codecs` are allowed.

    It opens one for every stream of a file to look at it, whatever is wanted of the file afterwards.
    """
    return [decoder for codec in (*codecs, *SOUND) for decoder in _DECODERS.get(codec, (codec,))]
