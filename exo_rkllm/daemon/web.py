"""The faces over HTTP, given what they need: the API, its metrics, and both of them beside the control socket."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from aiohttp import web

from exo_rkllm.api import application as api
from exo_rkllm.api import control, parts
from exo_rkllm.api.parts import Pulled, Scrape, Settings
from exo_rkllm.config import Config
from exo_rkllm.daemon.keys import read_keys
from exo_rkllm.daemon.parts import Parts


def settings(config: Config, *, loopback: bool) -> Settings:
    return Settings(
        keys=read_keys(Path(config.api.keys)) if config.api.keys else (),
        loopback=loopback,
        allow_anonymous=config.api.allow_anonymous,
        hosts=frozenset(config.api.hosts),
        origins=frozenset(config.api.origins),
        body_bytes=config.api.body_bytes,
        body_seconds=config.api.body_seconds,
        idle_seconds=config.api.idle_seconds,
    )


def faces(of: Parts, *, loopback: bool) -> parts.Parts:
    """What the API needs, of what the daemon has."""
    return parts.Parts(
        dispatcher=of.dispatcher,
        catalogue=of.catalogue,
        settings=remembered(of, loopback=loopback),
        pull=lambda name: _pulled(of, name),
        metrics=scrape(of) if of.config.metrics.enabled else None,
        watch=of.sampler.watch,
    )


def remembered(of: Parts, *, loopback: bool) -> Callable[[], Settings]:
    """Asked for with every request, made once a configuration."""
    made = functools.lru_cache(maxsize=1)(functools.partial(settings, loopback=loopback))
    return lambda: made(of.config)


def scrape(of: Parts) -> Callable[[str], Scrape]:
    """Prometheus' library is imported by the first scrape."""

    @functools.lru_cache(maxsize=1)
    def registry():  # type: ignore[no-untyped-def] # a class of the library that is not imported here
        from exo_rkllm.metrics.board import BoardCollector
        from exo_rkllm.metrics.exposition import registry
        from exo_rkllm.metrics.serving import ServingCollector

        board = BoardCollector(lambda: of.watch.board, lambda: of.watch.sources, of.sampler.busy, of.sampler.touch)
        return registry([board, ServingCollector(of.serving, of.dispatcher.status, of.runtime)])

    def answer(accept: str) -> Scrape:
        from exo_rkllm.metrics.exposition import exposition

        return Scrape(*exposition(registry(), accept))

    return answer


async def _pulled(of: Parts, name: str) -> AsyncGenerator[Pulled, None]:
    async with aclosing(of.pull(control.PullRequest(name))) as steps:
        async for step in steps:
            yield Pulled(step.text, f"sha256:{step.sha256}" if step.sha256 else "", step.total, step.done)


def application(of: Parts, *, loopback: bool) -> web.Application:
    return api.application(faces(of, loopback=loopback))


def control_application(of: Parts, controls: control.Controls) -> web.Application:
    """The control socket speaks the API, too: whoever may open it needs no key."""
    app = application(of, loopback=True)
    app.add_subapp(control.PREFIX, control.application(controls))
    return app


def metrics_application(of: Parts) -> web.Application:
    """For a Prometheus on another machine: nothing else is to be had there."""
    answer = scrape(of)

    async def metrics(request: web.Request) -> web.Response:
        page = answer(request.headers.get("Accept", ""))
        return web.Response(body=page.body, headers={"Content-Type": page.content_type})

    app = web.Application(client_max_size=1024)
    app.add_routes([web.get("/metrics", metrics)])
    return app
