"""The faces over HTTP, given what they need of the daemon."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from exo_rkllm.api import application as api
from exo_rkllm.api import control
from exo_rkllm.api.context import ApiContext, ApiServerSettings
from exo_rkllm.api.control.tables import PullRequest
from exo_rkllm.api.status import board_value, kernel_log_value
from exo_rkllm.board.counters import read
from exo_rkllm.daemon.daemon import Daemon

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def application(daemon: Daemon, *, loopback: bool) -> web.Application:
    """The API. `loopback` says that nobody but this machine can reach its sockets."""
    return api.application(
        ApiContext(
            dispatcher=daemon.dispatcher,
            catalogue=daemon.node.catalogue,
            settings=lambda: ApiServerSettings(daemon.config.api, daemon.keys, loopback),
            pull=lambda name: daemon.pull(PullRequest(name)),
            gallery=daemon.gallery,
            downloads=daemon.downloads,
            metrics=scrape(daemon) if daemon.config.metrics.enabled else None,
            board=lambda: {
                **board_value(
                    daemon.hardware.watch.board, read(daemon.hardware.watch.sources), daemon.neighbours.read()
                ),
                "kernel_log": kernel_log_value(daemon.hardware.kernel_log, daemon.hardware.board),
            },
            watch=daemon.sampler.watch,
            history=daemon.history.points,
            cluster=lambda: {} if (view := daemon.cluster.view()) is None else view.plain(),
            engine_spec=lambda model: daemon.node.engines.of(model),  # noqa: PLW0108 - plugins bring another registry
            bodies=daemon.bodies,
            tokenizers=daemon.tokenizers,
            node_id=lambda: daemon.cluster.node_id,
        )
    )


def control_application(daemon: Daemon, controls: control.ControlContext) -> web.Application:
    """The control socket speaks the API, too: whoever may open it needs no key."""
    app = application(daemon, loopback=True)
    app.add_subapp(control.PREFIX, control.application(controls))
    return app


def metrics_application(daemon: Daemon) -> web.Application:
    """For a Prometheus on another machine: nothing else is to be had there."""
    answer = scrape(daemon)

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = answer(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application(client_max_size=1024)
    app.add_routes([web.get("/metrics", metrics)])
    return app


def scrape(daemon: Daemon) -> Callable[[str], tuple[bytes, str]]:
    """A page of metrics for an Accept header. The collectors are imported by the first scrape."""

    @functools.cache
    def collectors() -> CollectorRegistry:
        from exo_rkllm.metrics.board import BoardCollector
        from exo_rkllm.metrics.cluster import ClusterCollector
        from exo_rkllm.metrics.scrape import registry
        from exo_rkllm.metrics.serving import ServingCollector

        watch, sampler, kernel_log = daemon.hardware.watch, daemon.sampler, daemon.hardware.kernel_log
        return registry(
            [
                BoardCollector(
                    lambda: watch.board,
                    lambda: watch.sources,
                    sampler.busy,
                    sampler.touch,
                    lambda: kernel_log.state,
                    daemon.neighbours.read,
                ),
                ServingCollector(daemon.serving, daemon.dispatcher.status, daemon.runtime),
                ClusterCollector(daemon.cluster.view),
            ]
        )

    def answer(accept: str) -> tuple[bytes, str]:
        from exo_rkllm.metrics.scrape import render_page

        return render_page(collectors(), accept)

    return answer
