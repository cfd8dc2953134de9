"""The life of the daemon's process: sockets, signals, what systemd is told, and a stop that lets answers end."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import inspect
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from aiohttp.web import Application, AppRunner, BaseRunner

from exo_rkllm import __version__
from exo_rkllm.backends.base import JSON
from exo_rkllm.config import Config
from exo_rkllm.config.places import lease_socket
from exo_rkllm.daemon import certificates, listen, web
from exo_rkllm.daemon.connections import ConnectionListener, Connections, watched
from exo_rkllm.daemon.daemon import Daemon, headline
from exo_rkllm.daemon.lease import LeaseServer
from exo_rkllm.errors import ConfigError
from exo_rkllm.log.setup import set_up

log = logging.getLogger(__name__)

# What connections get after the last answer has ended, before they are cut.
GOODBYE = 2.0
# aiohttp 3.8, which Debian 12 and Ubuntu 22.04 have, takes that time when its server is shut down; its runner would
# drop every connection for an unknown keyword.
PATIENT_RUNNER = "shutdown_timeout" in inspect.signature(BaseRunner.__init__).parameters
# systemd is asked for this much more than the answers may take.
SPARE = 15.0
M_MMAP_THRESHOLD = -3  # malloc.h
LARGE_BLOCK = 1 << 20


class Server:
    """One daemon on its sockets. `run` returns when it has stopped."""

    def __init__(self, daemon: Daemon, environment: Mapping[str, str]) -> None:
        self._daemon = daemon
        self._environment = environment
        self._notified_status = ""
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._systemd_sockets = systemd_sockets()
        self._listening: list[socket.socket] = []
        self._control: Path | None = None
        self._leases = LeaseServer(daemon.dispatcher.lease)
        self._lease_socket: Path | None = None
        self._runners: list[AppRunner] = []
        self._listeners: dict[AppRunner, list[ConnectionListener]] = {}
        self._connections = Connections()
        self._tasks: list[asyncio.Task[None]] = []
        self._signals: list[signal.Signals] = []

    async def run(self) -> None:
        try:
            await self.startup()
            await self.main_loop()
        finally:
            await self.shutdown()

    async def startup(self) -> None:
        """Returns when every socket answers; models may still load then."""
        config, daemon = self._daemon.config, self._daemon
        await daemon.load_plugins()
        daemon.start()
        sockets = self._api_sockets(config)
        loopback = all(map(listen.is_loopback, sockets))
        await self._serve(web.application(daemon, loopback=loopback), sockets)
        controls = web.control_application(daemon, daemon.controls(self._facts))
        await self._serve(controls, [self._control_socket(config)])
        path = lease_socket(config.control.socket)
        await self._leases.start(listen.unix_socket(path, "lease", config.control.group))
        self._lease_socket = path  # ours to remove, as the control socket
        if config.metrics.enabled and config.metrics.listen:
            await self._serve(web.metrics_application(daemon), listen.metrics_sockets(config.metrics))
        self._tasks = [asyncio.create_task(self._follow_status()), asyncio.create_task(self._beat())]
        self._catch_signals()
        gc.freeze()  # what exists by now stays: no collection has to look at it again
        gc.enable()
        log.info(
            "exo-rkllm %s serves on %s.", __version__, ", ".join(listen.address_of(sock) for sock in self._listening)
        )
        notify("READY=1")

    async def main_loop(self) -> None:
        """Until a signal asks for the end."""
        certificates.load()
        self._daemon.prepare_first_load()
        await self._daemon.cluster.start()
        await self._stop.wait()
        await self._daemon.cluster.stop()
        await self._drain()

    async def shutdown(self) -> None:
        """Also ends what a failed start has begun."""
        for number in self._signals:
            asyncio.get_running_loop().remove_signal_handler(number)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._leases.close()
        await asyncio.gather(*(self._end(runner) for runner in self._runners))
        await self._daemon.stop()
        for path in (self._control, self._lease_socket):
            if path is not None:
                listen.remove(path)
        log.info("Stopped.")

    async def _drain(self) -> None:
        """No new connections, no new requests; who is being answered may hear the end of it."""
        patience = self._daemon.config.dispatch.drain_timeout
        notify("STOPPING=1")
        notify(f"EXTEND_TIMEOUT_USEC={int((patience + SPARE) * 1e6)}")
        log.info("Stopping; running answers have %g s.", patience)
        for listener in self._listeners[self._runners[0]]:
            await listener.close()
        if self._daemon.node.prefixes is not None:
            self._daemon.node.prefixes.close()
        drain = asyncio.ensure_future(self._daemon.dispatcher.drain(patience))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not drain.done():
            await self._daemon.dispatcher.drain(0.0)
        await drain

    # ── sockets ──────────────────────────────────────────────────────────────────────────────────

    def _api_sockets(self, config: Config) -> Sequence[socket.socket]:
        own = [sock for sock in self._systemd_sockets if sock.family != socket.AF_UNIX]
        sockets = own or listen.api_sockets(config.api)
        listen.check_open(sockets, config.api, keys=bool(self._daemon.keys))
        return sockets

    def _control_socket(self, config: Config) -> socket.socket:
        """One that systemd made has its owner and mode from its unit, and stays when we go."""
        for sock in self._systemd_sockets:
            if sock.family == socket.AF_UNIX:
                return sock
        sock = listen.control_socket(config.control)
        self._control = Path(config.control.socket)  # ours to remove: before this it may be another daemon's
        return sock

    async def _serve(self, app: Application, sockets: Sequence[socket.socket]) -> None:
        timeout: dict[str, Any] = {"shutdown_timeout": GOODBYE} if PATIENT_RUNNER else {}
        app.middlewares.insert(0, watched)
        runner = AppRunner(app, access_log=None, handle_signals=False, auto_decompress=False, **timeout)
        self._runners.append(runner)
        await runner.setup()
        server: Any = runner.server
        self._listeners[runner] = [ConnectionListener(sock, server, self._connections) for sock in sockets]
        self._listening += sockets

    async def _end(self, runner: AppRunner) -> None:
        for listener in self._listeners.get(runner, ()):
            await listener.close()
        if not PATIENT_RUNNER and runner.server is not None:
            await runner.server.shutdown(GOODBYE)
        await runner.cleanup()

    def _facts(self) -> Mapping[str, JSON]:
        return {"listening": [listen.address_of(sock) for sock in self._listening if sock.fileno() >= 0]}

    # ── signals ──────────────────────────────────────────────────────────────────────────────────

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self._request_stop, signal.SIGINT: self._request_stop, signal.SIGHUP: self._reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
            self._signals.append(number)

    def _request_stop(self) -> None:
        """Once lets answers end, twice does not."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _reload(self) -> None:
        """`Type=notify-reload` wants the time of it, too."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            self._daemon.reload()
        except ConfigError:
            pass  # the log has the sentence, and the old configuration stays
        finally:
            notify("READY=1")

    # ── what follows the dispatcher ──────────────────────────────────────────────────────────────

    async def _follow_status(self) -> None:
        """The line in `systemctl status`; and an answer wakes the NPU, whose counters are worth sampling then."""
        async with aclosing(self._daemon.dispatcher.subscribe()) as changes:
            async for status in changes:
                if status.running:
                    self._daemon.sampler.touch()
                text = headline(status)
                if text != self._notified_status:
                    self._notified_status = text
                    notify(f"STATUS={text}")

    async def _beat(self) -> None:
        """Alive means that the run loop takes a decision, which it does here, and that no model is stuck."""
        seconds = watchdog_seconds(self._environment, os.getpid())
        complained = False
        while seconds is not None:
            self._daemon.dispatcher.beat()
            stuck = self._daemon.dispatcher.stuck()
            if not stuck:
                notify("WATCHDOG=1")
            elif not complained:
                sentences = " ".join(model.sentence for model in stuck)
                log.error("%s The watchdog is told nothing more, so that systemd starts the daemon anew.", sentences)
            complained = bool(stuck)
            await asyncio.sleep(seconds / 2)


# ── systemd ──────────────────────────────────────────────────────────────────────────────────────


def notify(state: str) -> None:
    """sd_notify(3), to whoever started the service; nothing where nobody listens or systemd-python is not installed."""
    try:
        from systemd.daemon import notify as sd_notify
    except ImportError:
        return
    with suppress(OSError):
        sd_notify(state)


def systemd_sockets() -> tuple[socket.socket, ...]:
    """Sockets that systemd listens on for us: sd_listen_fds(3), which keeps them from our children."""
    try:
        from systemd.daemon import listen_fds
    except ImportError:
        return ()
    return tuple(socket.socket(fileno=number) for number in listen_fds())


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> float | None:
    """How often systemd expects WATCHDOG=1; None where it does not. systemd-python has no sd_watchdog_enabled(3)."""
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() and int(text) > 0 else None


def give_back_memory() -> None:
    """Has glibc ask the system for each large block. It would raise the size from which it does so with every block
    that is freed, and 40 MB of a few large requests would stay with the daemon for good."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def run(config: Config, environment: Mapping[str, str], read: Callable[[], Config]) -> None:
    """The whole life of the daemon; `read` returns the configuration anew."""
    ring = set_up(config.log.level, environment)
    give_back_memory()

    async def live() -> None:
        await Server(Daemon(config, environment, ring, read), environment).run()

    asyncio.run(live())
