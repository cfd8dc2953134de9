"""The daemon's life from start to end: sockets, signals, what systemd is told, and a stop that lets answers end."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from aiohttp.web import Application, AppRunner, BaseRunner, SockSite

from exo_rkllm import __version__
from exo_rkllm.backends.base import JSON
from exo_rkllm.config import Config
from exo_rkllm.daemon import listen, web
from exo_rkllm.daemon.parts import Daemon
from exo_rkllm.daemon.systemd import Notifier, inherited, watchdog_seconds
from exo_rkllm.errors import ConfigError
from exo_rkllm.log.setup import begin

log = logging.getLogger(__name__)

# What connections get after the last answer has ended, before they are cut.
GOODBYE = 2.0
# aiohttp 3.8, which Debian 12 and Ubuntu 22.04 have, wants that time said to each site; an unknown word to the runner
# makes it drop every connection.
PATIENT_RUNNER = "shutdown_timeout" in inspect.signature(BaseRunner.__init__).parameters
# systemd is asked for this much more than the answers may take.
SPARE = 15.0


class Server:
    """`run` returns when the daemon has stopped."""

    def __init__(self, parts: Daemon, environment: Mapping[str, str]) -> None:
        self._parts = parts
        self._notify = Notifier(environment)
        self._environment = environment
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._inherited = inherited(environment, os.getpid())
        self._listening: list[socket.socket] = []
        self._control: Path | None = None

    async def run(self) -> None:
        config, parts = self._parts.config, self._parts
        await parts.plug_in()
        parts.begin()
        sockets = self._api_sockets(config)
        loopback = all(map(listen.is_loopback, sockets))
        controls = parts.controls(self._facts)
        faces = [
            await self._serve(web.application(parts, loopback=loopback), sockets),
            await self._serve(web.control_application(parts, controls), [self._control_socket(config)]),
        ]
        if config.metrics.enabled and config.metrics.listen:
            faces.append(await self._serve(web.metrics_application(parts), listen.metrics_sockets(config.metrics)))
        tasks = [asyncio.create_task(self._tell_status()), asyncio.create_task(self._watchdog())]
        with_signals = self._catch_signals()
        gc.freeze()  # what was made by now stays: no collection has to look at it again
        log.info("exo-rkllm %s serves on %s.", __version__, ", ".join(listen.shown(sock) for sock in self._listening))
        self._notify.ready()
        try:
            await parts.join()
            await self._stop.wait()
            await parts.leave()
            await self._drain(faces)
        finally:
            for number in with_signals:
                asyncio.get_running_loop().remove_signal_handler(number)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.gather(*(face.cleanup() for face in faces))
            await parts.end()
            if self._control is not None:
                listen.remove(self._control)
        log.info("Stopped.")

    # ── sockets ──────────────────────────────────────────────────────────────────────────────────

    def _api_sockets(self, config: Config) -> Sequence[socket.socket]:
        given = [sock for sock in self._inherited if sock.family != socket.AF_UNIX]
        sockets = given or listen.api_sockets(config.api)
        listen.check_open(sockets, config.api, keys=bool(self._parts.keys))
        return sockets

    def _control_socket(self, config: Config) -> socket.socket:
        """One that systemd made has its owner and mode from its unit, and stays when we go."""
        for sock in self._inherited:
            if sock.family == socket.AF_UNIX:
                return sock
        self._control = Path(config.control.socket)
        return listen.control_socket(config.control)

    async def _serve(self, app: Application, sockets: Sequence[socket.socket]) -> AppRunner:
        if PATIENT_RUNNER:
            runner = AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=GOODBYE)
        else:
            runner = AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        for sock in sockets:
            site = SockSite(runner, sock) if PATIENT_RUNNER else SockSite(runner, sock, shutdown_timeout=GOODBYE)
            await site.start()
            self._listening.append(sock)
        return runner

    def _facts(self) -> Mapping[str, JSON]:
        return {"listening": [listen.shown(sock) for sock in self._listening if sock.fileno() >= 0]}

    # ── signals ──────────────────────────────────────────────────────────────────────────────────

    def _catch_signals(self) -> list[signal.Signals]:
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self._asked_to_stop,
            signal.SIGINT: self._asked_to_stop,
            signal.SIGHUP: self._asked_to_reload,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        return list(handlers)

    def _asked_to_stop(self) -> None:
        """Once lets answers end, twice does not."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _asked_to_reload(self) -> None:
        self._notify.reloading()
        try:
            self._parts.reload()
        except ConfigError:
            pass  # said in the log, and the old configuration stays
        finally:
            self._notify.ready()

    async def _drain(self, faces: Sequence[AppRunner]) -> None:
        """No new connections, no new requests; who is being answered may hear the end of it."""
        patience = self._parts.config.dispatch.drain_timeout
        self._notify.stopping()
        self._notify.say(EXTEND_TIMEOUT_USEC=int((patience + SPARE) * 1e6))
        log.info("Stopping; running answers have %g s.", patience)
        for site in list(faces[0].sites):
            await site.stop()
        drained = asyncio.ensure_future(self._parts.dispatcher.drain(patience))
        hurried = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not drained.done():
            await self._parts.dispatcher.drain(0.0)
        await drained

    # ── what systemd hears ───────────────────────────────────────────────────────────────────────

    async def _tell_status(self) -> None:
        async with aclosing(self._parts.dispatcher.subscribe()) as changes:
            async for _ in changes:
                self._notify.status(self._parts.headline())

    async def _watchdog(self) -> None:
        """Alive means that the run loop takes a decision, which it does here: not merely that a thread spins."""
        seconds = watchdog_seconds(self._environment, os.getpid())
        while seconds is not None:
            self._parts.dispatcher.beat()
            self._notify.alive()
            await asyncio.sleep(seconds / 2)


def run(config: Config, environment: Mapping[str, str], read: Callable[[], Config]) -> None:
    """The whole life of the daemon; `read` gives the configuration anew."""
    ring = begin(config.log.level, environment)

    async def live() -> None:
        await Server(Daemon(config, environment, ring, read), environment).run()

    asyncio.run(live())
