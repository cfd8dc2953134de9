"""The link to a cluster: a zenoh client in threads of its own, so that nothing of it blocks the event loop.

`put` blocks for seconds on a dead link and `close` took nine (reference 3); a connection is therefore one thread that
can be left alone with its end while the next one opens.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, Full, Queue, SimpleQueue
from typing import TYPE_CHECKING, Any

from exo_rkllm.cluster.session.link import (
    PUBLISHED,
    SUBSCRIBED,
    Alive,
    Incoming,
    Linked,
    LinkFailed,
    TopicMessage,
)

if TYPE_CHECKING:
    import zenoh

# Both queues are bounded: the log repairs what is lost on the way in, resends what is lost on the way out.
ROOM_IN, ROOM_OUT = 8192, 1024
# One attempt to connect; another one follows with whatever was discovered meanwhile.
CONNECT_MS = 2000
# Nodes answer for their addresses within milliseconds; a dead one is not waited for any longer.
ADDRESSES_IN = 0.5
CLOSE_IN = 1.0
TOPICS, LIVE = "topics/", "live/"
_LOCATOR = re.compile(r"tcp/(?:\[([^\]%]+)[^\]]*\]|([0-9.]+)):\d+")


def configuration(endpoints: Sequence[str]) -> Mapping[str, str]:
    """zenoh's configuration as JSON5 values: a client that moves to the next endpoint when one ends."""
    return {
        "mode": '"client"',
        "connect/endpoints": json.dumps(list(endpoints)),
        "connect/timeout_ms": str(CONNECT_MS),
        "connect/retry": "{period_init_ms: 250, period_max_ms: 1000, period_increase_factor: 2}",
        "scouting/multicast/enabled": "false",
        "transport/link/rx/buffer_size": "1048576",
        # it wakes 20 times a second for as long as the other side has it as well
        "transport/shared_memory/enabled": "false",
    }


