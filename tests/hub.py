"""A local server that speaks the Hub's HTTP: listings, small files, large files behind a redirect to another origin.

    async with LocalHub() as hub:
        hub.add("org/repo", {"model.rkllm": large(b"..."), "README.md": b"..."})
        Access(hub.endpoint)

What goes wrong is said by `hub.faults`, and everything that was asked stands in `hub.asked`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from typing_extensions import Self

CHUNK = 64 * 1024
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Large:
    """A file that the Hub keeps apart: its digest is in the listing, its bytes come from another origin."""

    body: bytes
    sha256: str = ""  # a wrong one on purpose


def large(body: bytes, sha256: str = "") -> Large:
    return Large(body, sha256 or hashlib.sha256(body).hexdigest())


@dataclass
class Repo:
    files: dict[str, bytes | Large]
    card: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    gated: bool = False
    commit: str = COMMIT
    downloads: int = 0


@dataclass
class Faults:
    """`cut`: bytes after which each transfer of a large file breaks, once each. `pause`: seconds between chunks.
    `refuse`: how many requests are answered 503. `ranges`: whether parts can be asked for."""

    cut: list[int] = field(default_factory=list)
    pause: float = 0.0
    answer: int = 0  # the status of every small file and large file's address, in place of them
    short: int = 0  # a large file is sent without a length and ends here
    linger: float = 0.0  # seconds before each small file and each search
    refuse: int = 0
    ranges: bool = True
    digests: bool = True  # whether the listing has them
    sizes: bool = True
    redirect: str = ""  # leads large files there instead
    listing: bytes | None = None  # instead of the true one
    wrong_part: bool = False  # a range answered with another one
    surplus: bytes = b""  # sent after the end, without a length


@dataclass(frozen=True)
class Asked:
    origin: str  # hub or cdn
    path: str
    headers: Mapping[str, str]


class LocalHub:
    def __init__(self, token: str = "") -> None:
        self.token = token
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.sent = 0  # bytes of large files
        self._runners: list[web.AppRunner] = []
        self.endpoint = ""
        self.cdn = ""

    def add(
        self,
        name: str,
        files: Mapping[str, bytes | Large],
        *,
        card: Mapping[str, Any] | None = None,
        tags: tuple[str, ...] = (),
        gated: bool = False,
        downloads: int = 0,
    ) -> Repo:
        self.repos[name] = Repo(dict(files), card or {}, tags, gated, downloads=downloads)
        return self.repos[name]

    async def __aenter__(self) -> Self:
        hub = web.Application()
        hub.router.add_get("/api/models", self._search)
        hub.router.add_get("/api/models/{org}/{name}", self._listing)
        hub.router.add_get("/api/models/{org}/{name}/revision/{revision}", self._listing)
        hub.router.add_get("/{org}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        cdn = web.Application()
        cdn.router.add_get("/{digest}", self._blob)
        self.endpoint, self.cdn = await self._start(hub), await self._start(cdn)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def _start(self, app: web.Application) -> str:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    def _note(self, origin: str, request: web.Request) -> None:
        self.asked.append(Asked(origin, request.path_qs, dict(request.headers)))

    def _repo(self, request: web.Request) -> Repo:
        self._note("hub", request)
        if self.faults.refuse > 0:
            self.faults.refuse -= 1
            raise web.HTTPServiceUnavailable
        repo = self.repos.get(f"{request.match_info['org']}/{request.match_info['name']}")
        if repo is None:
            raise web.HTTPUnauthorized if not self.token else web.HTTPNotFound
        if repo.gated and request.headers.get("Authorization") != f"Bearer {self.token}":
            raise web.HTTPUnauthorized
        if request.match_info.get("revision", repo.commit) not in ("main", repo.commit):
            raise web.HTTPNotFound
        return repo

    async def _search(self, request: web.Request) -> web.Response:
        """Every word is in the name, in any case; the files are listed with `full`, without their sizes."""
        self._note("hub", request)
        await asyncio.sleep(self.faults.linger)
        if self.faults.listing is not None:
            return web.Response(body=self.faults.listing)
        words, tag = request.query.get("search", "").lower().split(), request.query.get("filter", "")
        found = [
            (name, repo)
            for name, repo in self.repos.items()
            if all(word in name.lower() for word in words) and (not tag or tag in repo.tags)
        ]
        assert (request.query["sort"], request.query["direction"]) == ("downloads", "-1")
        found.sort(key=lambda one: -one[1].downloads)
        rows = [
            {
                "_id": "6650f0",
                "id": name,
                "modelId": name,
                "private": False,
                "likes": 1,
                "downloads": repo.downloads,
                "tags": list(repo.tags),
                "sha": repo.commit,
                "createdAt": "2026-01-01T00:00:00.000Z",
                **({"siblings": [{"rfilename": path} for path in repo.files]} if "full" in request.query else {}),
            }
            for name, repo in found[: int(request.query.get("limit", "1000"))]
        ]
        return web.Response(body=json.dumps(rows).encode(), content_type="application/json")

    async def _listing(self, request: web.Request) -> web.Response:
        repo = self._repo(request)
        if self.faults.listing is not None:
            return web.Response(body=self.faults.listing)
        siblings = []
        for path, body in repo.files.items():
            content = body.body if isinstance(body, Large) else body
            one: dict[str, Any] = {"rfilename": path}
            if self.faults.sizes:
                one["size"] = len(content)
            if isinstance(body, Large) and self.faults.digests:
                one["lfs"] = {"sha256": body.sha256, "size": len(content), "pointerSize": 134}
            siblings.append(one)
        name = f"{request.match_info['org']}/{request.match_info['name']}"
        listing = {"id": name, "sha": repo.commit, "siblings": siblings, "cardData": repo.card, "tags": list(repo.tags)}
        return web.Response(body=json.dumps(listing).encode(), content_type="application/json")

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repo = self._repo(request)
        if self.faults.answer:
            return web.Response(status=self.faults.answer)
        body = repo.files.get(request.match_info["path"])
        if body is None:
            raise web.HTTPNotFound
        if isinstance(body, Large):
            headers = {"X-Linked-ETag": f'"{body.sha256}"', "X-Linked-Size": str(len(body.body))}
            place = self.faults.redirect or f"{self.cdn}/{hashlib.sha256(body.body).hexdigest()}?signature=1"
            raise web.HTTPFound(place, headers=headers)
        await asyncio.sleep(self.faults.linger)
        return web.Response(body=body, headers={"ETag": f'"{hashlib.sha1(body, usedforsecurity=False).hexdigest()}"'})

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        self._note("cdn", request)
        body = next(
            one.body
            for repo in self.repos.values()
            for one in repo.files.values()
            if isinstance(one, Large) and hashlib.sha256(one.body).hexdigest() == request.match_info["digest"]
        )
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        start = 0
        asked = request.headers.get("Range", "")
        if self.faults.ranges and asked and request.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                raise web.HTTPRequestRangeNotSatisfiable
        response = web.StreamResponse(status=206 if start else 200, headers={"ETag": etag})
        if start:
            begin = start + 1 if self.faults.wrong_part else start
            response.headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        body += self.faults.surplus
        if self.faults.short:
            body = body[: self.faults.short]
        elif not self.faults.surplus:
            response.content_length = len(body) - start
        await response.prepare(request)
        end = self.faults.cut.pop(0) if self.faults.cut else len(body)
        for at in range(start, len(body), CHUNK):
            part = body[at : min(at + CHUNK, max(end, at))]
            if part:
                try:
                    await response.write(part)
                except ConnectionError:
                    return response  # whoever asked has left
                self.sent += len(part)
            if at + CHUNK > end and end < len(body):
                if request.transport is not None:
                    request.transport.close()
                return response
            if self.faults.pause:
                await asyncio.sleep(self.faults.pause)
        await response.write_eof()
        return response
