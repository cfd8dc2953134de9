"""How long the NPU waits between two answers, and what a long conversation costs before its prefill.

Two clients ask by turns, so that one always waits while the other is answered. The simulated library writes its clock
into each token, and takes no time for a prefill: from the last token of an answer to the first of the next one is what
daemon, child and library do in between. The floor is one process that runs the same prompts one after another.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.daemon import client, daemon, port
from bench.http import CLOCK
from bench.rig import LIBRARY, board
from bench.table import Row, show
from exo_rkllm.runtime.blackbox import BlackBox
from exo_rkllm.runtime.session import Library, LoadParams, PromptInput, RunSpec, Session
from simulator.model_file import SimModel, write

CONTEXT = 1 << 20
TOKENS = 8
PACE = 100.0
TURNS = 12
WORDS = SimModel(
    reply="one two three four five", template="none", endless=True, clock=True, max_context=CONTEXT, decode_tps=PACE
)


def conversation(count: int, characters: int) -> list[dict[str, str]]:
    """Alternating turns that end with a question."""
    text = "It is about 384,400 km away, on average. "
    each = max(1, characters // count)
    return [
        {"role": "user" if index % 2 == 0 else "assistant", "content": (text * (each // len(text) + 1))[:each]}
        for index in range(count)
    ]


HISTORIES = {
    "1 message": conversation(1, 40),
    "201 messages, 116 kB": conversation(201, 116_000),
    "201 messages, 400 kB": conversation(201, 400_000),
    "1 message, 400 kB": conversation(1, 400_000),
}


class Asker:
    """One client that asks again and again; the clocks of its tokens, answer by answer."""

    def __init__(self, port: int, messages: list[dict[str, str]]) -> None:
        body = json.dumps({"model": "demo", "messages": messages, "max_tokens": TOKENS, "stream": True}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._port = port

    def answers(self) -> Iterator[tuple[float, list[int]]]:
        """When it was asked, and the clocks, in ns."""
        with socket.create_connection(("127.0.0.1", self._port)) as sock:
            while True:
                asked, data = time.monotonic_ns(), b""
                sock.sendall(self._request)
                while not data.endswith(b"0\r\n\r\n"):
                    if not (part := sock.recv(1 << 18)):
                        raise ConnectionError("the server closed")
                    data += part
                yield asked, [int(clock) for clock in CLOCK.findall(data)]


def gaps(port: int, messages: list[dict[str, str]]) -> list[float]:
    """Milliseconds between two answers of clients that wait for one another."""
    runs: list[list[int]] = []

    def ask() -> None:
        for _, (_, clocks) in zip(range(TURNS), Asker(port, messages).answers(), strict=False):
            runs.append(clocks)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs.sort()
    # Not the first, behind which nobody waited, nor the last.
    return [(later[0] - earlier[-1]) / 1e6 for earlier, later in pairwise(runs[2:-1])]


def before_prefill(port: int, messages: list[dict[str, str]]) -> list[float]:
    """Milliseconds from a request's first byte to the first token, where nobody waits."""
    rounds = zip(range(TURNS), Asker(port, messages).answers(), strict=False)
    return [(clocks[0] - asked) / 1e6 for _, (asked, clocks) in rounds][2:]


def bare(folder: Path, characters: int) -> list[float]:
    """The floor, in a process of its own."""
    command = [sys.executable, "-m", "bench.handover", str(folder), str(characters)]
    values: list[float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1])
    return values


def run_bare(folder: Path, characters: int) -> list[float]:
    board(folder)
    model = write(folder / "bench.rkllm", WORDS)
    session = Session.open(Library.open(LIBRARY), LoadParams(str(model), max_context_len=CONTEXT), BlackBox.create())
    clocks: list[list[int]] = []
    (message,) = conversation(1, characters)
    prompt = message["content"]
    for _ in range(TURNS):
        clocks.append([])
        session.run(PromptInput(prompt), lambda text, *_: clocks[-1].append(int(text)), RunSpec(max_new_tokens=TOKENS))
    session.close()
    return [(later[0] - earlier[-1]) / 1e6 for earlier, later in pairwise(clocks)]


def main() -> None:
    rows: list[Row] = []
    with TemporaryDirectory() as name, TemporaryDirectory() as other:
        folder = Path(name)
        with daemon(folder, demo=WORDS) as (_, _):
            card = folder / "models/demo/model.toml"
            card.write_text(card.read_text().replace("2048", str(CONTEXT)))
            client(folder).post("/control/load", model="demo")
            served = port(folder)
            for what, messages in HISTORIES.items():
                rows.append(Row(f"{what}: from an answer to the next", "ms", gaps(served, messages), "0.5"))
                characters = sum(len(message["content"]) for message in messages)
                rows.append(Row("  the floor's", "ms", bare(Path(other) / f"{len(rows)}", characters)))
                rows.append(Row("  from the request to the first token", "ms", before_prefill(served, messages)))
    show("Between two answers", rows)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir()
    print(json.dumps(run_bare(place, int(sys.argv[2]))))
