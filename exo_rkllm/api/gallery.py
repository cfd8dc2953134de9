"""The page's gallery: a search of the Hub for this board, and pulls that go on by themselves."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.encoding import json_response
from exo_rkllm.catalogue.downloads import Downloads
from exo_rkllm.errors import NotSupported
from exo_rkllm.schema.specs import FieldSpec, ObjectSpec, Text

SEARCH = ObjectSpec("GallerySearch", (FieldSpec("search", Text(most=200), "Words that the name has.", required=True),))
TARGET = ObjectSpec(
    "PullTarget",
    (FieldSpec("model", Text(least=1, most=400), "ORG/REPO, ORG/REPO:FILE or a short name.", required=True),),
)


async def search(call: Call) -> web.StreamResponse:
    if call.context.gallery is None:
        raise NotSupported("This daemon searches no models.", "exo-rkllm search WORDS")
    found = await call.context.gallery(call.values["search"])
    return json_response({"models": [asdict(item) for item in found]})


async def start(call: Call) -> web.StreamResponse:
    downloads = _downloads(call)
    downloads.start(call.values["model"])
    return _listing(downloads)


async def pause(call: Call) -> web.StreamResponse:
    downloads = _downloads(call)
    await downloads.pause(call.values["model"])
    return _listing(downloads)


async def cancel(call: Call) -> web.StreamResponse:
    downloads = _downloads(call)
    await downloads.cancel(call.values["model"])
    return _listing(downloads)


def _downloads(call: Call) -> Downloads:
    if call.context.downloads is None:
        raise NotSupported("This daemon fetches no models.", "exo-rkllm pull ORG/REPO")
    return call.context.downloads


def _listing(downloads: Downloads) -> web.StreamResponse:
    return json_response({"pulls": [asdict(row) for row in downloads.status()]})


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/gallery", search, "Searches the Hub for models that fit this board.", body=SEARCH),
    Endpoint("POST", "/v1/pulls", start, "Begins a pull, or resumes a paused one.", body=TARGET),
    Endpoint("POST", "/v1/pulls/pause", pause, "Pauses a pull, which keeps what has come.", body=TARGET),
    Endpoint("POST", "/v1/pulls/cancel", cancel, "Ends a pull and removes what has come.", body=TARGET),
)
