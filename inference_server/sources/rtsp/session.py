"""One connection to an RTSP server: asking, and being kept alive while packets come."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

from inference_server.errors import SourceNotFound, SourceRefused, SourceUnavailable
from inference_server.sources.connecting import Link
from inference_server.sources.rtsp.auth import Credentials
from inference_server.sources.rtsp.messages import Incoming, Malformed, Message, Packet, encode
from inference_server.sources.source import SourceLost
from inference_server.sources.uris import NetworkUri

_ATTEMPTS = 3  # without an answer to a challenge, with one, and with one to a newer challenge
_DEFAULT_TIMEOUT, _LEAST_TIMEOUT, _MOST_TIMEOUT = 60, 2, 120
_LEAVE_SECONDS = 0.2
_SESSION = re.compile(r"([!-:<-~]+)(?:.*;\s*timeout\s*=\s*(\d{1,5}))?")


class Session:
    """What is asked on one connection. `target`: what the session is about, for those who keep it alive and end it."""

    def __init__(self, link: Link, uri: NetworkUri) -> None:
        self.uri = uri
        self.target = f"{uri}{uri.target}"
        self._link = link
        self._incoming = Incoming()
        self._credentials = None if uri.user is None else Credentials(uri.user, uri.password)
        self._sequence = 0
        self._session = ""
        self._timeout = _DEFAULT_TIMEOUT
        self._ping = "OPTIONS"
        self._packets: list[Packet] = []  # that came before the answer to PLAY

    async def ask(self, method: str, target: str, **headers: str) -> Message:
        """Send a request, with the password if it is asked for; the response, whatever it says. Raises SourceLost."""
        for _ in range(_ATTEMPTS):
            await self._send(method, target, **headers)
            response = await self._response()
            if response.status != 401 or not self._challenged(response):
                break
        self._learn(response)
        return response

    async def expect(self, method: str, target: str, **headers: str) -> Message:
        """Send a request that is to be granted. Raises SourceError and SourceLost."""
        response = await self.ask(method, target, **headers)
        check(self.uri, response)
        return response

    async def packets(self) -> list[Packet]:
        """The next packets; none if something else has come, which is dealt with. Raises SourceLost."""
        early, self._packets = self._packets, []
        packets = early
        for item in [] if early else await self._more():
            if isinstance(item, Packet):
                packets.append(item)
            else:
                await self._heed(item)
        return packets

    async def keep_alive(self) -> None:
        """Say from time to time that somebody is here."""
        with suppress(SourceLost):  # who reads will see it
            while True:
                await asyncio.sleep(self._timeout / 2)
                await self._send(self._ping, self.target)

    async def leave(self) -> None:
        """Let the server know, if it listens: cameras have room for few."""
        with suppress(SourceLost, TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._send("TEARDOWN", self.target)

    async def _send(self, method: str, target: str, **headers: str) -> None:
        self._sequence += 1
        lines = {"CSeq": str(self._sequence), "User-Agent": "videoai"}
        if self._session:
            lines["Session"] = self._session
        if self._credentials is not None:
            lines |= self._credentials.header(method, target)
        await self._link.write(encode(f"{method} {target} RTSP/1.0", lines | headers))

    async def _response(self) -> Message:
        """The next response; what comes before and with it is kept."""
        found: Message | None = None
        while found is None:
            for item in await self._more():
                if isinstance(item, Packet):
                    self._packets.append(item)
                elif item.status is None:
                    await self._heed(item)
                elif item.status >= 200:
                    found = item
        return found

    async def _more(self) -> list[Message | Packet]:
        data = await self._link.read()
        if not data:
            raise SourceLost("the connection ended")
        try:
            return [*self._incoming.feed(data)]
        except Malformed as error:
            raise SourceLost(f"it does not speak RTSP: {error}") from None

    async def _heed(self, message: Message) -> None:
        """Deal with what comes between packets: answers to those who keep alive, and requests of the server."""
        if message.status is None:
            sequence = message.get("cseq")
            await self._link.write(encode("RTSP/1.0 501 Not Implemented", {"CSeq": sequence} if sequence else {}))
        elif message.status == 401 and self._challenged(message):
            await self._send(self._ping, self.target)
        elif message.status == 454:
            raise SourceLost("the host has ended the session")

    def _challenged(self, response: Message) -> bool:
        return self._credentials is not None and self._credentials.challenged(response.all("www-authenticate"))

    def _learn(self, response: Message) -> None:
        if "GET_PARAMETER" in response.get("public").upper():
            self._ping = "GET_PARAMETER"
        if found := _SESSION.match(response.get("session")):
            self._session = found[1]
            self._timeout = min(max(int(found[2] or _DEFAULT_TIMEOUT), _LEAST_TIMEOUT), _MOST_TIMEOUT)


def check(uri: NetworkUri, response: Message) -> None:
    """Raise the SourceError that a response stands for, if it is not granted."""
    status = response.status or 0
    if status in (404, 410):
        raise SourceNotFound(f"uri: {uri} answers {status}: there is nothing at this path")
    if status == 401:
        why = "it wants a user and a password" if uri.user is None else "it does not take this user and password"
        raise SourceRefused(f"uri: {uri} answers 401: {why}")
    if status == 453 or status >= 500:
        raise SourceUnavailable(f"{uri} answers {status}")
    if status != 200:
        raise SourceRefused(f"uri: {uri} answers {status}, expected 200")
