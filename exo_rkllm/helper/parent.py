"""The daemon's side of the helper process: started with the first job, kept warm, killed past its deadline."""

from __future__ import annotations

import asyncio
import json
import marshal
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import exo_rkllm
from exo_rkllm.board import affinity
from exo_rkllm.config.places import VENDOR_FOLDER
from exo_rkllm.errors import ExoRkllmError, from_code
from exo_rkllm.helper.child import ERROR, LENGTH

# No environment and no site-packages: the directories of what it may import are named one by one.
BOOT = "import sys; sys.path[:0] = sys.argv[5:]; from exo_rkllm.helper.child import main; "
BOOT += "main(*map(int, sys.argv[1:4]), sys.argv[4])"
HOME = str(Path(exo_rkllm.__file__).absolute().parent.parent)
MEMORY = 256 << 20
# Of processor time; the deadline comes first while the daemon lives.
JOB_SECONDS = 3
# Starting takes 0.1 s on a desktop and 0.5 s on a board; a board that reads its disk at the same time needs longer.
START_SECONDS = 20.0
LARGEST_ANSWER = 4 << 20
CHUNK = 1 << 20
# Memory that a long text has taken is kept for the next one: fresh pages cost more than all that is done with them.
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "MALLOC_MMAP_THRESHOLD_": f"{4 << 20}", "MALLOC_TRIM_THRESHOLD_": f"{8 << 20}"}
SEND_BUFFER = 1 << 20


class HelperLost(Exception):
    """The process was killed or died in the middle of a job; the text says why, as the end of a sentence."""


class HelperTooSlow(HelperLost):
    """It was killed because the job took longer than it may."""


class HelperAnswerTooLong(HelperLost):
    """It was killed because it answers more than anybody reads."""


class Helper:
    """One process that calls the function at `place` (module:function) with the arguments of each job, in turn.

    Jobs wait for each other, and for the new process while a lost one is replaced. It belongs to the event loop of its
    first job. `packages` names the packages outside the standard library that the function imports; `memory` is
    the process's address space in bytes, `job_seconds` the processor time of a job.
    """

    def __init__(
        self, place: str, packages: Sequence[str] = (), memory: int = MEMORY, job_seconds: int = JOB_SECONDS
    ) -> None:
        self._place = place
        self._packages = packages
        self._limits = (memory, job_seconds)
        self._turn = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._ready = False
        self._job: asyncio.Task[tuple[bytes, bytearray]] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def call(self, *arguments: Any, seconds: float) -> str:
        """What the function returns, or the ExoRkllmError that it raises.

        Raises HelperLost where it takes longer than `seconds` from its turn on, dies or answers nonsense; the process
        is gone then, and the next job starts another. `arguments` are what JSON knows, and tuples. A caller that is
        cancelled while its job runs leaves it to its end: starting another process would cost the next caller more.
        """
        job = marshal.dumps(arguments)
        await self._turn.acquire()
        self._job = asyncio.get_running_loop().create_task(self._answer(job, seconds))
        self._job.add_done_callback(lambda _job: self._turn.release())
        kind, data = await asyncio.shield(self._job)
        if kind != ERROR:
            return data.decode()
        code, sentence, hint = json.loads(data)
        if not code:
            raise HelperLost("used more memory than it may" if sentence == "memory" else f"failed with {sentence!a}")
        raise from_code(str(code), str(sentence), str(hint))

    def close(self) -> None:
        """Ends the process, whatever it is doing; the next job starts another."""
        if self._job is not None:
            self._job.cancel()
        self._kill()

    def _kill(self) -> None:
        process, self._process = self._process, None
        sock, self._sock = self._sock, None
        self._ready = False
        if sock is not None:
            sock.close()
        if process is not None:
            process.kill()
            # The kernel may need a moment to take a large process apart, which is not the loop's.
            asyncio.get_running_loop().run_in_executor(None, process.wait)

    async def _answer(self, job: bytes, seconds: float) -> tuple[bytes, bytearray]:
        """What the process answers, its kind first; it is started where there is none."""
        try:
            return await self._attempt(job, seconds)
        except (OSError, EOFError):
            self._kill()
        try:  # the process may have died of others: the out-of-memory killer takes it first
            return await self._attempt(job, seconds)
        except (OSError, EOFError):
            self._kill()
            raise HelperLost("used more processor time or memory than it may") from None

    async def _attempt(self, job: bytes, seconds: float) -> tuple[bytes, bytearray]:
        """Raises an OSError or EOFError where the process dies of the job."""
        try:
            if self._sock is None or self._process is None or self._process.poll() is not None:
                self._kill()
                self._sock = self._spawn()
            if not self._ready:
                await self._started(self._sock)
            return await asyncio.wait_for(self._exchange(self._sock, job), seconds)
        except asyncio.TimeoutError:
            self._kill()
            self._sock = self._spawn()  # it starts while nobody waits for it yet
            raise HelperTooSlow(f"took longer than {seconds:g} s") from None
        except (OSError, EOFError):
            raise
        except BaseException:
            self._kill()
            raise

    def _spawn(self) -> socket.socket:
        homes = [HOME, *map(home_of, self._packages)]
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        for end in (ours, theirs):  # a long prompt goes through in one piece where the system allows it
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        with theirs:
            arguments = [str(theirs.fileno()), *map(str, self._limits), self._place, *homes]
            with affinity.for_child():
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", BOOT, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={**ENVIRONMENT, **({"TZ": os.environ["TZ"]} if "TZ" in os.environ else {})},
                )
        return ours

    async def _started(self, sock: socket.socket) -> None:
        try:
            await asyncio.wait_for(self._receive(sock), START_SECONDS)
        except (asyncio.TimeoutError, OSError, EOFError):
            raise HelperLost("got no process, since none starts") from None
        self._ready = True

    async def _exchange(self, sock: socket.socket, job: bytes) -> tuple[bytes, bytearray]:
        await asyncio.get_running_loop().sock_sendall(sock, LENGTH.pack(len(job)) + job)
        return await self._receive(sock)

    async def _receive(self, sock: socket.socket) -> tuple[bytes, bytearray]:
        """One answer: its kind and its data. Raises EOFError where none comes, HelperLost for one that is too long."""
        loop = asyncio.get_running_loop()
        data = bytearray()
        while len(data) < LENGTH.size or len(data) < LENGTH.size + LENGTH.unpack_from(data)[0]:
            part = await loop.sock_recv(sock, CHUNK)
            if not part:
                raise EOFError
            data += part
            if len(data) > LARGEST_ANSWER:
                raise HelperAnswerTooLong(f"made more than {LARGEST_ANSWER >> 20} MB")
        del data[: LENGTH.size]
        kind = bytes(data[:1])
        del data[:1]
        return kind, data


def home_of(package: str, vendor_folder: Path = VENDOR_FOLDER) -> str:
    """The directory that a package is imported from, without importing it: where pip put it, or else our own copy."""
    spec = find_spec(package)
    if spec is None and (vendor_folder / package).is_dir():
        return str(vendor_folder)
    if spec is None or spec.origin is None:
        raise ExoRkllmError(f"The Python package {package} is not installed.", f"pip install {package}")
    path = Path(spec.origin)
    return str(path.parent.parent if path.name.startswith("__init__.") else path.parent)
