"""The encoded input of a decoder, as the file-like object that PyAV reads from."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from inference_server.errors import VideoLimitExceeded
from inference_server.video import limits
from inference_server.video.containers import SNIFF_BYTES, needs_spooling, recognise
from inference_server.video.link import Link

_CHUNK = 256 * 1024
# An MP4 whose index has not come after so many bytes is kept until it has.
_INDEX_WITHIN = 1024 * 1024


@dataclass(slots=True)
class Streamed:
    """Input that is read once, as it comes."""

    link: Link
    head: bytearray = field(default_factory=bytearray)
    ended: bool = False

    def read(self, size: int) -> bytes:
        """Return 1 to `size` bytes, waiting for the first; nothing at the end."""
        if self.head:
            data = bytes(self.head[:size])
            del self.head[:size]
            return data
        data = b"" if self.ended else self.link.read(size)
        self.ended = not data
        return data

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, or as many as there are, without taking them."""
        while len(self.head) < size and not self.ended:
            data = self.link.read(_CHUNK)
            self.ended = not data
            self.head += data
        return bytes(self.head)


@dataclass(slots=True)
class Spooled:
    """Input kept in a file that has no name; it answers the server between reads."""

    link: Link
    fd: int

    def read(self, size: int) -> bytes:
        self.link.serve(wait=False)
        return os.read(self.fd, size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self.fd, offset, whence)

    def tell(self) -> int:
        return os.lseek(self.fd, 0, os.SEEK_CUR)


def open_source(link: Link, spool_folder: Path, max_spool_bytes: int) -> tuple[str, Streamed | Spooled]:
    """Recognise the input: its demuxer, and where to read it from; spooled if it keeps its index at the end.

    Raises UnsupportedVideo and VideoLimitExceeded.
    """
    stream = Streamed(link)
    demuxer = recognise(stream.peek(SNIFF_BYTES))
    if demuxer == "mov" and _index_last(stream):
        return demuxer, _spool(stream, spool_folder, max_spool_bytes)
    return demuxer, stream


def _index_last(stream: Streamed) -> bool:
    wanted = SNIFF_BYTES
    while (answer := needs_spooling(stream.peek(wanted))) is None:
        if stream.ended or wanted > _INDEX_WITHIN:
            return True
        wanted = len(stream.head) + 1
    return answer


def _spool(stream: Streamed, folder: Path, limit: int) -> Spooled:
    limits.limit_file_size(limit)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        size = 0
        while data := stream.read(_CHUNK):
            size += len(data)
            if size > limit:
                raise VideoLimitExceeded(
                    f"max_spool_bytes: an MP4 or MOV that keeps its index at the end may have {limit} bytes; "
                    "move the index to the front (ffmpeg -movflags +faststart) or send another container"
                )
            file.write(data)
        file.seek(0)
        return Spooled(stream.link, os.dup(file.fileno()))
