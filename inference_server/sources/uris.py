"""Addresses of sources, as callers write them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from inference_server.errors import InvalidField, SourceNotAllowed, SourceRefused

PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
_EXPECTED = "file:///absolute/path, or http, https, rtsp or rtsps://host/path"
_MAX_LENGTH = 4096
# What urlsplit would drop in silence, or what others read differently: spaces, controls, backslashes, all beyond ASCII.
_PLAIN = re.compile(r"[!-\[\]-~]+")
_HOST = re.compile(r"[a-z0-9_-]([a-z0-9_.-]*[a-z0-9_-])?|[0-9a-f:.]*:[0-9a-f:.]*")


@dataclass(frozen=True, slots=True)
class FileUri:
    """A file on this machine. `path` is absolute and without dot segments."""

    path: str


@dataclass(frozen=True, slots=True)
class NetworkUri:
    """Something on a host. `target` is path and query; it and the credentials are left out of what is shown."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)
    user: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    @property
    def secure(self) -> bool:
        return self.scheme in ("https", "rtsps")

    @property
    def authority(self) -> str:
        """Host and port as a URI has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def parse(uri: str) -> FileUri | NetworkUri:
    """Read the address of a source. Raises InvalidField, without repeating what may be a password."""
    if len(uri) > _MAX_LENGTH:
        raise InvalidField("uri", f"at most {_MAX_LENGTH} characters, got {len(uri)}")
    if not _PLAIN.fullmatch(uri):
        raise InvalidField("uri", f"{_EXPECTED}, in printable ASCII with everything else percent-encoded")
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        raise InvalidField("uri", f"{_EXPECTED}; host or port are malformed") from None
    if parts.scheme == "file":
        return _file(parts)
    if parts.scheme in PORTS:
        return _network(parts, PORTS[parts.scheme] if port is None else port)
    raise InvalidField("uri", f"{_EXPECTED}, got the scheme {parts.scheme[:20]!r}")


def _file(parts: SplitResult) -> FileUri:
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise InvalidField("uri", "file:///absolute/path, without host, query or fragment")
    try:
        path = unquote(parts.path, errors="strict")
    except UnicodeDecodeError:
        raise InvalidField("uri", "a path that is UTF-8") from None
    if not path.startswith("/") or "\0" in path or {".", ".."} & set(path.split("/")):
        raise InvalidField("uri", "file:///absolute/path, without the segments . and ..")
    return FileUri(path)


def _network(parts: SplitResult, port: int) -> NetworkUri:
    host = (parts.hostname or "").rstrip(".")
    if not _HOST.fullmatch(host) or not port:
        raise InvalidField("uri", f"{_EXPECTED}, with a host name or address and, if any, a port of 1..65535")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    user = None if parts.username is None else unquote(parts.username)
    return NetworkUri(parts.scheme, host, port, target, user, unquote(parts.password or ""))


def redirected(uri: NetworkUri, location: str) -> NetworkUri:
    """Where a redirect leads. Credentials go no further than to the origin that they were given for.

    Raises SourceNotAllowed for another kind of address or one that is less secure, SourceRefused for none.
    """
    try:
        target = parse(urljoin(f"{uri}{uri.target}", location))
    except (InvalidField, ValueError):
        raise SourceRefused(f"uri: {uri} redirects to what is no address of a video") from None
    if (
        not isinstance(target, NetworkUri)
        or target.scheme.removesuffix("s") != uri.scheme.removesuffix("s")
        or (uri.secure and not target.secure)
    ):
        raise SourceNotAllowed(f"uri: {uri} redirects to another kind of address, which is not followed")
    same = (target.scheme, target.host, target.port) == (uri.scheme, uri.host, uri.port)
    if same and target.user is None:
        return replace(target, user=uri.user, password=uri.password)
    return target
