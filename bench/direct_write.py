"""What writing onto the connection saves against aiohttp's own `write`, on a cold loop at 20 tokens a second.

Rounds of the two alternate, so that whatever else the machine does hits both. `StreamWatchdog.direct_write` stays as
long as it saves a tenth of what a token costs.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bench import http
from bench.rounds import Round
from bench.table import Row, show
from exo_rkllm.api.streaming import StreamWatchdog

ROUNDS = 7


def rounds() -> list[tuple[Round, Round]]:
    """Each round with direct writes beside one with aiohttp's."""
    pairs = []
    with http.served() as (direct_pid, direct), http.served("bench.direct_write") as (plain_pid, plain):
        for connection in (direct, plain):
            for _ in connection.ask("paced", "hi", 5):
                pass
        for _ in range(ROUNDS):
            first = http.of_server(direct_pid, direct, "paced")
            pairs.append((first, http.of_server(plain_pid, plain, "paced")))
    return pairs


def main() -> None:
    pairs = rounds()
    show(
        f"direct writes and aiohttp's at {http.PACE:g} tokens/s",
        [
            Row("CPU a token, direct", "µs", [direct.cpu for direct, _ in pairs]),
            Row("CPU a token, aiohttp's", "µs", [plain.cpu for _, plain in pairs]),
            Row("  aiohttp's over direct", "times", [plain.cpu / direct.cpu for direct, plain in pairs], "1.1"),
            Row("callback to client, median, direct", "ms", [direct.median for direct, _ in pairs]),
            Row("callback to client, median, aiohttp's", "ms", [plain.median for _, plain in pairs]),
            Row("  aiohttp's over direct", "times", [plain.median / direct.median for direct, plain in pairs]),
        ],
    )


if __name__ == "__main__":  # the served side with aiohttp's write
    StreamWatchdog.direct_write = lambda self, response: lambda data: False  # type: ignore[method-assign]
    asyncio.run(http.serve(Path(sys.argv[1])))
