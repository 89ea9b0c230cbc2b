"""A version's bytes as they come, for asyncio."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc

from videoai import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from videoai.registry.v1 import registry_pb2

    Method = grpc.aio.UnaryStreamMultiCallable[registry_pb2.DownloadModelRequest, registry_pb2.DownloadModelResponse]


@asynccontextmanager
async def read(
    method: Method, request: registry_pb2.DownloadModelRequest
) -> AsyncIterator[tuple[registry_pb2.Model, AsyncIterator[bytes]]]:
    """Give the version and its bytes as they come; what the call raises within the block is raised as VideoAIError."""
    call = method(request)
    try:
        messages = aiter(call)
        first = await anext(messages, None)
        if first is None or first.WhichOneof("payload") != "model":
            raise errors.DataLoss("the registry ended the download before it began")
        yield first.model, (message.chunk async for message in messages)
    except grpc.RpcError as error:
        raise errors.from_grpc(error) from None
    finally:
        call.cancel()
