from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

MODELS = "/api/v1/registry/models"


@dataclass(frozen=True)
class Door:
    """The REST door of a running server, with its gRPC door beside it."""

    http: httpx.AsyncClient
    grpc: Any
    address: str

    async def register(self, name: str, version: int, path: str, **rest: Any) -> httpx.Response:
        return await self.http.post(MODELS, json={"model_name": name, "version": version, "path": path, **rest})

    async def activate(self, name: str, version: object, **options: Any) -> httpx.Response:
        return await self.http.put(f"{MODELS}/{name}/{version}/activate", **options)

    async def list(self, name: str | None = None) -> Any:
        response = await self.http.get(MODELS, params={"model_name": name} if name else {})
        assert response.status_code == 200, response.text
        return response.json()["models"]


@pytest.fixture
def open_door(root: Any, serve: Any) -> Callable[[], AbstractAsyncContextManager[Door]]:
    """Start a server over `root`: real sockets, real file."""

    @asynccontextmanager
    async def run() -> AsyncIterator[Door]:
        async with serve(root, rest="127.0.0.1:0") as client:
            address = client.doors["rest"]
            async with httpx.AsyncClient(base_url=f"http://{address}", timeout=60, trust_env=False) as http:
                yield Door(http, client, address)

    return run


@pytest.fixture
async def door(open_door: Callable[[], AbstractAsyncContextManager[Door]]) -> AsyncIterator[Door]:
    """A server over an empty root."""
    async with open_door() as running:
        yield running


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """For servers in processes of their own."""
    with httpx.Client(timeout=60, trust_env=False) as client:
        yield client
