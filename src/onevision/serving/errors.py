"""What goes wrong with a request, as a status code and a JSON object; never a traceback.

/search answers `{"error": {"code": ..., "message": ...}}`, the open inference protocol `{"error": message}`.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from onevision.data.images import ImageError
from onevision.data.store import StoreError
from onevision.errors import ArtifactError, ContractError, OneVisionError
from onevision.serving.engine import NotReadyError, OverloadedError, SlowAnswerError

log = logging.getLogger(__name__)
PROTOCOL = "/v2"
MAX_EXPLAINED = 100
"""Mistakes in a request beyond which they are counted, not named: naming costs many times what finding does."""


class RequestError(Exception):
    """A request that cannot be answered as it was sent: status code, a word for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def explain(error: ValidationError) -> str:
    """A validation error as sentences that name the key, without the value that was sent."""
    if error.error_count() > MAX_EXPLAINED:
        return f"{error.error_count()} keys or values are wrong; /openapi.json says what is right"
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        key = ".".join(str(part) for part in problem["loc"])
        message = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{key}: {message}" if key else message)
    return "; ".join(lines[:5])


def describe(error: Exception) -> tuple[int, str, str, dict[str, str]]:
    """Status, code, message and headers of an error's answer."""
    if isinstance(error, RequestError):
        return error.status, error.code, str(error), {}
    if isinstance(error, OverloadedError):
        return 429, "overloaded", str(error), {"Retry-After": str(error.retry_after)}
    if isinstance(error, NotReadyError):
        return 503, "not_ready", str(error), {"Retry-After": "5"}
    if isinstance(error, SlowAnswerError):
        return 504, "timeout", str(error), {}
    if isinstance(error, ClientDisconnect):
        return 499, "client_closed", "the client broke off", {}  # nobody reads it; it is counted
    if isinstance(error, HTTPException):
        code = HTTPStatus(error.status_code).name.lower()
        return error.status_code, code, str(error.detail), dict(error.headers or {})
    if isinstance(error, ImageError):
        return 400, "unusable_image", str(error), {}
    if isinstance(error, OneVisionError) and not isinstance(error, (ArtifactError, ContractError, StoreError)):
        return 400, "invalid_request", str(error), {}
    log.error("a request failed", exc_info=error)
    return 500, "internal", "the server failed to answer; the reason is in its log", {}


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that failed."""
    status, code, message, headers = describe(error)
    body = message if request.url.path.startswith(PROTOCOL) else {"code": code, "message": message}
    return JSONResponse({"error": body}, status, headers)


def add_handlers(app: FastAPI) -> None:
    """Answer every error of the app with `answer_error`."""
    of_requests = (RequestError, ClientDisconnect, HTTPException, OneVisionError)
    for kind in (*of_requests, OverloadedError, NotReadyError, SlowAnswerError, Exception):
        app.add_exception_handler(kind, answer_error)
