"""Whether the index of an MP4 tells all that FFmpeg would else decode the first picture for, to throw it away.

FFmpeg decodes the beginning of an H.264 video when it opens it: to learn in which order pictures come, and the shape of
their pixels. A video begins with its largest picture, so that is much of the time until its first frame is there.
What the sequence parameter set (ITU-T H.264, 7.3.2.1.1 and annex E) says of these makes it needless.
"""

from __future__ import annotations

# What FFmpeg is told then: no pictures, and no more of the video than its first packet.
NOTHING_DECODED = {"skip_frame": "all", "probesize": "32"}

# Profiles whose parameter sets tell of colour and scaling, too.
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_UNSPECIFIED, _SQUARE = 0, 1
_MAX_SET_BYTES = 1024


def foretold(index: bytes | bytearray) -> bool:
    """Whether `index` is of one H.264 track with a parameter set that tells the order, and of pixels that are square.

    Not where the video comes in fragments: then FFmpeg learns the frame rate from its first packets.
    """
    if index.count(b"vmhd") != 1 or index.count(b"avcC") != 1 or b"mvex" in index:
        return False
    at = index.index(b"avcC") + 4
    sets, length = index[at + 5 : at + 6], int.from_bytes(index[at + 6 : at + 8], "big")
    if not sets or sets[0] & 31 != 1 or not 4 < length <= _MAX_SET_BYTES:
        return False
    try:
        return _tells_order(_Bits(index[at + 9 : at + 8 + length].replace(b"\0\0\3", b"\0\0")))
    except _EndOfSetError:
        return False


class _EndOfSetError(Exception):
    """The parameter set ends before what is read of it."""


class _Bits:
    def __init__(self, data: bytes | bytearray) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        if count > self._left:
            raise _EndOfSetError
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def number(self) -> int:
        """An unsigned Exp-Golomb code; a signed one is as long."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def skip(self, codes: int) -> None:
        for _ in range(codes):
            self.number()


def _tells_order(bits: _Bits) -> bool:
    """Read a parameter set, its header left out, up to bitstream_restriction_flag."""
    profile = bits.read(8)
    bits.read(16)  # constraints and level
    bits.skip(1)  # id
    if profile in _HIGH_PROFILES:
        chroma = bits.number()
        bits.read(chroma == 3)  # 4:4:4: whether its planes are separate
        bits.skip(2)  # depths
        bits.read(1)
        if bits.read(1):  # a scaling matrix, which nearly nobody sends
            return False
    bits.skip(1)  # frame numbers
    order = bits.number()
    if order == 1:
        bits.read(1)
        bits.skip(2)
        bits.skip(bits.number())
    elif order == 0:
        bits.skip(1)
    bits.skip(1)  # reference frames
    bits.read(1)
    bits.skip(2)  # size
    if not bits.read(1):  # fields
        bits.read(1)
    bits.read(1)
    if bits.read(1):  # cropping
        bits.skip(4)
    return bool(bits.read(1)) and _usability_tells_order(bits)


def _usability_tells_order(bits: _Bits) -> bool:
    if bits.read(1) and bits.read(8) not in (_UNSPECIFIED, _SQUARE):
        return False
    if bits.read(1):  # overscan
        bits.read(1)
    if bits.read(1):  # colour
        bits.read(4)
        if bits.read(1):
            bits.read(24)
    if bits.read(1):  # places of chroma
        bits.skip(2)
    if bits.read(1):  # timing
        bits.read(65)
    buffers = [_buffer(bits) for _ in range(2)]
    if any(buffers):
        bits.read(1)
    bits.read(1)
    return bool(bits.read(1))


def _buffer(bits: _Bits) -> bool:
    """Parameters of a reference decoder's buffer, if they are there."""
    if not bits.read(1):
        return False
    count = bits.number() + 1
    bits.read(8)
    for _ in range(count):
        bits.skip(2)
        bits.read(1)
    bits.read(20)
    return True
