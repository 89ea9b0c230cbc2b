"""Video over RTSP: asked for and received by the server on one connection, packets of media among the messages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from inference_server.errors import SourceRefused
from inference_server.sources.connecting import Link, Network, Redirect, answering, follow
from inference_server.sources.rtsp import sdp
from inference_server.sources.rtsp.messages import Message, Packet
from inference_server.sources.rtsp.receiver import ENCODINGS, Receiver
from inference_server.sources.rtsp.session import Session, check
from inference_server.sources.source import SourceLost
from inference_server.sources.uris import NetworkUri
from inference_server.video import DecodedStream

_REDIRECTS = frozenset({301, 302, 303, 305, 307, 308})
_ABSOLUTE = re.compile(r"rtsps?://", re.IGNORECASE)
_PLAIN = re.compile(r"[!-~]+")
_CHANNELS = re.compile(r"interleaved\s*=\s*(\d{1,3})(?:-(\d{1,3}))?")


@dataclass(frozen=True, slots=True)
class _Playing:
    """A stream that comes; one that has an end is a recording, others are live."""

    session: Session
    receiver: Receiver
    channels: tuple[int, int]
    live: bool
    file: None = None
    container: str = "rtsp"

    @property
    def clock(self) -> float | None:
        return self.receiver.clock

    async def pump(self, decoded: DecodedStream) -> None:
        """Feed the pictures to the decoder, as fast as that takes them."""
        alive = asyncio.create_task(self.session.keep_alive())
        try:
            while not self.receiver.ended:
                if data := b"".join(map(self._take, await self.session.packets())):
                    await decoded.feed(data)
        finally:
            alive.cancel()
            await asyncio.gather(alive, return_exceptions=True)
        if self.live:
            raise SourceLost("the host has ended the stream")

    def _take(self, packet: Packet) -> bytes:
        rtp, rtcp = self.channels
        if packet.channel == rtcp:
            self.receiver.control(packet.data)
        return self.receiver.feed(packet.data) if packet.channel == rtp else b""


@dataclass(frozen=True, slots=True)
class RtspSource:
    """The first stream of pictures that the server at `uri` describes."""

    uri: NetworkUri
    network: Network

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[_Playing]:
        """Ask for it, following redirects to hosts that are allowed. Raises SourceError."""
        async with AsyncExitStack() as stack:
            async with answering(self.uri, self.network):
                playing = await follow(stack, self.uri, self.network, partial(_ask, stack))
            yield playing


async def _ask(stack: AsyncExitStack, link: Link, uri: NetworkUri) -> _Playing | Redirect:
    session = Session(link, uri)
    await session.ask("OPTIONS", session.target)  # tells how to keep alive; to refuse it does no harm
    described = await session.ask("DESCRIBE", session.target, Accept="application/sdp")
    if described.status in _REDIRECTS:
        return Redirect(described.get("location"))
    check(uri, described)
    stack.push_async_callback(session.leave)
    return await _play(session, described)


async def _play(session: Session, described: Message) -> _Playing:
    description = sdp.parse(described.body.decode("utf-8", "replace"))
    media = _choose(session.uri, description)
    stated = described.get("content-base") or described.get("content-location")
    base = _join(session.target, stated) if _ABSOLUTE.match(stated) else session.target
    track = _join(base, media.control)
    session.target = _join(base, description.control)
    transport = "RTP/AVP/TCP;unicast;interleaved=0-1"
    channels = _channels(await session.expect("SETUP", track, Transport=transport))
    await session.expect("PLAY", session.target, Range="npt=0.000-")
    return _Playing(session, Receiver(media), channels, live=not description.finite)


def _choose(uri: NetworkUri, description: sdp.Description) -> sdp.Media:
    for media in description.pictures:
        # Units that are sent in another order than they are decoded in cannot be told apart from lost ones.
        ordered = media.parameters.get("sprop-max-don-diff", "0") == "0"
        ordered = ordered and media.parameters.get("packetization-mode") != "2"
        if media.encoding in ENCODINGS and ordered:
            return media
    found = ", ".join(sorted({media.encoding or "unknown" for media in description.pictures})) or "none"
    raise SourceRefused(f"uri: {uri}: expected pictures in {', '.join(ENCODINGS)}, got {found[:100]}")


def _join(base: str, control: str) -> str:
    """What `control` of a description stands for. It is sent to the host that it came from, wherever it points."""
    if control in ("", "*") or not _PLAIN.fullmatch(control):
        return base
    return control if _ABSOLUTE.match(control) else f"{base.removesuffix('/')}/{control}"


def _channels(response: Message) -> tuple[int, int]:
    found = _CHANNELS.search(response.get("transport"))
    if found is None:
        return 0, 1
    return int(found[1]), int(found[2] or int(found[1]) + 1)
