"""The API's application, as far as it is built: whether the daemon lives, and what Prometheus reads."""

from __future__ import annotations

from aiohttp import web

from exo_rkllm.daemon.parts import Parts


def application(parts: Parts) -> web.Application:
    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz)])
    return app