class Inbox:
    """A bounded queue from zenoh's threads to the event loop.

    Messages that find it full are dropped, and so is all that a connection has left in it when `over` is set.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Incoming, threading.Event]] = deque()

    def put(self, incoming: Incoming, over: threading.Event) -> None:
        with self._lock:
            if len(self._waiting) >= ROOM_IN and isinstance(incoming, TopicMessage):
                self.dropped += 1
                return
            wake = not self._waiting
            self._waiting.append((incoming, over))
        if wake:
            with contextlib.suppress(RuntimeError):  # the loop may end before the thread does
                self._loop.call_soon_threadsafe(self._ready.set)

    async def take(self) -> list[Incoming]:
        await self._ready.wait()
        with self._lock:
            taken = [incoming for incoming, over in self._waiting if not over.is_set()]
            self._waiting.clear()
            self._ready.clear()
        return taken


class Connection:
    """One zenoh session from open to close, with the thread that may wait for it."""

    def __init__(self, endpoints: Sequence[str], inbox: Inbox) -> None:
        self._endpoints = endpoints
        self._inbox = inbox
        self._work: Queue[Callable[[zenoh.Session], object] | None] = Queue(ROOM_OUT)
        self._over = threading.Event()
        self._publishers: dict[str, zenoh.Publisher] = {}
        self._kept: list[object] = []  # zenoh ends what nobody holds
        # Threads that zenoh made for our callbacks: how many there are, and those that are about to end.
        self._callers = 0
        self._leaving: SimpleQueue[threading.Thread] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._run, name="exo-link", daemon=True).start()

    def publish(self, topic: str, payload: bytes) -> bool:
        return self._do(lambda _: self._publishers[topic].put(payload))

    def declare(self, key: str) -> bool:
        return self._do(lambda session: self._kept.append(session.liveliness().declare_token(key)))

    def ask(self, selector: str, timeout: float) -> asyncio.Future[list[bytes]]:
        """All answers to a zenoh query within `timeout` seconds."""
        answers: list[bytes] = []
        done: asyncio.Future[list[bytes]] = self._loop.create_future()

        def settle() -> None:
            if not done.done():
                done.set_result(answers)

        def on_end() -> None:
            self._in_loop(settle)

        def on_reply(reply: zenoh.Reply) -> None:
            if reply.ok is not None:
                answers.append(reply.ok.payload.to_bytes())

        def get(session: zenoh.Session) -> None:
            session.get(selector, self._callback(on_reply, on_end), timeout=timeout)

        if not self._do(get):
            done.set_result([])
        return done

    def end(self) -> None:
        """Deliver nothing more, not even what waits; the thread closes the session in its own time."""
        self._over.set()
        while not self._do(None):
            with contextlib.suppress(Empty):
                self._work.get_nowait()

    def _do(self, work: Callable[[zenoh.Session], object] | None) -> bool:
        try:
            self._work.put_nowait(work)
        except Full:
            return False
        return True

    def _in_loop(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may end before the thread does
            self._loop.call_soon_threadsafe(call)

    # ── in the thread ──

    def _run(self) -> None:
        try:
            self._live()
        finally:
            # nothing of zenoh is left in this thread by now: it must not be met by the end of the process
            self._in_loop(self._ended)

    def _live(self) -> None:
        import zenoh

        try:
            config = zenoh.Config()
            for key, value in configuration(self._endpoints).items():
                config.insert_json5(key, value)
            session = zenoh.open(config)
        except zenoh.ZError as error:
            self._settle(LinkFailed(f"No exo node answers at {', '.join(self._endpoints)}: {_plain(error)}."))
            return
        try:
            self._listen(session)
            self._settle(None)
            while not self._over.is_set():
                work = self._work.get()
                if work is not None:
                    with contextlib.suppress(zenoh.ZError):  # what could not be sent is sent again by the outbox
                        work(session)
        finally:
            self._publishers.clear()
            self._kept.clear()
            session.close()  # type: ignore[no-untyped-call]  # the stub lacks the return type
            while self._callers:
                self._join_thread(self._leaving.get())

    def _callback(
        self, call: Callable[[Any], object], ended: Callable[[], object] = lambda: None
    ) -> zenoh.handlers.Callback[Any]:
        """A zenoh callback whose thread is joined before the connection ends.

        A thread that still runs in zenoh when the interpreter ends aborts the process.
        """
        from zenoh.handlers import Callback

        def last() -> None:
            ended()
            self._leaving.put(threading.current_thread())

        while not self._leaving.empty():
            self._join_thread(self._leaving.get())
        self._callers += 1
        called: zenoh.handlers.Callback[Any] = Callback(call, last)
        return called

    def _join_thread(self, thread: threading.Thread) -> None:
        thread.join()
        self._callers -= 1

    def _listen(self, session: zenoh.Session) -> None:
        import zenoh

        put = zenoh.SampleKind.PUT
        up: set[str] = set()

        def on_message(sample: zenoh.Sample) -> None:
            if sample.kind == put:
                self._pass(TopicMessage(str(sample.key_expr)[len(TOPICS) :], sample.payload.to_bytes()))

        def on_liveliness(sample: zenoh.Sample) -> None:
            self._pass(Alive(str(sample.key_expr)[len(LIVE) :], sample.kind == put))

        def on_transport(event: zenoh.TransportEvent) -> None:
            before = bool(up)
            (up.add if event.kind == put else up.discard)(str(event.transport.zid))
            if bool(up) != before:
                self._pass(Linked(bool(up)))

        for topic in PUBLISHED:
            self._publishers[topic] = session.declare_publisher(
                TOPICS + topic, congestion_control=zenoh.CongestionControl.BLOCK
            )
        self._kept += [
            *(
                session.declare_subscriber(
                    TOPICS + topic, self._callback(on_message), allowed_origin=zenoh.Locality.REMOTE
                )
                for topic in SUBSCRIBED
            ),
            session.info.declare_transport_events_listener(self._callback(on_transport), history=True),
            session.liveliness().declare_subscriber(LIVE + "*", self._callback(on_liveliness), history=True),
        ]

    def _pass(self, incoming: Incoming) -> None:
        if not self._over.is_set():
            self._inbox.put(incoming, self._over)

    def _ended(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def _settle(self, failure: LinkFailed | None) -> None:
        def settle() -> None:
            if self.opened.done():
                return
            if failure is None:
                self.opened.set_result(None)
            else:
                self.opened.set_exception(failure)

        self._in_loop(settle)


class ZenohLink:
    """The `Link` of exo from 2026-06-03 on."""

    def __init__(self) -> None:
        self._inbox = Inbox()
        self._connection: Connection | None = None

    @property
    def dropped(self) -> int:
        return self._inbox.dropped

    async def open(self, endpoints: Sequence[str]) -> None:
        """Connect to any one of them and listen."""
        self._give_up()
        connection = Connection(endpoints, self._inbox)
        try:
            await asyncio.shield(connection.opened)
        except BaseException:
            connection.end()
            raise
        self._connection = connection

    def meet(self, endpoint: str) -> None:
        """zenoh tells of newcomers itself."""

    async def receive(self) -> list[Incoming]:
        return await self._inbox.take()

    def send(self, topic: str, payload: bytes) -> bool:
        return self._connection is not None and self._connection.publish(topic, payload)

    def declare(self, node: str) -> None:
        """Show a liveliness token, as exo nodes do."""
        if self._connection is not None:
            self._connection.declare(LIVE + node)

    async def addresses(self) -> Mapping[str, tuple[str, ...]]:
        """IP addresses of nodes, by id: every exo node names in its admin space where it listens."""
        if self._connection is None:
            return {}
        answers = await self._connection.ask("@/*/router", ADDRESSES_IN)
        return {node: found for answer in answers for node, found in addresses_in(answer).items()}

    async def close(self) -> None:
        """Close the connection; a dead one is left to its thread after CLOSE_IN seconds."""
        connection = self._give_up()
        if connection is not None:
            await asyncio.wait([connection.closed], timeout=CLOSE_IN)

    def _give_up(self) -> Connection | None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.end()
        return connection


def addresses_in(payload: bytes) -> dict[str, tuple[str, ...]]:
    """Node id and addresses out of one answer of the admin space; link-local ones are of no use to HTTP here."""
    try:
        description = json.loads(payload)
        node, locators = description["zid"], description["locators"]
        found = [match[1] or match[2] for locator in locators if (match := _LOCATOR.match(locator))]
        return {str(node): tuple(one for one in found if not ipaddress.ip_address(one).is_link_local)}
    except (ValueError, KeyError, TypeError):
        return {}


def _plain(error: Exception) -> str:
    """The text of a zenoh error without the path of zenoh's source at its end."""
    return re.sub(r"\s+at \S+\.rs:\d+\.?.*$", "", str(error)).rstrip(".")
