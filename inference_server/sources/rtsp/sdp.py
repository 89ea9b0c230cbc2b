"""Session descriptions (RFC 8866): which pictures a server has, and how it sends them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# Payload types that need no description.
_STATIC = {26: ("JPEG", 90_000)}
_LONGEST_SIDE = 65_535
_PAYLOAD_TYPE = re.compile(r"[0-9]{1,3}")
_RTPMAP = re.compile(r"(\d{1,3})\s+([\w-]+)/(\d{1,9})")
_NUMBER = re.compile(r"\d{1,4}(\.\d{1,9})?")
_SIZE = re.compile(r"(\d{1,5})[-,x](\d{1,5})")


@dataclass(slots=True)
class Media:
    """A stream of pictures: its RTP payload type, encoding (upper case), ticks a second and where to ask for it.

    `parameters`: what the encoding needs beyond, by name in lower case. `size`, `frame_rate`: if stated, else 0.
    """

    payload_type: int
    encoding: str = ""
    clock_rate: int = 90_000
    control: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    frame_rate: float = 0.0


@dataclass(slots=True)
class Description:
    """What a server has. `finite`: it states an end, as of a recording; a camera does not."""

    control: str = ""
    finite: bool = False
    pictures: list[Media] = field(default_factory=list)


def parse(text: str) -> Description:
    """Read a description; what is not understood is left out."""
    description = Description()
    media: Media | None = None
    pictures = True  # until the first section of something else
    for line in text.splitlines():
        kind, _, value = line.strip().partition("=")
        if kind == "m":
            media = _media(value)
            pictures = media is not None
            description.pictures += [media] if media else []
        elif kind == "a" and pictures:
            _attribute(description, media, value)
    return description


def _media(value: str) -> Media | None:
    kind, *rest = value.split()
    # After the port and the protocol come the payload types, the preferred one first.
    if kind != "video" or len(rest) < 3 or not _PAYLOAD_TYPE.fullmatch(rest[2]):
        return None
    payload_type = int(rest[2])
    encoding, rate = _STATIC.get(payload_type, ("", 90_000))
    return Media(payload_type, encoding, rate)


def _attribute(description: Description, media: Media | None, value: str) -> None:
    name, _, rest = value.partition(":")
    rest = rest.strip()
    if name == "range":
        description.finite |= bool(rest.partition("=")[2].partition("-")[2].strip())
    elif name == "control" and media is None:
        description.control = rest
    elif name == "control" and media is not None:
        media.control = rest
    elif media is not None:
        _describe(media, name, rest)


def _describe(media: Media, name: str, rest: str) -> None:
    if name == "rtpmap" and (found := _RTPMAP.match(rest)) and int(found[1]) == media.payload_type:
        media.encoding, media.clock_rate = found[2].upper(), int(found[3]) or 90_000
    elif name == "fmtp" and rest.split(None, 1)[:1] == [str(media.payload_type)]:
        pairs = (pair.strip().partition("=") for pair in rest.partition(" ")[2].split(";"))
        media.parameters |= {key.strip().lower(): value.strip() for key, _, value in pairs if key}
    elif name in ("x-dimensions", "framesize") and (size := _SIZE.search(rest.rpartition(" ")[2])):
        media.size = min(int(size[1]), _LONGEST_SIDE), min(int(size[2]), _LONGEST_SIDE)
    elif name in ("framerate", "x-framerate") and _NUMBER.fullmatch(rest) and 1 <= float(rest) <= 1000:
        media.frame_rate = float(rest)
