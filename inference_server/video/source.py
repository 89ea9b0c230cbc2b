"""The encoded input of a decoder, as the file-like object that PyAV reads from."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from inference_server.errors import DecoderFailed, VideoLimitExceeded
from inference_server.video import limits
from inference_server.video.containers import SNIFF_BYTES, cut_short, index_end, recognise
from inference_server.video.foretold import foretold
from inference_server.video.link import Link
from inference_server.video.settings import DecoderSettings

_CHUNK = 256 * 1024
_BUFFER = 64 * 1024
# An MP4 whose index does not end within so many bytes is kept until all of it is there.
_INDEX_WITHIN = 32 * 1024 * 1024
# What is read of an input while it is opened is kept up to this, and so much of one picture is waited for at once.
_BEGINNING = _AWAITED = 8 * 1024 * 1024


@dataclass(slots=True)
class Streamed:
    """Input that is read once, as it comes. `start`: its first bytes; `size`: how many have come. `foretold`: of
    an MP4's index, see there.

    Reading raises VideoLimitExceeded beyond `limit` bytes; 0 is no limit.
    """

    link: Link
    limit: int = 0
    start: bytes = b""
    head: bytearray = field(default_factory=bytearray)
    size: int = 0
    ended: bool = False
    buffer_size: int = _BUFFER
    foretold: bool = False
    _beginning: bytearray = field(default_factory=bytearray)
    _keeping: bool = False

    def read(self, size: int) -> bytes:
        """Return 1 to `size` bytes, waiting for the first; nothing at the end."""
        if self.head:
            data = bytes(self.head[:size])
            del self.head[:size]
        else:
            data = self._receive(size)
        if self._keeping:
            self._beginning += data
        return data

    def keep(self) -> None:
        """Keep what is read from here on, so that `again` can give it."""
        self._keeping = True

    def kept(self) -> bool:
        """Keep no more of what is read; whether `again` can give what was: not if that is large."""
        self._keeping = False
        if len(self._beginning) > _BEGINNING:
            self._beginning.clear()
        return bool(self._beginning)

    @contextmanager
    def again(self) -> Iterator[Streamed]:
        """The input from its beginning, to be read meanwhile: what was kept of it."""
        yield Streamed(
            self.link, head=self._beginning, ended=True, buffer_size=self.buffer_size, foretold=self.foretold
        )

    def has(self, end: int, seconds: float) -> bool:
        """Whether the first `end` bytes of the input, or all of it, are here; waits for each so long at most."""
        while self.size < end and not self.ended:
            if end - self.size > _AWAITED or not self.link.readable(seconds):
                return False
            try:
                self.head += self._receive(_BUFFER)
            except VideoLimitExceeded:  # again, once what is here has been read
                return False
        return True

    def peek(self, size: int) -> bytearray:
        """Wait for the next `size` bytes, or as many as there are; all that have come and are not taken yet."""
        while len(self.head) < size and not self.ended:
            self.head += self._receive(_CHUNK)
        return self.head

    def cut_short(self, demuxer: str) -> bool:
        """Whether the input has ended before the end that its container states."""
        return self.ended and cut_short(demuxer, self.start, self.size)

    def _receive(self, size: int) -> bytes:
        _check_size(self.size, self.limit)
        data = b"" if self.ended else self.link.read(size)
        self.size += len(data)
        _check_size(self.size, self.limit)
        self.ended = not data
        return data


@dataclass(slots=True)
class Spooled:
    """Input kept in a file, without a name or opened by the server; it answers the server between reads."""

    link: Link
    fd: int
    buffer_size: int = _BUFFER

    @property
    def foretold(self) -> bool:
        """As of input that is streamed; False where the index of an MP4 is not in front."""
        end = index_end(os.pread(self.fd, _BUFFER, 0))
        return bool(end) and foretold(os.pread(self.fd, min(end or 0, _INDEX_WITHIN), 0))

    def read(self, size: int) -> bytes:
        self.link.serve(wait=False)
        return os.read(self.fd, size)

    def keep(self) -> None:
        """Nothing to do: a file stays."""

    def kept(self) -> bool:
        """As of input that is streamed: it can always be read again."""
        return True

    @contextmanager
    def again(self) -> Iterator[Spooled]:
        """The file from its beginning, to be read meanwhile."""
        position = self.tell()
        self.seek(0)
        try:
            yield self
        finally:
            self.seek(position)

    def has(self, _end: int, _seconds: float) -> bool:
        """As of input that is streamed: all of it is here."""
        return True

    def cut_short(self, demuxer: str) -> bool:
        """Whether the file ends before the end that its container states."""
        return cut_short(demuxer, os.pread(self.fd, SNIFF_BYTES, 0), os.fstat(self.fd).st_size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self.fd, offset, whence)

    def tell(self) -> int:
        return os.lseek(self.fd, 0, os.SEEK_CUR)


def open_spool(folder: Path) -> int | OSError:
    """A file without a name in `folder`, or why there is none: that counts only if the video needs it."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            return os.dup(file.fileno())
    except OSError as error:
        return error


def open_source(
    link: Link, settings: DecoderSettings, spool: int | OSError, file: int | None = None
) -> tuple[str, Streamed | Spooled]:
    """Recognise the input: its demuxer, and where to read it from; kept in `spool` if its index is at the end.

    `file`: descriptor of a file to read instead of what the server sends.
    Raises UnsupportedVideo, VideoLimitExceeded and DecoderFailed.
    """
    if file is not None:
        _check_size(os.fstat(file).st_size, settings.max_video_bytes)
        return recognise(os.pread(file, SNIFF_BYTES, 0), settings.containers), Spooled(link, file)
    stream = Streamed(link, settings.max_video_bytes)
    # No more than these, whatever has come: what a video is taken for must not depend on how fast it came.
    stream.start = bytes(stream.peek(SNIFF_BYTES)[:SNIFF_BYTES])
    demuxer = recognise(stream.start, settings.containers)
    if demuxer == "mov" and not _hold_index(stream):
        return demuxer, _spool(stream, spool, settings.max_spool_bytes)
    return demuxer, stream


def _check_size(size: int, limit: int) -> None:
    if 0 < limit < size:
        raise VideoLimitExceeded(f"max_video_bytes: expected at most {limit} bytes, got {size} or more")


def _hold_index(stream: Streamed) -> bool:
    """Wait for the index at the beginning of the input; False if it is not there.

    The demuxer steps back while it reads the index, as far as FFmpeg's buffer allows, so all of it must fit.
    """
    while (end := index_end(stream.head)) is None:
        if stream.ended or len(stream.head) > _INDEX_WITHIN:
            return False
        stream.peek(len(stream.head) + 1)
    stream.peek(min(end, _INDEX_WITHIN))
    stream.buffer_size = max(_BUFFER, end)
    stream.foretold = foretold(stream.head[:end])
    return 0 < end <= _INDEX_WITHIN


def _spool(stream: Streamed, fd: int | OSError, limit: int) -> Spooled:
    if isinstance(fd, OSError):
        raise DecoderFailed(f"spool_folder: no file can be made there ({fd.strerror})")
    limits.limit_file_size(limit)
    size = 0
    with os.fdopen(fd, "wb", buffering=0, closefd=False) as file:
        while data := stream.read(_CHUNK):
            size += len(data)
            if size > limit:
                raise VideoLimitExceeded(
                    f"max_spool_bytes: an MP4 or MOV that keeps its index at the end may have {limit} bytes; "
                    "move the index to the front (ffmpeg -movflags +faststart) or send another container"
                )
            file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return Spooled(stream.link, fd)
