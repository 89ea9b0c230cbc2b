"""Prometheus metrics that every server has, and the endpoint that serves all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import Self

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


class Call:
    """Counts and times one call, from entering to leaving it; whoever knows how it ended writes that into `code`.

    Every call pays for this, so it is no generator, and what it counts in is looked up once.
    """

    __slots__ = ("_method", "_running", "_seconds", "_start", "code")

    def __init__(self, method: str) -> None:
        """Only methods that exist: each is remembered."""
        self.code = "OK"
        self._method = method

    def __enter__(self) -> Self:
        self._running, self._seconds = _of(self._method)
        self._running.inc()
        self._start = perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, asyncio.CancelledError | GeneratorExit):
            self.code = "CANCELLED"
        self._running.dec()
        _finished(self._method, self.code).inc()
        self._seconds.observe(perf_counter() - self._start)


@cache
def _of(method: str) -> tuple[Gauge, Histogram]:
    return CALLS_RUNNING.labels(method), CALL_SECONDS.labels(method)


@cache
def _finished(method: str, code: str) -> Counter:
    return CALLS.labels(method, code)


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
