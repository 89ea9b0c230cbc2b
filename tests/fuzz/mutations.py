"""What a seed makes of a sound file: the same seed and the same files give the same bytes, anywhere.

Each mutation takes the file, another one to take parts from, and a random generator.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence

TS_PACKET = 188
MOST_BLOCKS = 64
_NUMBER = re.compile(rb"\d+")
_WORDS = (b"", b"0", b"-1", b"1e9", b"0x10", b"1_0", b"4294967296", b"9" * 30, b"9" * 5000, "\u0663".encode(), b"\xb2")
_VALUES = (b"", b"\0", b"\xff\xfe", b';;=,"', b'"' * 7, b"a" * 20_000, b"../..", b"http://[", b" \t ", b"\r", b"*")
_STATUSES = (
    b"100",
    b"101",
    b"199",
    b"204",
    b"206",
    b"301",
    b"302",
    b"304",
    b"400",
    b"401",
    b"404",
    b"410",
    b"416",
    b"453",
    b"454",
    b"503",
    b"999",
    b"000",
)
_LENGTHS = (0, 1, 7, 8, 0x7F, 0x80, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def position(data: bytes, rng: random.Random) -> int:
    """Half of the time anywhere, else near an end: that is where containers keep their structure."""
    if rng.random() < 0.5:
        return rng.randrange(len(data) + 1)
    near = min(len(data), int(rng.expovariate(1 / 150)))
    return near if rng.random() < 0.7 else len(data) - near


def flip_bits(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16, 64))):
        if at := position(data, rng):
            changed[at - 1] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    """A run of bytes becomes zeros, ones, start codes, or noise."""
    at, length = position(data, rng), rng.choice((1, 2, 4, 8, 32, 188, 1000))
    filling = rng.choice((b"\0", b"\xff", b"\0\0\1", rng.randbytes(length)))
    length = min(length, len(data) - at)
    return data[:at] + (filling * (length // len(filling) + 1))[:length] + data[at + length :]


def insert(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    at = position(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 3, 16, 500))) + data[at:]


def remove(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    at = position(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 3, 16, 500)) :]


def truncate(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    return data[: position(data, rng)]


def behead(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    return data[position(data, rng) :]


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: position(data, rng)] + other[position(other, rng) :]


def join(data: bytes, other: bytes, _rng: random.Random) -> bytes:
    return data + other


def swap_headers(data: bytes, other: bytes, rng: random.Random) -> bytes:
    length = rng.choice((4, 8, 16, 64, 256, 1024))
    return other[:length] + data[length:]


def edit_length(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    """A number that could be a length, since it is smaller than the file, becomes another."""
    size: int = rng.choice((2, 4, 4, 8))
    order = "big" if rng.random() < 0.7 else "little"
    for _ in range(200):
        at = min(position(data, rng), max(0, len(data) - size))
        number = int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]
        if 0 < number < len(data):
            wrong = rng.choice((*_LENGTHS, number - 1, number + 1, number * 2, len(data)))
            edited = (wrong & ((1 << 8 * size) - 1)).to_bytes(size, order)  # type: ignore[arg-type]
            return data[:at] + edited + data[at + size :]
    return data


def duplicate_block(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    return _rearrange(data, rng, lambda parts, at: parts[: at + 1] * rng.choice((1, 1, 1, 3)) + parts[at:])


def drop_block(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    return _rearrange(data, rng, lambda parts, at: parts[:at] + parts[at + 1 :])


def reorder_blocks(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    def move(parts: list[bytes], at: int) -> list[bytes]:
        block = parts.pop(at)
        parts.insert(rng.randrange(len(parts) + 1), block)
        return parts

    return _rearrange(data, rng, move)


MUTATIONS: Sequence[Callable[[bytes, bytes, random.Random], bytes]] = (
    *(flip_bits, flip_bits, overwrite, insert, remove, truncate, behead, splice, join, swap_headers),
    *(edit_length, edit_length, duplicate_block, drop_block, reorder_blocks),
)


def mutate(files: Mapping[str, bytes], rng: random.Random) -> tuple[bytes, str]:
    """One of `files` after one to four mutations, and what was done to it."""
    name, other = rng.choice(list(files)), rng.choice(list(files))
    data, done = files[name], [name]
    for _ in range(rng.choice((1, 1, 2, 4))):
        mutation = rng.choice(MUTATIONS)
        data = mutation(data, files[other], rng)
        done.append(f"{mutation.__name__}({other})" if mutation in (splice, join, swap_headers) else mutation.__name__)
    return data, " ".join(done)


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """Lines of headers or of a description after one to three mutations; bits flip, too."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        lines = data.split(b"\r\n")
        at = rng.randrange(len(lines))
        match rng.randrange(9):
            case 0:
                del lines[at]
            case 1:
                lines.insert(rng.randrange(len(lines) + 1), lines[at])
            case 2:
                other = rng.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                name, colon, _ = lines[at].partition(rng.choice((b":", b"=", b" ")))
                lines[at] = name + colon + rng.choice(_VALUES)
            case 4 | 5:
                lines[at] = _another_number(lines[at], rng)
            case 6:
                lines[0] = re.sub(rb" \d{3}", b" " + rng.choice(_STATUSES), lines[0], count=1)
            case 7:
                lines[at] = lines[at].replace(*rng.choice(((b":", b""), (b" ", b""), (b"/", b"\n"), (b"a", b"\xe4"))))
            case _:
                lines[at] = flip_bits(lines[at], b"", rng)
        data = b"\r\n".join(lines)
    return data


def _another_number(line: bytes, rng: random.Random) -> bytes:
    numbers = [*_NUMBER.finditer(line)]
    if not numbers:
        return line
    found = rng.choice(numbers)
    return line[: found.start()] + rng.choice(_WORDS) + line[found.end() :]


def blocks(data: bytes, rng: random.Random) -> list[bytes]:
    """The parts it is made of: boxes of an MP4, packets of a transport stream or of RTP, NAL units; else any parts."""
    if data[4:8] in (b"ftyp", b"moov", b"moof", b"mdat"):
        return _boxes(data)
    if data[:1] == b"\x47" and data[TS_PACKET : TS_PACKET + 1] in (b"", b"\x47"):
        return [data[at : at + TS_PACKET] for at in range(0, len(data), TS_PACKET)]
    if data.startswith(b"$"):
        return _packets(data)
    if data.startswith((b"\0\0\1", b"\0\0\0\1")):
        first, *units = data.split(b"\0\0\1")
        return [first, *(b"\0\0\1" + unit for unit in units)]
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(2, 16)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _boxes(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data) and len(found) < MOST_BLOCKS:
        size = int.from_bytes(data[at : at + 4], "big")
        if not 8 <= size < len(data) - at:
            break
        found.append(data[at : at + size])
        at += size
    return [*found, data[at:]]


def _packets(data: bytes) -> list[bytes]:
    found, at = [], 0
    while data[at : at + 1] == b"$":
        end = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append(data[at:end])
        at = end
    return [*found, data[at:]]


def _rearrange(data: bytes, rng: random.Random, change: Callable[[list[bytes], int], list[bytes]]) -> bytes:
    parts = blocks(data, rng)
    return b"".join(change(parts, rng.randrange(len(parts))))
