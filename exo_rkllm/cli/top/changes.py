"""What the keys of `top` ask of the daemon, beside the screen: an unload waits for its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from exo_rkllm.client.control import Client, daemon
from exo_rkllm.errors import ExoRkllmError

SHOWN_SECONDS = 4.0
# Verb, and the name of what it is for.
ASKED = {"load": "model", "unload": "model", "stop": "request"}


class Changes:
    """`message` says for some seconds what happened, or why it did not."""

    def __init__(self, connect: Callable[[], Client] = daemon, now: Callable[[], float] = time.monotonic) -> None:
        self._connect, self._now = connect, now
        self._message, self._until = "", 0.0

    @property
    def message(self) -> str:
        return self._message if self._now() < self._until else ""

    def ask(self, verb: str, name: str) -> None:
        self._say(f"{verb} {name} ...", 3600.0)
        threading.Thread(target=self._ask, args=(verb, name), daemon=True).start()

    def _ask(self, verb: str, name: str) -> None:
        try:
            self._connect().post(f"/control/{verb}", **{ASKED[verb]: name})
        except (ExoRkllmError, OSError, ValueError) as error:
            self._say(error.sentence if isinstance(error, ExoRkllmError) else str(error), SHOWN_SECONDS)
        else:
            self._say(f"{verb} {name}: done", SHOWN_SECONDS)

    def _say(self, message: str, seconds: float) -> None:
        self._message, self._until = message, self._now() + seconds
