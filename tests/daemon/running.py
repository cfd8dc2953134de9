"""A real daemon in a process of its own, and everything a test asks of it: over its sockets, as anybody else would."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exo_rkllm.client.control import Client
from exo_rkllm.errors import ExoRkllmError
from tests.processes import holds_model

REPOSITORY = Path(__file__).parent.parent.parent
START = 20.0  # a machine that builds something else at the same time


@dataclass
class House:
    """One user's folders, with models in them; daemons are started in it and ended with it."""

    folder: Path
    environment: dict[str, str]
    stack: ExitStack = field(default_factory=ExitStack)
    program: tuple[str, ...] = (sys.executable, "-m", "exo_rkllm")
    at: Path = REPOSITORY

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def socket(self) -> Path:
        return self.folder / "run/exo-rkllm/control.sock"

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    def add(self, name: str, card: str) -> None:
        folder = self.models / name
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text(f'id = "{name}"\ncontext = 4096\n{card}')

    def words(self, name: str = "words", *, tokens_per_second: float = 0.0, load_seconds: float = 0.0) -> str:
        """A model that repeats the question."""
        options = f"tokens_per_second = {tokens_per_second}\nload_seconds = {load_seconds}\n"
        self.add(name, f'engine = "dummy"\n[options]\n{options}')
        return name

    def simulated(self, name: str, make_model: Callable[..., Path], *, memory: int = 0, **situation: Any) -> str:
        """A model on the simulated vendor library, in a child process."""
        self.add(name, f'{f"memory = {memory}" if memory else ""}\n[weights]\nfile = "m.rkllm"\n')
        make_model(**situation).rename(self.models / name / "m.rkllm")
        return name

    def start(self, *, wait: bool = True, through: Sequence[str] = (), **variables: str) -> Daemon:
        """`through` is a command that ends by running ours."""
        daemon = Daemon(self, {**self.environment, **variables}, tuple(through))
        self.stack.callback(daemon.kill)
        if wait:
            daemon.until("READY=1")
        return daemon

    def command(self, *words: str, user: int | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.program, *words],
            cwd=self.at,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            user=user,
        )


class Daemon:
    """`exo-rkllm serve`, and the socket on which it says how it is."""

    def __init__(self, house: House, environment: dict[str, str], through: tuple[str, ...]) -> None:
        self.house = house
        self.log = house.folder / f"log-{time.monotonic_ns()}"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = str(house.folder / f"notify-{time.monotonic_ns()}")
        self._notify.bind(address)
        self.said: list[str] = []
        self.began = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*through, *house.program, "serve"],
                cwd=house.at,
                env={**environment, "NOTIFY_SOCKET": address},
                stdout=log,
                stderr=log,
                pass_fds=[number for word in through for number in map(int, re.findall(r"<&(\d+)", word))],
            )
        self.client = Client(house.socket, 30.0)

    # ── how it is ────────────────────────────────────────────────────────────────────────────────

    def until(self, word: str, seconds: float = START) -> float:
        """Waits for a notification that has this in it; seconds from the start."""
        while not any(word in said for said in self.said):
            self._notify.settimeout(max(0.1, seconds))
            try:
                self.said.append(self._notify.recv(4096).decode())
            except TimeoutError:
                raise AssertionError(f"the daemon never said {word!r}:\n{self.text}") from None
        return time.monotonic() - self.began

    def wait_until_it_answers(self, seconds: float = START) -> None:
        """For a daemon that tells nobody when it is ready."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(ExoRkllmError):
                self.status()
                return
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)

    def hear(self) -> None:
        """Forgets what was said until now."""
        self._notify.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._notify.recv(4096)
        self.said.clear()

    @property
    def text(self) -> str:
        return self.log.read_text()

    def status(self) -> dict[str, Any]:
        return self.client.get("/control/status")

    def model_processes(self) -> list[int]:
        """Its children, without the helper and the process that waits for a model, which belong to none."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if holds_model(int(child))]

    def model(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"state": "cold", "running": [], "waiting": [], "memory": 0}
        for model in self.status()["models"]:
            if model["name"] == name:
                found = model
        return found

    def wait_for(self, what: Callable[[dict[str, Any]], object], seconds: float = 15.0) -> dict[str, Any]:
        """Follows the status until something holds."""
        client = Client(self.house.socket, seconds)
        for status in client.stream("GET", "/control/status?follow=1"):
            if what(status):
                return status
        raise AssertionError("the daemon stopped telling")

    # ── asking ───────────────────────────────────────────────────────────────────────────────────

    def ask(self, model: str, prompt: str, **fields: Any) -> Iterator[dict[str, Any]]:
        return self.client.stream("POST", "/control/ask", model=model, prompt=prompt, **fields)

    def answer(self, model: str, prompt: str, **fields: Any) -> str:
        return "".join(event.get("text", "") for event in self.ask(model, prompt, **fields))

    def answers(self, pool: ThreadPoolExecutor, model: str, prompts: Sequence[str]) -> list[Future[str]]:
        return [pool.submit(self.answer, model, prompt) for prompt in prompts]

    # ── ending ───────────────────────────────────────────────────────────────────────────────────

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, seconds: float = 20.0) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = 20.0) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._notify.close()


def house_of(folder: Path) -> House:
    """Nothing of the real user's environment reaches it but what Python needs."""
    for name in ("run", "models"):
        (folder / name).mkdir(parents=True)
    config = folder / "config.toml"
    config.write_text("")
    kept = {
        name: value for name, value in os.environ.items() if name in ("PATH", "LANG") or name.startswith("COVERAGE_")
    }
    return House(
        folder,
        {
            **kept,
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "EXO_RKLLM_CONFIG": str(config),
            "EXO_RKLLM_MODELS_DIRECTORY": str(folder / "models"),
            "EXO_RKLLM_API_PORT": "0",
            "EXO_RKLLM_CLUSTER_ENABLED": "false",
        },
    )
