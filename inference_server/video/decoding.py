"""Demuxing and decoding one video with PyAV, whatever state it is in."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from time import perf_counter
from typing import Any, NoReturn

import av
import av.logging
from av.codec.codec import UnknownCodecError
from av.codec.context import CodecContext
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from inference_server.errors import CorruptVideo, UnsupportedVideo, VideoLimitExceeded
from inference_server.video import limits
from inference_server.video.codecs import decoders
from inference_server.video.complaints import Complaints, listen
from inference_server.video.containers import FULL_NAMES
from inference_server.video.foretold import NOTHING_DECODED
from inference_server.video.parallel import CODEC, Packet, Parallel, most_threads
from inference_server.video.settings import DecoderSettings
from inference_server.video.source import Spooled, Streamed
from inference_server.video.values import VideoInfo

# Titles that are not UTF-8 are no reason to fail; PyAV has no option for it since release 19.
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if av.__version__.startswith("18.") else {}

# FFmpeg's AVProducerReferenceTime: microseconds since 1970, flags.
_REFERENCE_TIME = struct.Struct("=qi")

# These state nowhere how much there should be, so the last picture must tell.
_WITHOUT_END = {"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "mjpeg"}
_END_OF_JPEG = b"\xff\xd9"
# An input that is silent for so long makes its pictures wait: then one thread decodes, which holds back fewer.
_PATIENCE_SECONDS = 0.05
# More frames than a message can name are nonsense anyway.
_MAX_COUNT = 2**32 - 1


class Decoding:
    """One video: the first stream of pictures that is not a cover, its frames in presentation order.

    Packets that do not decode are skipped and counted. Raises UnsupportedVideo, CorruptVideo and VideoLimitExceeded.
    """

    def __init__(
        self,
        demuxer: str,
        source: Streamed | Spooled,
        settings: DecoderSettings,
        *,
        wall_clock: bool = False,
        threads: int = 1,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """`threads`: how many may decode. `on_step` is called for each picture that is decoded again."""
        self.corrupt_packets = 0
        self.truncated = False
        self._demuxer = demuxer
        self._source = source
        self._packets = 0
        self._wall_clock = wall_clock
        self._clock: float | None = None
        self._unit: Fraction | None = None
        self._settings = settings
        self._max_pixels = settings.max_pixels
        self._on_step = on_step
        if threads > 1:
            source.keep()
        self._container = _open(demuxer, source, settings)
        can_open_again = source.kept()
        self._stream = _pick(self._container, settings.codecs)
        self._codec = self._set_up(self._stream)
        self._pixels = self._codec.width * self._codec.height
        if self._pixels > self._max_pixels:
            raise self._too_large(self._codec.width, self._codec.height)
        threads = min(threads, most_threads(self._pixels, settings.memory_limit_bytes))
        self._parallel: Parallel | None = None
        if threads > 1 and can_open_again and not wall_clock and self._foreseen():
            self._parallel = Parallel(self._codec, threads, settings.memory_limit_bytes)

    @property
    def pixel_shape(self) -> Fraction | None:
        """Width of a coded pixel in heights of it; None if the video does not say."""
        return _fraction(self._stream.sample_aspect_ratio)

    @property
    def frame_rate(self) -> float:
        """Frames per second that the container states, or that FFmpeg guesses; 0 if neither."""
        return float(_fraction(self._stream.average_rate) or _fraction(self._stream.guessed_rate) or 0)

    def info(self, width: int, height: int) -> VideoInfo:
        """What the container states, for a picture that is displayed as `width` x `height`."""
        stream = self._stream
        duration = float(stream.duration * (_fraction(stream.time_base) or 0)) if stream.duration else 0.0
        if not duration and self._container.duration:
            duration = self._container.duration / av.time_base
        rate = float(_fraction(stream.average_rate) or 0)
        name = FULL_NAMES.get(self._demuxer, self._demuxer)
        return VideoInfo(
            name, _codec(stream), width, height, rate, max(0.0, duration), min(max(0, stream.frames), _MAX_COUNT)
        )

    def time_base(self, frame: av.VideoFrame) -> Fraction:
        """Unit of the frame's timestamp in seconds: one for all of a stream, which PyAV makes anew for each."""
        if self._unit is None:
            self._unit = _fraction(frame.time_base) or _fraction(self._stream.time_base) or Fraction(1, 90_000)
        return self._unit

    def taken(self, frame: av.VideoFrame) -> float | None:
        """When the picture was taken by the source's own clock, in seconds since 1970; None where it tells none.

        Only with `wall_clock`.
        """
        if self._clock is None or frame.pts is None:
            return None
        return self._clock + float(frame.pts * self.time_base(frame))

    def frames(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Yield each frame and the seconds its decoding took."""
        decoded = 0
        with listen(self._max_pixels) as complaints:
            for frame, seconds in self._until_too_large(complaints):
                decoded += 1
                yield frame, seconds
            self.truncated |= complaints.damage and self._demuxer in _WITHOUT_END
        if not decoded:
            raise CorruptVideo(f"no picture could be decoded from {self._packets} packets of {_codec(self._stream)}")

    @property
    def threads(self) -> int:
        """How many threads decode at present."""
        return 1 if self._parallel is None else self._parallel.threads

    def _set_up(self, stream: VideoStream) -> VideoCodecContext:
        codec = stream.codec_context
        codec.options = {"max_pixels": str(self._max_pixels)}
        codec.thread_count = 1
        return codec

    def _foreseen(self) -> bool:
        """Whether several threads may decode it, and it is known beforehand which pictures there are, and where."""
        return (
            self._demuxer == "mov"
            and _codec(self._stream) == CODEC
            and 0 < self._stream.frames == len(self._stream.index_entries)
        )

    def _until_too_large(self, complaints: Complaints) -> Iterator[tuple[av.VideoFrame, float]]:
        packets: Iterator[Packet] = self._demux()
        shown: int | None = None  # timestamp of the last frame of those that are not to be given again
        if self._parallel is not None:
            if (yield from self._by_several(self._parallel, packets, complaints)):
                return
            shown = self._parallel.shown
            packets = chain(self._again(self._parallel, complaints), packets)
        for packet in packets:
            started = perf_counter()
            if self._wall_clock:
                self._read_clock(packet)
            complaints.damage &= not packet.size  # what is left in the end is of the last picture
            try:
                frames = self._codec.decode(packet)
            except av.FFmpegError as error:
                complaints.read()
                if complaints.too_large:
                    break
                self._skip(error)
                complaints.damage = True
                continue
            except ValueError as error:  # so PyAV 19 calls a codec that did not open
                raise CorruptVideo(f"the decoder of {_codec(self._stream)} does not take it: {error}") from error
            complaints.read()
            seconds = (perf_counter() - started) / max(1, len(frames))
            if shown is not None:
                frames, shown = _after(shown, frames)
            for frame in frames:
                complaints.damage |= frame.is_corrupt
                yield frame, seconds
        if complaints.too_large:
            yield from ((frame, 0.0) for frame in self._held_back())
            raise self._too_large(*complaints.too_large)

    def _by_several(
        self, parallel: Parallel, packets: Iterator[Packet], complaints: Complaints
    ) -> Generator[tuple[av.VideoFrame, float], None, bool]:
        """As `_until_too_large`, by several threads; False if one must go on."""
        for count, packet in enumerate(packets, 1):
            started = perf_counter()
            frames = parallel.decode(packet, complaints)
            if frames is None:
                return False
            seconds = (perf_counter() - started) / max(1, len(frames))
            for frame in frames:
                yield frame, seconds
            # What the threads still have would have to wait for the sender.
            if packet.size and not self._source.has(self._end_of_packet(count), _PATIENCE_SECONDS):
                return False
        return True

    def _again(self, parallel: Parallel, complaints: Complaints) -> Iterator[Packet]:
        """Make way for one thread; yield what it must decode again. Returns when that is done."""
        again = parallel.stop()
        complaints.forget()
        self._parallel = None
        with self._source.again() as source:
            self._reopened = _open(self._demuxer, source, self._settings)
        self._codec = self._set_up(_pick(self._reopened, self._settings.codecs))
        for packet in again:
            self._on_step()
            yield packet

    def _end_of_packet(self, index: int) -> int:
        """Where packet `index` of the stream ends in the input; 0 if there is none."""
        if index >= self._stream.frames:
            return 0
        entry = self._stream.index_entries[index]
        return entry.pos + entry.size

    def _held_back(self) -> list[av.VideoFrame]:
        """The frames that the decoder holds back to give them in order; none if it has been asked already."""
        with suppress(av.FFmpegError):
            return self._codec.decode(None)
        return []

    def _demux(self) -> Iterator[av.Packet[VideoStream]]:
        """Yield packets, the last one empty: it makes the decoder give what it holds back."""
        last_corrupt = False
        complete = deque[bool](maxlen=2)
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    if packet.size:
                        self._packets += 1
                        last_corrupt = packet.is_corrupt
                        complete.append(self._demuxer != "mjpeg" or _END_OF_JPEG in bytes(packet))
                    else:
                        self.truncated |= (
                            last_corrupt
                            or self._fewer_than_stated()
                            or self._source.cut_short(self._demuxer)
                            or [*complete] == [True, False]  # some cameras leave out the end of every picture
                        )
                    yield packet
            except av.FFmpegError as error:
                self.truncated = True
                self._skip(error)
            else:
                return

    def _read_clock(self, packet: av.Packet[VideoStream]) -> None:
        """Learn what the source's clock says at timestamp 0, if the packet tells: RTSP and some MP4 do."""
        if packet.pts is not None and packet.has_sidedata("prft"):
            microseconds, _ = _REFERENCE_TIME.unpack_from(bytes(packet.get_sidedata("prft")))
            self._clock = microseconds / 1e6 - float(packet.pts * (_fraction(packet.time_base) or 0))

    def _too_large(self, width: int, height: int) -> VideoLimitExceeded:
        return VideoLimitExceeded(f"max_pixels: expected at most {self._max_pixels}, got {width}x{height}")

    def _fewer_than_stated(self) -> bool:
        return self._demuxer == "mov" and self._packets < self._stream.frames

    def _skip(self, error: av.FFmpegError) -> None:
        # Some codecs call it invalid data when memory runs out, so see whether there is enough for a picture.
        if isinstance(error, MemoryError) or not limits.has_room(4 * self._pixels):
            raise MemoryError from error
        self.corrupt_packets += 1
        if self.corrupt_packets > (budget := self._settings.corrupt_packet_budget):
            raise CorruptVideo(
                f"corrupt_packet_budget: more than {budget} packets do not decode ({error.strerror})"
            ) from error


def _open(demuxer: str, source: Streamed | Spooled, settings: DecoderSettings) -> InputContainer:
    options = {
        "protocol_whitelist": "none",
        "codec_whitelist": ",".join(decoders(settings.codecs)),
        "max_streams": str(settings.max_tracks + 1),  # one more: most demuxers keep silent about what they leave out
        # A limit that nothing can reach would only make FFmpeg forget the size that the index states.
        **(NOTHING_DECODED if demuxer == "mov" and source.foretold else {"max_pixels": str(settings.max_pixels)}),
    }
    with _errors_of_ffmpeg() as said:
        try:
            container: InputContainer = av.open(
                source,
                "r",
                format=demuxer,
                options=options,
                buffer_size=source.buffer_size,
                io_open=_refuse,
                **_METADATA,
            )
        except MemoryError:
            if any("max_streams" in text for _, _, text in said):  # which some demuxers call a lack of memory
                raise _too_many_tracks(settings) from None
            raise
        except av.FFmpegError as error:
            raise CorruptVideo(f"recognised as {demuxer}, but it cannot be read: {error.strerror}") from error
    if len(container.streams) > settings.max_tracks:
        raise _too_many_tracks(settings)
    return container


@contextmanager
def _errors_of_ffmpeg() -> Iterator[list[tuple[int, str, str]]]:
    """Level, context and text of what FFmpeg complains about meanwhile."""
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as said:
            yield said
    finally:
        av.logging.set_level(None)


def _too_many_tracks(settings: DecoderSettings) -> VideoLimitExceeded:
    return VideoLimitExceeded(f"max_tracks: expected at most {settings.max_tracks} in a container, got more")


def _refuse(url: str, *_: Any) -> NoReturn:
    raise UnsupportedVideo(f"the video refers to another file, which is not opened: {url[:200]!r}")


def _pick(container: InputContainer, codecs: Collection[str]) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        found = ", ".join(sorted({s.type for s in container.streams})) or "none"
        raise UnsupportedVideo(f"expected a stream of pictures, got {found}")
    stream = streams[0]
    if _codec(stream) not in codecs:
        raise UnsupportedVideo(f"codec: expected {', '.join(sorted(codecs))}, got {_codec(stream)}")
    return stream


def _codec(stream: VideoStream) -> str:
    context: CodecContext | None = stream.codec_context
    try:
        return "one without a decoder" if context is None else context.codec.canonical_name
    except UnknownCodecError:  # a damaged header names one that PyAV 19 has no name for
        return "one without a decoder"


def _after(shown: int, frames: list[av.VideoFrame]) -> tuple[list[av.VideoFrame], int | None]:
    """Those of `frames` that come after the one with timestamp `shown`, which may come later: then it is returned."""
    for index, frame in enumerate(frames):
        if frame.pts is None or frame.pts >= shown:
            return frames[index + (frame.pts == shown) :], None
    return [], shown


def _fraction(value: Any) -> Fraction | None:
    """PyAV's rationals are Fractions in some releases and a type of their own in others."""
    return _exactly(value.numerator, value.denominator) if value else None


@lru_cache(8)
def _exactly(numerator: int, denominator: int) -> Fraction:
    """The same object for the same numbers: a time base is asked for with every frame."""
    return Fraction(numerator, denominator)
