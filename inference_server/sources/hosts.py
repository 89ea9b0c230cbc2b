"""Hosts that the operator allows, and the addresses of theirs that may be connected to."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from inference_server.errors import SourceNotAllowed, SourceUnavailable

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

_EXPECTED = "expected HOST[:PORT], an address or a CIDR network"
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
# Look-ups that hang hold these threads and no others.
_LOOKUPS = ThreadPoolExecutor(8, thread_name_prefix="lookup")
# Where a cloud answers its machines although the address is a public one.
_METADATA = frozenset({ip_address("168.63.129.16")})
# IPv6 that is IPv4 on the wire, and where in it the address is: translated, 6to4.
_EMBEDDED = ((ip_network("64:ff9b::/96"), 0), (ip_network("2002::/16"), 80))


async def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses of `host` as the system knows them."""
    found = await asyncio.get_running_loop().run_in_executor(
        _LOOKUPS, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    return list(dict.fromkeys(str(info[4][0]) for info in found))


@dataclass(frozen=True, slots=True)
class HostRule:
    """One HOST[:PORT], address or network that is allowed; `port` None is every port."""

    name: str
    network: Network | None
    port: int | None

    @classmethod
    def parse(cls, text: str) -> HostRule:
        """Read a rule: name, address or CIDR, each with :PORT if wanted (IPv6 then in brackets). Raises ValueError."""
        host, port = _split(text)
        try:
            return cls("", ip_network(host), port)
        except ValueError as error:
            if "/" in host or ":" in host:
                raise ValueError(f"{_EXPECTED}, got {text!r} ({error})") from None
        name = host.rstrip(".").lower()
        if not _NAME.fullmatch(name):
            raise ValueError(f"{_EXPECTED}, got {text!r}")
        return cls(name, None, port)

    def lists(self, address: Address, port: int) -> bool:
        """Whether it names this address; only a network that is itself not public names one that is not."""
        if self.network is None or self.port not in (None, port) or address not in self.network:
            return False
        return _public(address) or self._special

    @property
    def _special(self) -> bool:
        network = self.network
        assert network is not None  # noqa: S101 - asked by lists alone
        narrow = network.prefixlen >= (8 if network.version == 4 else 7)
        return narrow and not _public(network.network_address) and not _public(network.broadcast_address)


class AllowedHosts:
    """A name must be listed itself; an address must be public, or listed as address or network."""

    def __init__(self, rules: Sequence[HostRule] = (), resolve: Resolver = look_up) -> None:
        self._rules = rules
        self._resolve = resolve

    def check(self, host: str, port: int) -> None:
        """Refuse what is not listed before anything is looked up. Raises SourceNotAllowed."""
        address = _address(host)
        allowed = self._listed(address, port) if address else self._named(host, port)
        if not allowed:
            raise SourceNotAllowed(f"uri: {host} port {port} is not a host that this server allows (--allow-host)")

    async def addresses(self, host: str, port: int) -> list[str]:
        """Where to connect to for `host`: checked, in the resolver's order. Raises SourceError."""
        self.check(host, port)
        if _address(host):
            return [host]
        try:
            found = [ip_address(text.partition("%")[0]) for text in await self._resolve(host, port)]
        except OSError as error:
            raise SourceUnavailable(f"the name {host} does not resolve: {error.strerror or error}") from None
        allowed = [str(address) for address in found if _public(address) or self._listed(address, port)]
        if not allowed:
            raise SourceNotAllowed(
                f"uri: {host} resolves to no public address, nor to one that this server allows (--allow-host CIDR)"
            )
        return allowed

    def _named(self, host: str, port: int) -> bool:
        return any(rule.name == host and rule.port in (None, port) for rule in self._rules)

    def _listed(self, address: Address, port: int) -> bool:
        return any(rule.lists(_plain(address), port) or rule.lists(address, port) for rule in self._rules)


def _split(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.partition("]")[2] in ("", *(f"/{n}" for n in range(129))):
        host = host.replace("[", "").replace("]", "")
    elif not colon or ":" in host:
        return text.replace("[", "").replace("]", ""), None
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"expected a port of 1..65535, got {text!r}")
    return host, int(port)


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        for network, shift in _EMBEDDED:
            if address in network:
                return IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return address


def _public(address: Address) -> bool:
    """Whether it is an address of the internet, and not of this machine, a local network or a cloud's inside."""
    address = _plain(address)
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address in _METADATA
    return address.is_global and not special
