"""Packets of one stream of pictures in, Matroska out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from inference_server.sources.rtsp import matroska
from inference_server.sources.rtsp.jpeg import Jpeg
from inference_server.sources.rtsp.pictures import H264, H265, Assembler, Mpeg4, Vp8
from inference_server.sources.rtsp.rtp import RtpPacket, Timeline, read_packet, read_reports
from inference_server.sources.rtsp.sdp import Media

_ASSEMBLERS: dict[str, Callable[[Media], Assembler]] = {
    "H264": H264,
    "H265": H265,
    "JPEG": Jpeg,
    "MP4V-ES": Mpeg4,
    "VP8": Vp8,
}
ENCODINGS = tuple(_ASSEMBLERS)
# A picture that has not ended by then never will.
_MOST_BYTES = 32 * 1024 * 1024
# Decoding begins with a key picture; where none seems to come, the decoder has to see what it can do.
_MOST_SKIPPED = 300


class Receiver:
    """`ended`: the sender has said that nothing more will come. What is malformed is dropped like what was lost."""

    def __init__(self, media: Media) -> None:
        self.ended = False
        self._media = media
        self._timeline = Timeline(media.clock_rate)
        self._assembler = _ASSEMBLERS[media.encoding](media)
        self._bytes = 0
        self._sequence: int | None = None
        self._ticks: int | None = None  # of the picture that is being received
        self._origin: int | None = None  # ticks of the first picture that was handed on
        self._skipped = 0

    @property
    def clock(self) -> float | None:
        """What the sender's clock says at time 0 of the output, in seconds since 1970; None as long as it is silent."""
        clock = self._timeline.clock
        return None if clock is None or self._origin is None else clock + self._origin / self._timeline.rate

    def control(self, data: bytes) -> None:
        """Take a packet of RTCP."""
        reports = read_reports(data)
        self.ended |= reports.goodbye
        self._timeline.report(reports)

    def feed(self, data: bytes) -> bytes:
        """Take a packet of RTP; the pictures that it completes."""
        packet = read_packet(data)
        if packet is None or packet.payload_type != self._media.payload_type or not packet.payload:
            return b""
        return b"".join(self._take(packet))

    def _take(self, packet: RtpPacket) -> Iterator[bytes]:
        ticks = self._timeline.ticks(packet.timestamp)
        if ticks != self._ticks:  # the marker of the last picture was lost, or never set
            yield self._finish()
        self._ticks = ticks
        if self._sequence is not None and packet.sequence != (self._sequence + 1) % 65536:
            self._assembler.lose()
        self._sequence = packet.sequence
        self._add(packet.payload)
        if packet.marker:
            yield self._finish()

    def _add(self, payload: bytes) -> None:
        self._bytes += len(payload)
        if self._bytes > _MOST_BYTES:
            self._assembler, self._bytes = _ASSEMBLERS[self._media.encoding](self._media), 0
            self._assembler.lose()
        try:
            self._assembler.add(payload)
        except IndexError:
            self._assembler.lose()

    def _finish(self) -> bytes:
        picture = self._assembler.take()
        if picture is None or self._ticks is None:
            return b""
        self._bytes = 0
        data, key = picture
        start = b""
        if self._origin is None:
            if not key and self._skipped < _MOST_SKIPPED:
                self._skipped += 1
                return b""
            self._origin = self._ticks
            start = matroska.header(self._assembler.codec, self._media.size, self._media.frame_rate)
        since = self._ticks - self._origin
        # Before the first picture in time come those that also need one before it.
        return start + matroska.block(data, since * 1_000_000 // self._timeline.rate, key=key) if since >= 0 else b""
