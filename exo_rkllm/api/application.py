"""The route table, and the web application made of it."""

from __future__ import annotations

from aiohttp import web

from exo_rkllm.api import anthropic, embeddings, ollama, openai, openapi, page, responses, status
from exo_rkllm.api.context import ApiContext
from exo_rkllm.api.conversations import Conversations
from exo_rkllm.api.endpoint import Endpoint
from exo_rkllm.api.serve import middleware, serve


def endpoints() -> tuple[Endpoint, ...]:
    """Every endpoint there is; what they have to remember between calls is made here."""
    rows = (
        *openai.ENDPOINTS,
        *embeddings.ENDPOINTS,
        *responses.endpoints(Conversations()),
        *anthropic.ENDPOINTS,
        *ollama.ENDPOINTS,
        *status.ENDPOINTS,
        *page.endpoints(),
    )
    return (*rows, openapi.endpoint(rows))


def application(parts: ApiContext) -> web.Application:
    app = web.Application(middlewares=[middleware(parts)], client_max_size=parts.settings().body_bytes)
    for endpoint in endpoints():
        app.router.add_route(endpoint.method, endpoint.path, serve(endpoint, parts))
    return app
