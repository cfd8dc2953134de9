"""Hosts on one wire: network namespaces behind a bridge, exo stand-ins and boards as processes in them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tests.exo_cluster import real

TESTS = Path(__file__).parent.parent
API = 52415
MODEL = "rkllm/Qwen3-1.7B-w8a8-rk3588"
CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


def why_not() -> str:
    """Why namespaces cannot be used here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root: run these tests as root to see them"
    probe = f"exoprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip() or 'ip netns add failed'}"
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return ""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def within(namespace: str, *command: str) -> tuple[str, ...]:
    """The command that runs it there. `ip netns exec` mounts /sys anew for it, which a plain chroot does not allow."""
    return ("nsenter", f"--net=/run/netns/{namespace}", "--", *command)


def ip_in(namespace: str, *words: str) -> None:
    subprocess.run(within(namespace, "ip", *words), check=True, capture_output=True)


@dataclass(eq=False)
class Host:
    """One machine: a namespace with `eth0` on the wire."""

    lab: Lab
    number: int
    namespace: str

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def _port(self) -> str:
        return f"p{self.number}"

    def unplug(self) -> None:
        """Pull the cable: the carrier goes, the addresses stay."""
        ip_in(self.lab.switch, "link", "set", self._port, "down")

    def plug(self) -> None:
        ip_in(self.lab.switch, "link", "set", self._port, "up")

    def socket(self) -> socket.socket:
        """A socket that lives in this host's namespace, for clients in the test itself."""
        made: list[socket.socket] = []

        def make() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            with Path(f"/run/netns/{self.namespace}").open() as handle:
                if libc.setns(handle.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        made[0].setblocking(False)
        return made[0]


@dataclass(eq=False)
class Program:
    """A process on a host; what it says is kept for the failure message."""

    host: Host
    process: asyncio.subprocess.Process
    said: list[str] = field(default_factory=list)
    answers: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    _readers: list[asyncio.Task[None]] = field(default_factory=list)

    def listen(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(self.process.stdout, answers=True)),
            asyncio.create_task(self._read(self.process.stderr, answers=False)),
        ]

    async def _read(self, stream: asyncio.StreamReader, *, answers: bool) -> None:
        while line := await stream.readline():
            text = line.decode().rstrip()
            if answers:
                self.answers.put_nowait(text)
            else:
                self.said.append(text)

    async def kill(self) -> None:
        """kill -9: no goodbye."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        await self.ended()

    async def ended(self, timeout: float = 10.0) -> int:
        code = await asyncio.wait_for(self.process.wait(), timeout)
        for reader in self._readers:
            await reader
        return code

    @property
    def running(self) -> bool:
        return self.process.returncode is None


class Exo(Program):
    async def get(self, path: str) -> Any:
        return (await fetch(self.host, self.host.address, "GET", path)).json()

    async def state(self) -> Any:
        return await self.get("/state")

    async def runners(self) -> dict[str, str]:
        """Runner statuses by node and model."""
        state = await self.state()
        found = {}
        for wrapped in state["instances"].values():
            (instance,) = wrapped.values()
            shards = instance["shardAssignments"]
            for node, runner in shards["nodeToRunner"].items():
                status = state["runners"].get(runner)
                found[f"{node} {shards['modelId']}"] = next(iter(status)) if status else "none"
        return found

    async def tasks(self) -> list[str]:
        """Statuses of all generation tasks that the session still has."""
        state = await self.state()
        return [body["taskStatus"] for task in state["tasks"].values() for body in task.values()]


class Board(Program):
    async def command(self, words: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n".encode())
        await self.process.stdin.drain()
        return json.loads(await asyncio.wait_for(self.answers.get(), 5))

    async def view(self) -> Any:
        return await self.command("view")

    async def stop(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await self.ended()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Lab:
    def __init__(self, *, released: bool = False) -> None:
        self.released = released
        self.stem = f"x{os.getpid()}n{next(_numbers)}"
        self.switch = f"{self.stem}sw"
        self.folder = Path(tempfile.mkdtemp(prefix="exo-lab-"))
        self._hosts: list[Host] = []
        self._programs: list[Program] = []
        self._processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        ip("netns", "add", self.switch)
        try:
            ip_in(self.switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
            ip_in(self.switch, "link", "set", "br0", "up")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for program in self._programs:
            if program.running:
                await program.kill()
        for process in self._processes:  # of no program of ours
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for host in self._hosts:
            ip("netns", "del", host.namespace)
        ip("netns", "del", self.switch)
        shutil.rmtree(self.folder, ignore_errors=True)  # what a killed process still wrote is no failure

    def host(self) -> Host:
        host = Host(self, len(self._hosts) + 1, f"{self.stem}h{len(self._hosts) + 1}")
        namespace, port = host.namespace, f"p{host.number}"
        ip("netns", "add", namespace)
        self._hosts.append(host)
        # duplicate address detection would make every host wait for a second
        quiet = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"
        subprocess.run(within(namespace, "sh", "-c", quiet), check=True)
        ip_in(self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        ip_in(self.switch, "link", "set", port, "master", "br0", "up")
        ip_in(namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        ip_in(namespace, "link", "set", "lo", "up")
        ip_in(namespace, "link", "set", "eth0", "up")
        return host

    async def exo(
        self, host: Host | None = None, *words: str, ready: float = 15.0, released: bool | None = None
    ) -> Exo:
        """The stand-in, or exo itself where `EXO_PYTHON` names a Python that has it; `released` is 1.0.71."""
        host = host or self.host()
        if real.PYTHON:
            home = self.folder / f"exo{len(self._programs)}"
            program = Exo(host, await self._run(host, *real.command(words, home)))
        else:
            which = "released" if (self.released if released is None else released) else "exo"
            program = Exo(host, await self._spawn(host, f"tests.exo_cluster.standin.{which}", *words))
        self._programs.append(program)
        program.listen()
        if real.PYTHON:
            await until(lambda: program.get("/node_id"), real.STARTS_IN)
        else:
            await asyncio.wait_for(program.answers.get(), ready)
        return program

    async def board(self, host: Host | None = None, *words: str, folder: str = "") -> Board:
        host = host or self.host()
        place = self.folder / (folder or f"board{host.number}")
        program = Board(host, await self._spawn(host, "tests.exo_cluster.board", str(place), *words))
        self._programs.append(program)
        program.listen()
        await asyncio.wait_for(program.answers.get(), 15)
        return program

    async def _spawn(self, host: Host, module: str, *words: str) -> asyncio.subprocess.Process:
        return await self._run(host, sys.executable, "-m", module, *words)

    async def _run(self, host: Host, *command: str) -> asyncio.subprocess.Process:
        path = os.pathsep.join((str(TESTS), str(TESTS.parent)))
        process = await asyncio.create_subprocess_exec(
            *within(host.namespace, *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            limit=1 << 24,
        )
        self._processes.append(process)
        return process

    def story(self) -> str:
        """What everybody said, for a test that fails."""
        return "\n".join(
            f"{type(program).__name__} on {program.host.address}: {line}"
            for program in self._programs
            for line in program.said[-12:]
        )


# ── HTTP from a namespace ────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def connected(host: Host, address: str, port: int = API) -> AsyncIterator[tuple[Any, asyncio.StreamWriter]]:
    sock = host.socket()
    await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, (address, port)), 10)
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 26)
    try:
        yield reader, writer
    finally:
        writer.close()


async def request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: Any = None
) -> tuple[int, dict[str, str]]:
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    await writer.drain()
    status = int((await reader.readline()).split()[1])
    headers = {}
    while (line := (await reader.readline()).strip()) != b"":
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers


async def pieces(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    if headers.get("transfer-encoding") != "chunked":
        yield await reader.read()
        return
    while (line := await reader.readline()) and (size := int(line, 16)):
        yield await reader.readexactly(size)
        await reader.readline()


async def fetch(host: Host, address: str, method: str, path: str, body: Any = None, port: int = API) -> Answer:
    async with connected(host, address, port) as (reader, writer):
        status, headers = await request(reader, writer, method, path, body)
        return Answer(status, headers, b"".join([piece async for piece in pieces(reader, headers)]))


@dataclass
class Chat:
    """One streamed answer as a client saw it, with the time of each event since the request."""

    text: str = ""
    thinking: str = ""
    calls: list[Any] = field(default_factory=list)
    finish: str | None = None
    usage: Any = None
    stats: Any = None
    error: str = ""
    done: bool = False
    comments: int = 0
    times: list[float] = field(default_factory=list)
    status: int = 0

    def take(self, block: str, at: float) -> None:
        if block.startswith(":"):
            self.comments += 1
            if block.startswith(": generation_stats "):
                self.stats = json.loads(block.removeprefix(": generation_stats "))
            return
        data = block.removeprefix("data: ")
        if data == "[DONE]":
            self.done = True
            return
        event = json.loads(data)
        if "error" in event:
            self.error = event["error"]["message"]
            return
        choice = event["choices"][0]
        self.text += choice["delta"].get("content") or ""
        self.thinking += choice["delta"].get("reasoning_content") or ""
        self.calls += [call["function"] for call in choice["delta"].get("tool_calls") or []]
        self.finish = choice.get("finish_reason") or self.finish
        self.usage = event.get("usage") or self.usage
        self.times.append(at)


async def chat(
    exo: Exo,
    words: str,
    *,
    seen: Callable[[Chat], Awaitable[bool] | bool | None] | None = None,
    timeout: float = 60.0,
    messages: list[Any] | None = None,
    client: Host | None = None,
    **more: Any,
) -> Chat:
    """Ask through a node's API; `seen` is called after each event and ends the request by returning False."""
    body = {"model": MODEL, "stream": True, "messages": messages or [{"role": "user", "content": words}], **more}
    result = Chat()

    async def ask() -> None:
        async with connected(client or exo.host, exo.host.address) as (reader, writer):
            started = time.monotonic()
            result.status, headers = await request(reader, writer, "POST", "/v1/chat/completions", body)
            buffer = b""
            async for piece in pieces(reader, headers):
                buffer += piece
                while b"\n\n" in buffer:
                    block, _, buffer = buffer.partition(b"\n\n")
                    result.take(block.decode(), time.monotonic() - started)
                    if seen is not None:
                        verdict = seen(result)
                        if isinstance(verdict, Awaitable):
                            verdict = await verdict
                        if verdict is False:
                            return

    with contextlib.suppress(asyncio.TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        await asyncio.wait_for(ask(), timeout)
    return result


def counted(number: int) -> str:
    """What the desk answers to `count N`."""
    return "".join(f"t{index} " for index in range(number))


async def until(what: Callable[[], Awaitable[Any]], timeout: float, step: float = 0.05) -> float:
    """Seconds until `what` is true; fails with the last value after `timeout`."""
    started = time.monotonic()
    value: Any = None
    while time.monotonic() - started < timeout:
        with contextlib.suppress(OSError, asyncio.TimeoutError, ValueError, IndexError):
            value = await what()
            if value:
                return time.monotonic() - started
        await asyncio.sleep(step)
    raise AssertionError(f"not within {timeout} s; last seen: {value!r}")


async def ready(exo: Exo, number: int = 1, timeout: float = 10.0) -> float:
    """Seconds until so many instances are ready in the cluster's state."""

    async def enough() -> bool:
        return list((await exo.runners()).values()).count("RunnerReady") == number

    return await until(enough, timeout)


async def sees_both(exo: Exo) -> bool:
    """Whether two nodes told of themselves in its log."""
    return len((await exo.state())["lastSeen"]) >= 2


def numbers(text: str) -> Iterator[int]:
    return (int(word.removeprefix("t")) for word in text.split())


async def answered(exo: Exo, timeout: float) -> float:
    """Seconds until a request gets its whole answer; a new client asks every quarter of a second."""
    started = time.monotonic()
    asked: set[asyncio.Task[Chat]] = set()
    try:
        while time.monotonic() - started < timeout:
            asked.add(asyncio.create_task(chat(exo, "count 3", timeout=timeout)))
            await asyncio.wait(asked, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in asked if task.done()]:
                asked.discard(task)
                if task.exception() is None and task.result().text == counted(3):
                    return time.monotonic() - started
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    raise AssertionError(f"no answer within {timeout} s")
