"""A Debian computer that a test gives commands to: a container or a virtual machine."""

from __future__ import annotations

import abc
import json
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")
TAIL = 60


@dataclass(frozen=True, slots=True)
class Said:
    """What a command printed, and how it ended."""

    out: str
    err: str
    code: int

    @property
    def all(self) -> str:
        return self.out + self.err


class Computer(abc.ABC):
    """`run` gives a shell script to root or another user and fails the test where it fails, `ask` takes any end."""

    name: str
    #: How much longer things take than on this machine; a test's patience is multiplied by it.
    slowness: float = 1.0

    @abc.abstractmethod
    def command(self) -> list[str]:
        """What to put before a command so that it runs there as root."""

    def ask(self, script: str, *, user: str = "root", stdin: str = "", timeout: float = 60) -> Said:
        words = ["bash", "--norc", "-euo", "pipefail", "-c", script]
        if user != "root":
            words = ["runuser", "--login", user, "--shell", "/bin/bash", "--command", shlex.join(words)]
        done = subprocess.run(
            self._quoted(words), input=stdin, capture_output=True, text=True, timeout=timeout * self.slowness
        )
        return Said(done.stdout, done.stderr, done.returncode)

    def run(self, script: str, *, user: str = "root", stdin: str = "", timeout: float = 60) -> str:
        said = self.ask(script, user=user, stdin=stdin, timeout=timeout)
        if said.code != 0:
            tail = "\n".join(said.all.splitlines()[-TAIL:])
            raise AssertionError(f"on {self.name}, as {user}: {script}\nended with {said.code}:\n{tail}")
        return said.out

    def _quoted(self, words: list[str]) -> list[str]:
        return self.command() + words

    # ── what tests ask most ──────────────────────────────────────────────────────────────────────

    def show(self, unit: str, name: str) -> str:
        return self.run(f"systemctl show -P {name} {unit}").strip()

    def get(self, path: str) -> Any:
        """JSON of the API, from the computer itself."""
        return json.loads(self.run(f"curl -sS --max-time 30 http://127.0.0.1:52415{path}"))

    def metrics(self) -> Mapping[str, float]:
        """Name and labels of every series, as Prometheus would be told."""
        text = self.run("curl -sS --max-time 30 http://127.0.0.1:52415/metrics")
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def journal(self, *matches: str) -> list[Mapping[str, Any]]:
        told = self.run(f"journalctl --no-pager --quiet -o json {shlex.join(matches)}")
        return [json.loads(line) for line in told.splitlines()]

    def until(self, what: str, look: Callable[[], Value], seconds: float = 20, *, story: str = "true") -> Value:
        """The first true answer; every look costs the computer something, so there is a breath between two.

        What `story` prints tells why there was none.
        """
        end = time.monotonic() + seconds * self.slowness
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > end:
                late = f"{what}: not on {self.name} within {seconds * self.slowness:.0f} s"
                raise AssertionError(f"{late}\n{self.ask(story).all}".strip())
            time.sleep(0.1 * self.slowness)
