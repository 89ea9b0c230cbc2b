"""Video over HTTP: fetched by the server, which hands the decoder bytes and nothing else."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import h11

from inference_server.errors import SourceNotFound, SourceRefused, SourceUnavailable
from inference_server.sources.connecting import Link, Network, Redirect, answering, follow
from inference_server.sources.multipart import Parts, boundary
from inference_server.sources.source import SourceLost
from inference_server.sources.uris import NetworkUri
from inference_server.video import DecodedStream

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class _Exchange:
    """One request and its response on one connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._http = h11.Connection(h11.CLIENT)

    async def ask(self, uri: NetworkUri) -> h11.Response:
        """Send GET and return the head of the response. Raises SourceLost."""
        headers = [("Host", uri.authority), ("User-Agent", "videoai"), ("Accept-Encoding", "identity")]
        if uri.user is not None:
            secret = base64.b64encode(f"{uri.user}:{uri.password}".encode()).decode()
            headers.append(("Authorization", f"Basic {secret}"))
        request = h11.Request(method="GET", target=uri.target, headers=[*headers, ("Connection", "close")])
        await self._link.write(self._http.send(request) + self._http.send(h11.EndOfMessage()))
        try:
            while not isinstance(event := await self._next(), h11.Response):
                pass
        except h11.RemoteProtocolError:
            raise SourceLost("it does not speak HTTP") from None
        return event

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body until it is complete. Raises SourceLost if it breaks off."""
        try:
            while not isinstance(event := await self._next(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    yield bytes(event.data)
        except h11.RemoteProtocolError:
            raise SourceLost("the connection ended in the middle of the body") from None

    async def _next(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._link.read())
        return event


@dataclass(frozen=True, slots=True)
class _Response:
    """A body that is being read; without a stated length it is live."""

    exchange: _Exchange
    length: int | None
    separator: bytes | None = None
    file: None = None
    clock: None = None
    container: None = None

    @property
    def live(self) -> bool:
        return self.length is None

    async def pump(self, decoded: DecodedStream) -> None:
        """Feed the body to the decoder, as fast as that takes it."""
        received, parts = 0, None if self.separator is None else Parts(self.separator)
        try:
            async for data in self.exchange.body():
                received += len(data)
                for piece in (data,) if parts is None else parts.feed(data):
                    await decoded.feed(piece)
        except SourceLost as lost:
            of = "" if self.length is None else f" after {received} of {self.length} bytes"
            raise SourceLost(f"{lost}{of}") from None


@dataclass(frozen=True, slots=True)
class HttpSource:
    """What a GET of `uri` answers with."""

    uri: NetworkUri
    network: Network

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[_Response]:
        """Ask, following redirects to hosts that are allowed. Raises SourceError."""
        async with AsyncExitStack() as stack:
            async with answering(self.uri, self.network):
                response = await follow(stack, self.uri, self.network, _ask)
            yield response


async def _ask(link: Link, uri: NetworkUri) -> _Response | Redirect:
    exchange = _Exchange(link)
    response = await exchange.ask(uri)
    if response.status_code in _REDIRECTS:
        return Redirect(_header(response, b"location"))
    return _accept(uri, response, exchange)


def _accept(uri: NetworkUri, response: h11.Response, exchange: _Exchange) -> _Response:
    status = response.status_code
    if status in (404, 410):
        raise SourceNotFound(f"uri: {uri} answers {status}: there is nothing at this path")
    if status >= 500:
        raise SourceUnavailable(f"{uri} answers {status}")
    if status != 200:
        raise SourceRefused(f"uri: {uri} answers {status}, expected 200")
    if _header(response, b"content-encoding") not in ("", "identity"):
        raise SourceRefused(f"uri: {uri} compresses the video, although asked not to")
    length = _header(response, b"content-length")
    separator = boundary(_header(response, b"content-type"))
    return _Response(exchange, int(length) if length else None, separator)


def _header(response: h11.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key == name), "")
