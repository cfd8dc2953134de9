"""Errors that only HTTP has, and the body in which each API reports an error."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from exo_rkllm.errors import Busy, ExoRkllmError
from exo_rkllm.schema.specs import FieldError

log = logging.getLogger("exo_rkllm.api")

Language: TypeAlias = Literal["openai", "anthropic", "ollama"]


class KeyNeeded(ExoRkllmError):
    """The request brought no API key that is known here."""

    code = "invalid_api_key"
    status = 401


class Forbidden(ExoRkllmError):
    """The caller is known and may not do this."""

    code = "forbidden"
    status = 403


class NoSuchPlace(ExoRkllmError):
    """Nothing answers under this path."""

    code = "not_found"
    status = 404


class WrongMethod(ExoRkllmError):
    """There is something under this path, for other methods."""

    code = "method_not_allowed"
    status = 405


class BodyTooLarge(ExoRkllmError):
    """The body is larger than `[api] body_bytes` allows."""

    code = "body_too_large"
    status = 413


class BodyTooSlow(ExoRkllmError):
    """The body did not arrive within the time for it."""

    code = "body_too_slow"
    status = 408


def known_error(error: Exception, place: str) -> ExoRkllmError:
    """The error where it is one of ours; of a defect the traceback is in the journal and nowhere else."""
    if isinstance(error, ExoRkllmError):
        return error
    log.error("%s failed", place, exc_info=error)
    return ExoRkllmError("Something broke inside exo-rkllm.", "exo-rkllm logs shows what.")


# ── error bodies ─────────────────────────────────────────────────────────────────────────────────

ANTHROPIC_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def _openai(error: ExoRkllmError, request_id: str) -> dict[str, Any]:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    param = error.field if isinstance(error, FieldError) else None
    return {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}


def _anthropic(error: ExoRkllmError, request_id: str) -> dict[str, Any]:
    kind = ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(error)}, "request_id": request_id}


def _ollama(error: ExoRkllmError, request_id: str) -> dict[str, Any]:
    return {"error": str(error)}


ERROR_BODIES: Mapping[Language, Callable[[ExoRkllmError, str], dict[str, Any]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "ollama": _ollama,
}


def language_of(path: str) -> Language:
    """For paths under which nothing is registered: the client that strayed there still gets its own shape."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "ollama" if path.startswith("/api/") else "openai"


def error_body(error: ExoRkllmError, language: Language, request_id: str) -> dict[str, Any]:
    return ERROR_BODIES[language](error, request_id)


def error_headers(error: ExoRkllmError) -> dict[str, str]:
    if isinstance(error, Busy):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, KeyNeeded) else {}
