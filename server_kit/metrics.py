"""Prometheus metrics that every server has, and the endpoint that serves all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from time import perf_counter

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from server_kit.addresses import parse_address
from server_kit.startup import StartupError

CALLS = Counter("videoai_calls", "Finished calls, by method and status code.", ["method", "code"])
CALLS_RUNNING = Gauge("videoai_calls_running", "Calls in progress, by method.", ["method"])
CALL_SECONDS = Histogram(
    "videoai_call_seconds",
    "Time from a call's first message to its end, by method.",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600),
)


@dataclass(slots=True)
class Outcome:
    """How a call ended; the status code's name."""

    code: str = "OK"


@contextmanager
def observe_call(method: str) -> Iterator[Outcome]:
    """Count and time one call; whoever knows how it ended writes it into the yielded outcome."""
    outcome, start = Outcome(), perf_counter()
    running, seconds = _of(method)
    running.inc()
    try:
        yield outcome
    except (asyncio.CancelledError, GeneratorExit):
        outcome.code = "CANCELLED"
        raise
    finally:
        running.dec()
        CALLS.labels(method, outcome.code).inc()
        seconds.observe(perf_counter() - start)


@cache
def _of(method: str) -> tuple[Gauge, Histogram]:
    """Looked up once, which costs more than counting; only methods that exist are asked for."""
    return CALLS_RUNNING.labels(method), CALL_SECONDS.labels(method)


@contextmanager
def endpoint(address: str | None) -> Iterator[str | None]:
    """Serve the metrics over HTTP at `address` (host:port; None = not at all) and yield the address in use."""
    if address is None:
        yield None
        return
    where = parse_address(address)
    try:
        server, thread = start_http_server(where.port, where.host)
    except OSError as error:
        raise StartupError(f"--metrics {address}: {error.strerror or error}") from error
    try:
        yield f"{where.host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
