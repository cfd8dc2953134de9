"""The status page: three files of this package, nothing from anywhere else, and a browser that is told so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from aiohttp import web

from exo_rkllm import __version__
from exo_rkllm.api.context import Call, Endpoint

FOLDER = Path(__file__).parent / "page"
FILES: Mapping[str, tuple[str, str]] = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def file(body: bytes, content_type: str, call: Call) -> web.StreamResponse:
    """Revalidated by what it holds, so that a browser never mixes two versions."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    headers = {**HEADERS, "ETag": etag}
    if call.request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)


async def root(body: bytes, call: Call) -> web.StreamResponse:
    """Ollama's clients ask here whether it runs, and expect these words; browsers want the page."""
    if call.request.method == "HEAD" or "text/html" in call.request.headers.get("Accept", ""):
        return await file(body, "text/html", call)
    return web.Response(text=f"Ollama is running (exo-rkllm {__version__})")


def endpoints() -> tuple[Endpoint, ...]:
    """Nothing in these files is secret; what they show is asked for with the visitor's own key."""
    bodies = {path: (FOLDER / name).read_bytes() for path, (name, _) in FILES.items()}
    page = partial(root, bodies["/"])
    html, about = "text/html", "Returns a file of the status page."
    return (
        Endpoint("GET", "/", page, "Returns the status page.", content_type=html, stream_type="text/plain"),
        Endpoint("HEAD", "/", page, "Tells Ollama's clients that it runs.", content_type=html),
        *(
            Endpoint("GET", path, partial(file, bodies[path], kind), about, content_type=kind)
            for path, (_, kind) in FILES.items()
            if path != "/"
        ),
    )
