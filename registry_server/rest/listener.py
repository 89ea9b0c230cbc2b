"""Where the routes are served: a socket of their own, in the event loop of the gRPC server."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from registry_server.registry import Registry
from registry_server.rest import problems
from registry_server.rest.app import create_app
from server_kit import background
from server_kit.addresses import Address, parse_address
from server_kit.health import Health
from server_kit.startup import StartupError

MAX_CONNECTIONS = 1000
FIRST_REQUEST_SECONDS = 10.0

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s"
)


class _Connection(H11Protocol):
    """One of at most MAX_CONNECTIONS: each holds a descriptor, and a request of up to 1 MiB.

    One that asks for nothing in FIRST_REQUEST_SECONDS is closed, so that silence cannot use them up.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            body = problems.problem(503, f"the limit of {MAX_CONNECTIONS} connections is reached; try again").body
            transport.write(_FULL % (len(body), body))
            transport.close()
        else:
            self.loop.call_later(FIRST_REQUEST_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        asked: object = self.cycle  # None until the first request, whatever its type says
        if asked is None:
            self.transport.close()


class _Server(uvicorn.Server):
    """Leaves signals to those who handle them for the whole process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(registry: Registry, address: str, health: Health, grace_seconds: float) -> AsyncIterator[str]:
    """Serve until left; yields the address in use. When draining, requests have `grace_seconds` to end.

    Raises StartupError.
    """
    config = uvicorn.Config(
        create_app(registry),
        # Whatever else is installed, HTTP is read by the same parser.
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        # No proxy is trusted to say who calls.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(grace_seconds),
    )
    server = _Server(config)
    # It would tell of its start and end, which are the server's own; the log of requests is another logger.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    with _listening(address) as (listener, in_use):
        work = background.start(server.serve([listener]), "rest")
        async with background.running(_end_when_draining(server, health)):
            try:
                yield in_use
            finally:
                server.should_exit = True
                await work


async def _end_when_draining(server: uvicorn.Server, health: Health) -> None:
    await health.draining.wait()
    server.should_exit = True


@contextmanager
def _listening(text: str) -> Iterator[tuple[socket.socket, str]]:
    """A listening socket, and its address with the port that it really has."""
    address = parse_address(text)
    try:
        listener = _listen_on_path(address.path) if address.path else _listen_on_port(address)
    except OSError as error:
        raise StartupError(f"--rest {text}: {error.strerror or error}") from error
    try:
        port = address.port if address.path else listener.getsockname()[1]
        yield listener, Address(address.host, port, address.path).target
    finally:
        listener.close()
        if address.path:
            Path(address.path).unlink(missing_ok=True)


def _listen_on_port(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    listener = socket.create_server((address.host, address.port), family=family, dualstack_ipv6=both)
    # Connections take it over. Head and body of an answer are written apart, and the second one would wait for 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _listen_on_path(path: str) -> socket.socket:
    _remove_if_dead(Path(path))
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _remove_if_dead(path: Path) -> None:
    """A server that was killed leaves its socket behind; one that lives keeps it."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
