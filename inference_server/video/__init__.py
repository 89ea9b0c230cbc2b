"""Encoded video and pictures in, frames placed in a model's input out; decoding happens in processes of its own.

The server process never loads FFmpeg: the decoders are forked from one that has (`nursery`), one for each
video, and what they say is checked like any other input. Needs a Unix system: Linux for all of the isolation, macOS
for development; not Windows.
"""

from inference_server.video.pool import DecoderPool
from inference_server.video.sandbox import LAYERS
from inference_server.video.settings import DecoderSettings
from inference_server.video.stream import DecodedStream
from inference_server.video.values import (
    EncodedPicture,
    OpenedFile,
    Picture,
    PreparedFrame,
    RawPicture,
    StreamRequest,
    Target,
    VideoInfo,
    VideoSummary,
    WallClock,
)

__all__ = [
    "DecoderPool",
    "LAYERS",
    "DecoderSettings",
    "DecodedStream",
    "PreparedFrame",
    "StreamRequest",
    "OpenedFile",
    "Target",
    "VideoInfo",
    "VideoSummary",
    "WallClock",
    "EncodedPicture",
    "RawPicture",
    "Picture",
]
