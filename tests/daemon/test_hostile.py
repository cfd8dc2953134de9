"""Hostile templates and bodies against a whole daemon: each is answered soon, and nobody beside them notices.

On a machine that does nothing else, `TESTS_LONG=1` allows a gap of 0.1 s in the answer beside them.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from tests.chat.hostile import COUNTED, UNCOUNTED
from tests.daemon.hostile import BODIES, OPENAI
from tests.daemon.running import Daemon, House

ANSWER_SECONDS = 2.0
GAP_SECONDS = 0.1 if os.environ.get("TESTS_LONG") else 0.4
DAEMON_BYTES = 150_000_000
PACE = 100  # tokens a second of the answer beside them
Send: TypeAlias = Callable[[str, bytes], tuple[int, str, float]]
CARD = 'name = "Hers"\n[weights]\nfile = "m.rkllm"\n[chat]\ntemplate = "chat.jinja"\n'
GOOD = "{% for one in messages %}{{ one.role }}: {{ one.content }}\n{% endfor %}assistant:"


class Waits:
    """How long the threads of a daemon, of its children and of the caller waited for a processor since the last look.

    What other programs of the machine take is not the daemon's fault. Threads that wait at the same time are added up,
    which is too much on a busy machine and nothing on an idle one.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._pid = daemon.process.pid
        self._former: dict[Path, int] = {}
        self.seconds()

    def seconds(self) -> float:
        former, self._former = self._former, dict(self._read())
        return sum(wait - former.get(thread, 0) for thread, wait in self._former.items()) / 1e9

    def _read(self) -> Iterator[tuple[Path, int]]:
        with suppress(OSError):
            children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
            for pid in (self._pid, *children):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    yield thread, int((thread / "schedstat").read_text().split()[1])
        thread = Path(f"/proc/self/task/{threading.get_native_id()}")
        yield thread, int((thread / "schedstat").read_text().split()[1])


class Neighbour:
    """Reads a long answer all the while, and the longest gap in it."""

    def __init__(self, daemon: Daemon, port: int) -> None:
        self.longest = 0.0
        self._daemon = daemon
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        question = {"model": "steady", "stream": True, "messages": [{"role": "user", "content": "word " * 3000}]}
        while not self._over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            connection.request("POST", OPENAI, json.dumps(question))
            response = connection.getresponse()
            assert response.status == 200, response.read()
            waits, last = Waits(self._daemon), time.monotonic()
            while not self._over.is_set() and response.readline():
                now = time.monotonic()
                self.longest = max(self.longest, now - last - waits.seconds())
                last = now
            connection.close()


@contextmanager
def neighbour(daemon: Daemon) -> Iterator[Send]:
    """Asks a daemon that answers somebody else meanwhile; what that one sees, and the daemon's memory, are judged."""
    port = int(daemon.status()["listening"][0].rpartition(":")[2])
    reader = Neighbour(daemon, port)
    try:
        time.sleep(0.5)
        yield functools.partial(send, daemon, port)
    finally:
        reader.stop()
    assert 1 / PACE / 2 < reader.longest < GAP_SECONDS
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) * 1024 < DAEMON_BYTES
    assert "Traceback" not in daemon.text


def send(daemon: Daemon, port: int, path: str, body: bytes) -> tuple[int, str, float]:
    """Status, text and seconds of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    waits, began = Waits(daemon), time.monotonic()
    with suppress(ConnectionError):  # it is refused before it is sent, and the reason can be read
        connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    seconds = time.monotonic() - began
    return response.status, text, seconds - waits.seconds()


def in_time(answers: dict[str, tuple[int, str, float]]) -> None:
    """Each answer is a 4xx, or one within the limits."""
    wrong = {name: answer for name, answer in answers.items() if not (answer[0] == 200 or 400 <= answer[0] < 500)}
    assert not wrong
    assert {name: seconds for name, (_, _, seconds) in answers.items() if seconds >= ANSWER_SECONDS} == {}


def test_hostile_templates_are_stopped_and_nobody_notices(board_house: House, make_model: Callable[..., Path]) -> None:
    templates = {**COUNTED, **UNCOUNTED}
    assert len(templates) >= 60
    board_house.words("steady", tokens_per_second=PACE)
    board_house.add("hers", CARD)
    make_model(reply="Hello").rename(board_house.models / "hers" / "m.rkllm")
    file = board_house.models / "hers" / "chat.jinja"
    file.write_text(GOOD)
    daemon = board_house.start()
    question = json.dumps({"model": "hers", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    answers = {}
    with neighbour(daemon) as ask:
        assert ask(OPENAI, question)[0] == 200
        for name, source in templates.items():
            file.write_text(source)
            answers[name] = ask(OPENAI, question)
        file.write_text(GOOD)
        assert ask(OPENAI, question)[0] == 200
    in_time(answers)
    refused = [text for status, text, _ in answers.values() if status == 400]
    assert len(refused) > 55
    assert all("chat template of hers" in text or "context" in text for text in refused)


def test_hostile_bodies_are_refused_and_nobody_notices(
    board_house: House, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    assert len(BODIES) >= 40
    board_house.words("steady", tokens_per_second=PACE)
    board_house.simulated("words", make_model, reply="Hello")
    for name, (_, make) in BODIES.items():  # ahead: what makes them holds up the reader in this process, too
        (tmp_path / name).write_bytes(make())
    with neighbour(board_house.start()) as ask:
        answers = {name: ask(path, (tmp_path / name).read_bytes()) for name, (path, _) in BODIES.items()}
    in_time(answers)
    assert sum(status != 200 for status, _, _ in answers.values()) > 30
