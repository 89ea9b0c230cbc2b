"""From domain errors to gRPC status codes, in one place for every call."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, closing, nullcontext
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog

from server_kit import metrics, retry
from server_kit.requests import Requests, UnreadableRequest, checked, reader

log = structlog.get_logger(__name__)

MAX_DETAILS_BYTES = 2000

Details = grpc.HandlerCallDetails
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs only


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Answers a domain error with the code that `codes` gives its nearest class, and counts every call's outcome.

    Bytes that are no request are INVALID_ARGUMENT; gRPC by itself would say UNKNOWN, and what Python's exception was.

    The error's text becomes the status details, and its `retry_after_seconds`, if it has that, a hint in the metadata
    when to try again. Any other exception is logged with its traceback and answered as INTERNAL with an id to look for
    in the log, so that nothing internal reaches the caller.
    """

    def __init__(self, codes: Mapping[type[Exception], grpc.StatusCode]) -> None:
        self._codes: dict[type[Exception], grpc.StatusCode] = {
            UnreadableRequest: grpc.StatusCode.INVALID_ARGUMENT,
            **codes,
        }
        self._guarded: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler | None]], handler_call_details: Details
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:  # an unknown method; gRPC answers it
            return handler
        method = handler_call_details.method
        known = self._guarded.get(method)
        if known is None or known[0] is not handler:
            known = self._guarded[method] = handler, _rebuild(handler, self._guard(handler, method))
        return known[1]

    def _guard(self, handler: Handler, method: str) -> Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Any]:
        inner: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        def taking(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AbstractContextManager[Any]:
            return closing(Requests(context)) if handler.request_streaming else nullcontext(checked(request))

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            with metrics.Call(method) as call:
                try:
                    with taking(request, context) as taken:
                        return await inner(taken, context)
                except Exception as error:  # noqa: BLE001 - the one place that turns any error into a status
                    await self._abort(error, method, context, call)

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncGenerator[Any, None]:
            with metrics.Call(method) as call:
                try:
                    with taking(request, context) as taken:
                        async with aclosing(inner(taken, context)) as responses:
                            async for response in responses:
                                yield response
                except Exception as error:  # noqa: BLE001 - as above
                    await self._abort(error, method, context, call)

        return stream if inspect.isasyncgenfunction(inner) else answer

    async def _abort(
        self, error: Exception, method: str, context: grpc.aio.ServicerContext[Any, Any], call: metrics.Call
    ) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            call.code = _code_of(context).name
            raise error
        code = next((self._codes[kind] for kind in type(error).__mro__ if kind in self._codes), None)
        if code is not None:
            call.code = code.name
            # gRPC keeps the error for a while, and with it all that the functions it came through had in hand.
            error.__traceback__ = None
            details, seconds = _fitting(str(error)), getattr(error, "retry_after_seconds", None)
            await context.abort(code, details, () if seconds is None else retry.metadata(code, details, seconds))
        call.code = grpc.StatusCode.INTERNAL.name
        reference = secrets.token_hex(4)
        log.error("call failed", method=method, reference=reference, exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error, see the server's log (reference {reference})")


def _fitting(details: str) -> str:
    """`details`, cut where they would be too long for a status: gRPC sends them as a header, three bytes for one."""
    encoded = details.encode(errors="replace")
    if len(encoded) <= MAX_DETAILS_BYTES:
        return details
    return encoded[:MAX_DETAILS_BYTES].decode(errors="ignore") + "…"


def _code_of(context: grpc.aio.ServicerContext[Any, Any]) -> grpc.StatusCode:
    number = context.code()
    return next(code for code in grpc.StatusCode if number in (code, code.value[0]))


def _rebuild(handler: Handler, behaviour: Callable[..., Any]) -> Handler:
    """The same handler with another behaviour."""
    kinds: dict[tuple[bool, bool], Callable[..., Any]] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
    rebuilt: Handler = make(behaviour, reader(handler.request_deserializer), handler.response_serializer)
    return rebuilt
