"""The OpenAPI document, made from the tables that check requests: what it says is what is checked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from aiohttp import web

from exo_rkllm import __version__
from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.encoding import encode
from exo_rkllm.api.faults import Language


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


TEXT = {"type": "string"}
ERRORS: dict[Language, dict[str, Any]] = {
    "openai": _object(error=_object(message=TEXT, type=TEXT, param={"type": ["string", "null"]}, code=TEXT)),
    "anthropic": _object(type={"const": "error"}, error=_object(type=TEXT, message=TEXT), request_id=TEXT),
    "ollama": _object(error=TEXT),
}
PARAMETER = re.compile(r"\{(\w+)(?::[^}]*)?\}")


def plain_path(path: str) -> str:
    """A route's path without aiohttp's regular expressions."""
    return PARAMETER.sub(r"{\1}", path)


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {f"{language}-error": schema for language, schema in ERRORS.items()}
    for endpoint in endpoints:
        if endpoint.body is not None:
            schemas[endpoint.body.name] = endpoint.body.schema()
        paths.setdefault(plain_path(endpoint.path), {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "exo-rkllm",
            "version": __version__,
            "description": "Language models on a Rockchip NPU, in the words of OpenAI, Anthropic and Ollama.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    answers = {endpoint.content_type: {"schema": _answer(endpoint.content_type)}}
    if endpoint.stream_type:
        answers[endpoint.stream_type] = {"schema": {}}
    error = {"application/json": {"schema": {"$ref": f"#/components/schemas/{endpoint.language}-error"}}}
    if endpoint.path == "/readyz":
        error = {"text/plain": {"schema": TEXT}}
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "-", f"{endpoint.method.lower()}{plain_path(endpoint.path)}").strip("-"),
        "tags": [endpoint.language],
        "summary": endpoint.about,
        "responses": {
            "200": {"description": "The answer.", "content": answers},
            "4XX": {"description": "What was wrong with the request.", "content": error},
            "5XX": {"description": "What stands in the way.", "content": error},
        },
    }
    names = PARAMETER.findall(endpoint.path)
    if names:
        schema = {"type": "string", "minLength": 1}
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]
    if endpoint.body is not None:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{endpoint.body.name}"}}}
        operation["requestBody"] = {"required": True, "content": content}
    if endpoint.right != "open":
        operation["security"] = [{}, {"bearer": []}, {"x-api-key": []}]
    return operation


def _answer(content_type: str) -> dict[str, Any]:
    """Of JSON and of events anything; the clients' own tests say what is in them."""
    return {} if content_type in ("application/json", "text/event-stream") else TEXT


async def _send(body: str, call: Call) -> web.StreamResponse:
    return web.Response(text=body, content_type="application/json")


def endpoint(endpoints: Iterable[Endpoint]) -> Endpoint:
    body = encode(document(endpoints))
    return Endpoint("GET", "/openapi.json", partial(_send, body), "Returns the API as an OpenAPI document.")
