"""The standard health service, and the sign that the server is about to stop.

The asyncio servicer of grpcio-health-checking forgets the other watchers of a service when one of them leaves, so the
three rpcs are written here over its stubs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server_kit.startup import StartupError

Status = health_pb2.HealthCheckResponse
Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):
    """`grpc.health.v1` for a server (service "") and its services; all NOT_SERVING until set.

    `draining` is set once the server has been told to stop: endless streams end then, so that only calls with an end of
    their own use up the grace period.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._statuses: dict[str, Any] = dict.fromkeys(("", *services), Status.NOT_SERVING)
        self._changed: set[asyncio.Event] = set()
        self.draining = asyncio.Event()
        self.failed: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()

    def set(self, *, serving: bool, service: str | None = None) -> None:
        """Set one service's status, or that of the server and all its services. Ignored once draining."""
        if self.draining.is_set():
            return
        status = Status.SERVING if serving else Status.NOT_SERVING
        self._statuses.update(dict.fromkeys(self._statuses if service is None else (service,), status))
        self._notify()

    def drain(self) -> None:
        """Tell everyone who asks that the server is going away."""
        self.set(serving=False)
        self.draining.set()
        self._notify()

    def fail(self, error: StartupError) -> None:
        """End the process with exit status 1: there is nothing to serve."""
        if not self.failed.done():
            self.failed.set_exception(error)

    def _notify(self) -> None:
        for changed in self._changed:
            changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:  # noqa: N802
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"service: no service {request.service!r} on this server")
        return Status(status=self._statuses[request.service])

    async def List(self, request: Any, context: Context) -> Any:  # noqa: N802
        return health_pb2.HealthListResponse(  # type: ignore[attr-defined] # not in the stubs yet
            statuses={name: Status(status=status) for name, status in self._statuses.items()}
        )

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        changed = asyncio.Event()
        self._changed.add(changed)
        last: Any = None
        try:
            while True:
                changed.clear()
                status = self._statuses.get(request.service, Status.SERVICE_UNKNOWN)
                if status != last:
                    yield Status(status=status)
                last = status
                if self.draining.is_set():
                    return
                await changed.wait()
        finally:
            self._changed.discard(changed)
