"""From errors to answers, in one place for every route."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from registry_server import errors
from registry_server.entry import InvalidEntry
from registry_server.rest.schemas import NewModel

log = structlog.get_logger(__name__)

STATUS_CODES: Mapping[type[Exception], HTTPStatus] = {
    errors.InvalidField: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidEntry: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.AlreadyRegistered: HTTPStatus.CONFLICT,
    errors.RequestIdReused: HTTPStatus.CONFLICT,
    errors.PlaceTaken: HTTPStatus.CONFLICT,
    errors.ExpectationNotMet: HTTPStatus.CONFLICT,
    errors.ChangedMeanwhile: HTTPStatus.CONFLICT,
    errors.Refused: HTTPStatus.CONFLICT,
    errors.UploadTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UploadStalled: HTTPStatus.REQUEST_TIMEOUT,
    errors.StorageUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TooManyWatchers: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TooManyUploads: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.DataDamaged: HTTPStatus.INTERNAL_SERVER_ERROR,
}

MEDIA_TYPE = "application/problem+json"
MAX_TEXT = 2000

_MEANINGS = {
    400: "The body is not JSON.",
    404: "There is no such version, or no file at `path`.",
    408: "The body did not come in time.",
    409: "The present state does not allow it: registered already, archived, the file is another than it was, "
    "another version is in production than was expected, the Idempotency-Key belongs to another request.",
    413: "The body is too long.",
    415: "The body is not said to be application/json.",
    422: "A parameter or a part of the body is not what it must be.",
    500: "A fault of the server; its log says more.",
    503: "The storage cannot be reached or written now, or the server is stopping. Repeat it with its Idempotency-Key.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}


def refusal(error: Exception, method: str) -> Response:
    """The answer to a request that failed; what nobody foresaw is logged, and kept from the caller."""
    if isinstance(error, HTTPException):
        return problem(error.status_code, error.detail, headers=error.headers)
    if isinstance(error, RequestValidationError):
        error = _misfit(error)
    status = next((STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES), None)
    if status is not None:
        return problem(status, str(error), getattr(error, "field", ""))
    reference = secrets.token_hex(4)
    log.error("call failed", method=method, reference=reference, exc_info=error)
    return problem(500, f"internal error, see the server's log (reference {reference})")


def _misfit(error: RequestValidationError) -> errors.InvalidField:
    """The body is not shaped as it must be; values have been checked by the registry's own checks."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"][1:])) or "body"
    match first["type"]:
        case "missing":
            return errors.InvalidField(field, "a value, for it is required")
        case "extra_forbidden":
            return errors.InvalidField(field, f"no such key, only {', '.join(NewModel.model_fields)}")
    return errors.InvalidField(field, "an object", first["input"])


def problem(status: int, detail: str, field: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """The answer that says in words why a request is refused."""
    content = {"title": HTTPStatus(status).phrase, "status": status, "detail": _brief(detail)}
    if field:
        content["field"] = _brief(field)
    return JSONResponse(content, status, headers, MEDIA_TYPE)


def _brief(text: str) -> str:
    """Names may be as long as the caller made them."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
