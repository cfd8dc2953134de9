"""What writing onto the connection saves against aiohttp's own `write`, on a cold loop at 20 tokens a second.

`StreamWatchdog.direct_write` stays as long as it saves a tenth of what a token costs.
"""

from __future__ import annotations

from bench import http
from exo_rkllm import cli
from exo_rkllm.api.streaming import StreamWatchdog


def main() -> None:
    http.compare("direct writes and aiohttp's", ("aiohttp's", "bench.direct_write"), ("direct", "exo_rkllm"))


if __name__ == "__main__":  # the served side with aiohttp's write
    StreamWatchdog.direct_write = lambda self, response: lambda data: False  # type: ignore[method-assign]
    raise SystemExit(cli.main())
