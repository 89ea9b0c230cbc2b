"""Connections to hosts that were checked, and reading from them with an end to patience."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from inference_server.errors import SourceRefused, SourceUnavailable
from inference_server.sources.hosts import AllowedHosts
from inference_server.sources.source import SourceLost
from inference_server.sources.uris import NetworkUri, redirected

T = TypeVar("T")

_BUFFER = 256 * 1024
_MOST_REDIRECTS = 5
# A source that sends less than this within the read timeout has stalled, however regularly it does.
LEAST_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Network:
    """How hosts are reached: which are allowed, and how long to wait for a connection and for data, in seconds."""

    hosts: AllowedHosts = field(default_factory=AllowedHosts)
    connect_seconds: float = 10.0
    read_seconds: float = 10.0


class Link:
    """One connection; `read` ends a wait that is too long."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, read_seconds: float) -> None:
        self._reader = reader
        self._writer = writer
        self._limit = self._left = read_seconds
        self._got = 0

    async def read(self) -> bytes:
        """The next bytes; nothing at the end. Raises SourceLost if the source stalls or the connection breaks.

        Only time spent waiting here counts, so a decoder that is slow makes no source look stalled.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._left):
                data = await self._reader.read(_BUFFER)
        except TimeoutError:
            raise SourceLost(f"stalled: {self._got} bytes in {self._limit:g} s (--read-timeout-seconds)") from None
        except (OSError, ssl.SSLError) as error:
            raise SourceLost(f"the connection broke: {error.strerror or type(error).__name__}") from None
        self._left -= loop.time() - started
        self._got += len(data)
        if self._got >= LEAST_BYTES:
            self._left, self._got = self._limit, 0
        return data

    async def write(self, data: bytes) -> None:
        """Send. Raises SourceLost."""
        try:
            self._writer.write(data)
            async with asyncio.timeout(self._limit):
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise SourceLost(f"the connection broke: {type(error).__name__}") from None
        except RuntimeError:  # what uvloop says of a connection that is closed
            raise SourceLost("the connection broke: closed") from None


@asynccontextmanager
async def connect(uri: NetworkUri, network: Network) -> AsyncIterator[Link]:
    """Connect to an address of the host that was checked; its name is not looked up again. Raises SourceError."""
    try:
        async with asyncio.timeout(network.connect_seconds):
            reader, writer = await _open(uri, await network.hosts.addresses(uri.host, uri.port))
    except TimeoutError:
        limit = f"{network.connect_seconds:g} s (--connect-timeout-seconds)"
        raise SourceUnavailable(f"{uri} cannot be reached: no connection within {limit}") from None
    try:
        yield Link(reader, writer, network.read_seconds)
    finally:
        writer.transport.abort()  # nothing that is still to be sent matters, and a peer may never take it
        with suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


@asynccontextmanager
async def answering(uri: NetworkUri, network: Network) -> AsyncIterator[None]:
    """Bound how long a host takes until it sends video, in the body of this. Raises SourceError."""
    try:
        async with asyncio.timeout(network.connect_seconds):
            yield
    except TimeoutError:
        limit = f"{network.connect_seconds:g} s (--connect-timeout-seconds)"
        raise SourceUnavailable(f"{uri} did not answer within {limit}") from None
    except SourceLost as lost:
        raise SourceUnavailable(f"{uri} did not answer: {lost}") from None


@dataclass(frozen=True, slots=True)
class Redirect:
    """A host's word that what it was asked for is at `location`."""

    location: str


async def follow(
    stack: AsyncExitStack, uri: NetworkUri, network: Network, ask: Callable[[Link, NetworkUri], Awaitable[T | Redirect]]
) -> T:
    """What `ask` gets of `uri`, or of the host that it redirects to, if that is allowed. Raises SourceError.

    The connection that it came over is closed with `stack`, those to hosts that redirect before.
    """
    where = uri
    for _ in range(_MOST_REDIRECTS + 1):
        answer = await ask(await stack.enter_async_context(connect(where, network)), where)
        if not isinstance(answer, Redirect):
            return answer
        await stack.aclose()
        where = redirected(where, answer.location)
    raise SourceRefused(f"{uri} redirects more than {_MOST_REDIRECTS} times")


async def _open(uri: NetworkUri, addresses: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context, name = (ssl.create_default_context(), uri.host) if uri.secure else (None, None)
    reason = ""
    for address in addresses:
        try:
            return await asyncio.open_connection(address, uri.port, limit=_BUFFER, ssl=context, server_hostname=name)
        except ssl.SSLError as error:
            reason = f"TLS: {error.reason or 'handshake failed'}"
        except OSError as error:
            # asyncio's own text names the address
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
    raise SourceUnavailable(f"{uri} cannot be reached: {reason}")
