"""The routes: thin handlers from JSON to the registry and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from importlib.metadata import version as installed_version
from itertools import islice
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from registry_server.entry import Entry
from registry_server.errors import InvalidField
from registry_server.registry import Registry
from registry_server.rest.body import JsonRequest
from registry_server.rest.problems import documented, refusal
from registry_server.rest.schemas import (
    ExpectedVersion,
    ModelEntry,
    ModelList,
    ModelName,
    NewModel,
    OnlyModelName,
    Problem,
    RequestKey,
    Version,
)
from registry_server.steps import Registration
from server_kit import metrics

MODELS = "/api/v1/registry/models"
BATCH = 100
"""So many entries of a list are written at a time, for the event loop has other things to do."""

LOCATION = {"Location": {"description": "The versions of the model.", "schema": {"type": "string"}}}

IdempotencyKey = Annotated[
    RequestKey, Header(alias="Idempotency-Key", description="Repeating a request with its key does no harm.")
]

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class _Route(APIRoute):
    """Counts the calls of a route, and answers every error."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        method = f"{' '.join(self.methods or ())} {self.path}"

        async def answer(request: Request) -> Response:
            with metrics.Call(method) as call:
                try:
                    self._check_query(request)
                    request = JsonRequest(request.scope, request.receive)
                    if self.body_field is not None:
                        await request.load()
                    response = await handle(request)
                except Exception as error:  # noqa: BLE001 - the one place that turns any error into an answer
                    response = refusal(error, method)
                except asyncio.CancelledError:  # by nobody but a server that must stop
                    response = refusal(HTTPException(503, "the server is stopping"), method)
                call.code = str(response.status_code)
                return response

        return answer

    def _check_query(self, request: Request) -> None:
        """Refuse what would be ignored: a misspelt parameter would answer another question than was asked."""
        known = [parameter.alias for parameter in self.dependant.query_params]
        given = [name for name, _ in request.query_params.multi_items()]
        for name in given:
            if name not in known or given.count(name) > 1:
                expected = f"only {', '.join(known)}, and once" if known else "none"
                raise InvalidField("query", expected, name)


class Routes:
    """Answers every route; errors are turned into answers by STATUS_CODES of `problems`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def register(self, wanted: NewModel, key: IdempotencyKey = None) -> Response:
        """Register a version of a model, as staging. Its file must be in place."""
        result = await self._registry.register(Registration(**wanted.model_dump(), request_id=key or ""))
        location = f"{MODELS}?model_name={result.entry.model_name}"
        return JSONResponse(result.entry.raw, 201, {"Location": location})

    async def list_models(
        self, model_name: Annotated[OnlyModelName, Query(description="Only the versions of this model.")] = None
    ) -> Response:
        """List all versions of all models, or of one, in order of their names and numbers."""
        entries = self._registry.catalog.after(None, model_name)
        return StreamingResponse(_listed(entries), media_type="application/json")

    async def activate(
        self,
        model_name: ModelName,
        version: Version,
        expected_production_version: Annotated[
            ExpectedVersion, Query(description="Refuse if another version is in production; 0 if any is.")
        ] = None,
        key: IdempotencyKey = None,
    ) -> Response:
        """Put a version into production, and the one that was there back to staging."""
        expected = expected_production_version
        result = await self._registry.activate(model_name, version, expected=expected, request_id=key or "")
        return JSONResponse(result.entry.raw)


def create_app(registry: Registry) -> FastAPI:
    """The application; its description is at /openapi.json, without pages that would load scripts from elsewhere."""
    app = FastAPI(
        title="videoai model registry",
        version=installed_version("videoai"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _answer_unrouted},
    )
    app.router.route_class = _Route
    _add_routes(app, Routes(registry))
    app.openapi()["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    return app


def _add_routes(app: FastAPI, routes: Routes) -> None:
    app.add_api_route(
        MODELS,
        routes.register,
        methods=["POST"],
        status_code=201,
        operation_id="register_model",
        response_model=None,
        responses={
            201: {"model": ModelEntry, "description": "The entry.", "headers": LOCATION},
            **documented(400, 404, 408, 409, 413, 415, 422, 500, 503),
        },
    )
    app.add_api_route(
        MODELS,
        routes.list_models,
        operation_id="list_models",
        response_model=None,
        responses={200: {"model": ModelList, "description": "The versions."}, **documented(422, 500, 503)},
    )
    app.add_api_route(
        f"{MODELS}/{{model_name}}/{{version}}/activate",
        routes.activate,
        methods=["PUT"],
        operation_id="activate_model_version",
        response_model=None,
        responses={
            200: {"model": ModelEntry, "description": "The entry, now in production."},
            **documented(404, 409, 422, 500, 503),
        },
    )


async def _listed(entries: Iterator[Entry]) -> AsyncIterator[str]:
    yield '{"models":['
    separator = ""
    while batch := [_encode(entry.raw) for entry in islice(entries, BATCH)]:
        yield separator + ",".join(batch)
        separator = ","
        await asyncio.sleep(0)
    yield "]}"


async def _answer_unrouted(request: Request, error: HTTPException) -> Response:
    """No such path, or no such method on it."""
    if error.status_code == 405:
        path = request.scope["path"]
        allowed = ", ".join(sorted({m for r in request.app.routes if r.path_regex.match(path) for m in r.methods}))
        error = HTTPException(405, f"this path takes {allowed}", {"Allow": allowed})
    elif error.status_code == 404:
        error = HTTPException(404, "there is no such path; those that there are, are described at /openapi.json")
    return refusal(error, request.method)
