"""One server process from start to orderly end."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server_kit import memory, metrics
from server_kit.addresses import parse_address
from server_kit.errors import ErrorInterceptor
from server_kit.health import Health
from server_kit.reflection import add_reflection
from server_kit.startup import StartupError

if sys.platform == "win32":
    from asyncio import new_event_loop
else:  # the same for less of the processor
    from uvloop import new_event_loop

log = structlog.get_logger(__name__)

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

Setup = Callable[[grpc.aio.Server, Health], AbstractAsyncContextManager[Mapping[str, str] | None]]
"""What it yields names the other doors that it has opened, and their addresses."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve: addresses to listen on, address of the metrics endpoint (None = none), seconds to drain."""

    listen: tuple[str, ...]
    metrics: str | None = None
    grace_seconds: float = 30.0
    max_request_bytes: int = 64 * 2**20


def run(
    options: ServeOptions,
    *,
    services: Sequence[str],
    error_codes: Mapping[type[Exception], grpc.StatusCode],
    setup: Setup,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Exits with status 1 and one line where the server cannot start.

    `setup` is entered before the listeners open: it adds servicers and starts background tasks, and what it started
    ends when it is left, after the last call has been answered. It says through `Health` when the server is ready.
    """
    memory.settle()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(options, services, error_codes, setup))
    except StartupError as error:
        log.error("cannot start", reason=str(error))
        sys.exit(1)


async def _serve(
    options: ServeOptions,
    services: Sequence[str],
    error_codes: Mapping[type[Exception], grpc.StatusCode],
    setup: Setup,
) -> None:
    stopped = asyncio.ensure_future(_stop_signal().wait())
    health = Health(services)
    server = _new_server(options, error_codes)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    add_reflection(server, (*services, HEALTH_SERVICE))
    async with AsyncExitStack() as stack:
        metrics_address = stack.enter_context(metrics.endpoint(options.metrics))
        doors = await stack.enter_async_context(setup(server, health)) or {}
        addresses = [_bind(server, text) for text in options.listen]
        await server.start()
        stack.push_async_callback(server.stop, 0)
        for address in addresses:
            print(f"listening on {address}", flush=True)  # noqa: T201 - the promised first line of standard output
        for name, address in doors.items():
            print(f"{name} listening on {address}", flush=True)  # noqa: T201 - promised as well
        log.info("started", listen=addresses, metrics=metrics_address, **doors)
        await _first(stopped, health.failed)
        log.info("draining", grace_seconds=options.grace_seconds)
        health.drain()
        await server.stop(options.grace_seconds)
    log.info("stopped")


def _new_server(options: ServeOptions, error_codes: Mapping[type[Exception], grpc.StatusCode]) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=[ErrorInterceptor(error_codes)],
        options=[
            # Two servers on one port would share its connections at random.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", options.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            # Watchers may be silent for long; let them ping.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ],
    )


def _bind(server: grpc.aio.Server, text: str) -> str:
    """Open one listener; return its address with the port that it really has."""
    try:
        address = parse_address(text)
        port = server.add_insecure_port(address.target)
    except (ValueError, RuntimeError) as error:
        raise StartupError(f"--listen {text}: {error}") from error
    if address.path:
        return address.target
    return address.target.removesuffix(f":{address.port}") + f":{port}"


async def _first(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of the futures is done; raise what it raises."""
    done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    for future in done:
        future.result()


def _stop_signal() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("second signal, not draining", signal=number.name)
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop
