"""The status page: files of this package, nothing from anywhere else, and a browser that is told so."""

from __future__ import annotations

import asyncio
import functools
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from exo_rkllm import __version__
from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.faults import NoSuchPlace

FOLDER = Path(__file__).parent / "page"
TYPES: Mapping[str, str] = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".woff2": "font/woff2",
}
PACKED = frozenset({".woff2"})  # compressed already
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Vary": "Accept, Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page as it is sent; `packed` is it compressed with gzip, or empty."""

    content_type: str
    body: bytes
    packed: bytes
    etag: str


@functools.cache
def _names() -> frozenset[str]:
    """Every file of the page, relative to its folder."""
    return frozenset(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.suffix in TYPES)


@functools.cache
def _read(name: str) -> PageFile:
    path = FOLDER / name
    body = path.read_bytes()
    packed = b"" if path.suffix in PACKED else gzip.compress(body, mtime=0)
    return PageFile(TYPES[path.suffix], body, packed, f'"{hashlib.sha256(body).hexdigest()[:20]}"')


async def _send(name: str, call: Call) -> web.StreamResponse:
    """Revalidated by what it holds, so that a browser never mixes two versions."""
    file = await asyncio.to_thread(_read, name)
    headers = {**HEADERS, "ETag": file.etag}
    if call.request.headers.get("If-None-Match") == file.etag:
        return web.Response(status=304, headers=headers)
    body = file.body
    if file.packed and "gzip" in call.request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        body = file.packed
    charset = None if file.content_type.startswith("font/") else "utf-8"
    return web.Response(body=body, content_type=file.content_type, charset=charset, headers=headers)


async def root(call: Call) -> web.StreamResponse:
    """Ollama's clients ask here whether it runs, and expect these words; browsers want the page."""
    if call.request.method == "HEAD" or "text/html" in call.request.headers.get("Accept", ""):
        return await _send("index.html", call)
    return web.Response(text=f"Ollama is running (exo-rkllm {__version__})")


async def icon(call: Call) -> web.StreamResponse:
    return await _send("icon.svg", call)


async def file(call: Call) -> web.StreamResponse:
    name = call.request.match_info["file"]
    if name not in _names():
        raise NoSuchPlace("The page has no such file.", "GET / returns the page.")
    return await _send(name, call)


# Nothing in these files is secret; what they show is asked for with the visitor's own key.
HTML = "text/html"
ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/", root, "Returns the status page.", content_type=HTML, stream_type="text/plain"),
    Endpoint("HEAD", "/", root, "Tells Ollama's clients that it runs.", content_type=HTML),
    Endpoint("GET", "/icon.svg", icon, "Returns the icon of the status page.", content_type=TYPES[".svg"]),
    Endpoint("GET", "/page/{file:.+}", file, "Returns a file of the status page.", content_type=TYPES[".js"]),
)
