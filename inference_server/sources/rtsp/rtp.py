"""RTP and RTCP packets (RFC 3550), and what their timestamps say."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_HEADER = struct.Struct("!BBHII")
_REPORT = struct.Struct("!BBHIQI")
_SENDER_REPORT, _GOODBYE = 200, 203
_NTP_TO_UNIX = 2_208_988_800
_HALF, _WHOLE = 2**31, 2**32
# A clock that leaps by more than this was set anew: it says nothing about the time between.
_MOST_LEAP_SECONDS = 60


@dataclass(frozen=True, slots=True)
class RtpPacket:
    """One packet. `marker`: the last of a picture. `sequence` counts up by one, `timestamp` in ticks; both wrap."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    payload: bytes


def read_packet(data: bytes) -> RtpPacket | None:
    """Take a packet apart; None if it is none."""
    if len(data) < _HEADER.size:
        return None
    first, second, sequence, timestamp, _ = _HEADER.unpack_from(data)
    start, end = _HEADER.size + 4 * (first & 15), len(data)
    if first & 0x10:  # an extension: four bytes that tell how many more words
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    if first & 0x20:  # the last byte tells how many were filled up
        end -= data[-1]
    if first >> 6 != 2 or start > end:
        return None
    return RtpPacket(second & 127, bool(second & 128), sequence, timestamp, data[start:end])


@dataclass(frozen=True, slots=True)
class Reports:
    """What a packet of RTCP tells: that the stream is over, and the time (seconds since 1970) at a timestamp."""

    goodbye: bool = False
    time: float | None = None
    timestamp: int = 0


def read_reports(data: bytes) -> Reports:
    """Read what is known of a compound packet."""
    goodbye, time, ticks = False, None, 0
    while len(data) >= 4:
        kind, size = data[1], 4 + 4 * int.from_bytes(data[2:4], "big")
        goodbye |= kind == _GOODBYE
        if kind == _SENDER_REPORT and len(data) >= _REPORT.size:
            *_, ntp, ticks = _REPORT.unpack_from(data)
            # A server that has no clock sends zero, or the time since it started.
            time = ntp / 2**32 - _NTP_TO_UNIX if ntp >> 32 > _NTP_TO_UNIX else None
        data = data[size:]
    return Reports(goodbye, time, ticks)


class Timeline:
    """Timestamps that go on where they wrap or are set anew: in ticks from the first, of which `rate` are a second."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.clock: float | None = None  # seconds since 1970 at 0, by the last report
        self._last: int | None = None
        self._ticks = 0
        self._report: Reports | None = None

    def ticks(self, timestamp: int) -> int:
        """The time of a packet."""
        if self._last is None:
            self._last = timestamp
        step = _difference(timestamp, self._last)
        if abs(step) > _MOST_LEAP_SECONDS * self.rate:
            step, self.clock = 1, None
        self._last, self._ticks = timestamp, self._ticks + step
        self._read_clock()
        return self._ticks

    def report(self, reports: Reports) -> None:
        """Learn the time from a sender's report, which may come before the first packet."""
        if reports.time is not None:
            self._report = reports
            self._read_clock()

    def _read_clock(self) -> None:
        report = self._report
        if report is None or self._last is None:
            return
        self._report = None
        ahead = _difference(report.timestamp, self._last)
        if report.time is not None and abs(ahead) <= _MOST_LEAP_SECONDS * self.rate:
            self.clock = report.time - (self._ticks + ahead) / self.rate


def _difference(later: int, earlier: int) -> int:
    return (later - earlier + _HALF) % _WHOLE - _HALF
