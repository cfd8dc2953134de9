"""The public application: the faces in `api/`, given what they need of the daemon's parts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping

from aiohttp import web

from exo_rkllm.api import application as api
from exo_rkllm.api.gauges import gauges
from exo_rkllm.api.parts import Parts as Faces
from exo_rkllm.api.parts import Settings
from exo_rkllm.board.counters import read
from exo_rkllm.board.sampler import Sampler
from exo_rkllm.catalogue.hub import Access
from exo_rkllm.catalogue.pull import Wanted, pull
from exo_rkllm.catalogue.steps import Step
from exo_rkllm.daemon.keys import read_keys
from exo_rkllm.daemon.parts import Parts
from exo_rkllm.runtime.abi import RELEASES


def application(parts: Parts, environment: Mapping[str, str], *, loopback: bool) -> web.Application:
    """`loopback` says that nobody but this machine can reach the sockets."""
    sampler = Sampler(lambda: parts.watch.sources, asyncio.get_running_loop())
    faces = Faces(
        dispatcher=parts.dispatcher,
        catalogue=parts.catalogue,
        settings=_settings(parts, environment, loopback=loopback),
        pull=lambda name: _pull(parts, name),
        metrics=_metrics(parts, sampler) if parts.config.metrics.enabled else None,
        board=lambda: gauges(parts.watch.board, read(parts.watch.sources)),
        watch=sampler.watch,
        cluster=lambda: {} if parts.node is None else parts.node.view().plain(),
        node_id=lambda: "" if parts.node is None else parts.node.node_id,
    )
    app = api.application(faces)

    async def stop(_app: web.Application) -> None:
        sampler.close()

    app.on_cleanup.append(stop)
    return app


def _settings(parts: Parts, environment: Mapping[str, str], *, loopback: bool) -> Callable[[], Settings]:
    """Made anew where the configuration is another one, so that a reload changes keys, too."""
    made: dict[int, Settings] = {}

    def settings() -> Settings:
        config = parts.config.api
        if id(config) not in made:
            made.clear()
            made[id(config)] = Settings(
                keys=read_keys(config, environment),
                loopback=loopback,
                allow_anonymous=config.allow_anonymous,
                hosts=frozenset(config.hosts),
                origins=frozenset(config.origins),
                body_bytes=config.body_bytes,
                body_seconds=config.body_seconds,
                idle_seconds=config.idle_seconds,
            )
        return made[id(config)]

    settings()  # keys that cannot be read end the start, not the first request
    return settings


def _pull(parts: Parts, name: str) -> AsyncGenerator[Step, None]:
    soc = parts.watch.board.soc
    return pull(parts.catalogue, Wanted.parse(name), Access.of(os.environ), soc="" if soc is None else soc.name)


def _metrics(parts: Parts, sampler: Sampler) -> Callable[[str], tuple[bytes, str]]:
    """Imported here: it is a third of what the daemon imports, and not everybody scrapes."""
    from exo_rkllm.metrics.board import BoardCollector
    from exo_rkllm.metrics.cluster import ClusterCollector
    from exo_rkllm.metrics.exposition import exposition, registry
    from exo_rkllm.metrics.serving import ServingCollector

    def runtime() -> tuple[str, str] | None:
        return None if parts.release is None else (parts.release.release, RELEASES[parts.release.release])

    collectors = registry(
        [
            BoardCollector(lambda: parts.watch.board, lambda: parts.watch.sources, sampler.busy, sampler.touch),
            ServingCollector(parts.serving, parts.dispatcher.status, runtime),
            ClusterCollector(lambda: None if parts.node is None else parts.node.view()),
        ]
    )
    return lambda accept: exposition(collectors, accept)
