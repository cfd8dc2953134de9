"""What a prompt costs in the helper process, beside the same template in the daemon's own.

python -m bench.render
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

from exo_rkllm.backends.base import Message
from exo_rkllm.chat.families import FAMILIES
from exo_rkllm.chat.renderer import Renderer, plain
from exo_rkllm.chat.rendering import render_template
from exo_rkllm.chat.template_source import TemplateSource

ROUNDS = 1000
TEMPLATE = TemplateSource(FAMILIES["qwen3"].template)
USUAL = [Message("system", "You are a helpful assistant."), Message("user", "How far is the moon? " * 10)]
LONG = [Message("user" if index % 2 else "assistant", "It is about 384,400 km away. " * 20) for index in range(200)]
CASES = (("two messages", USUAL), ("200 messages, 116 kB", LONG))


async def measure() -> None:
    """Interleaved, so that whatever else the machine does reaches both alike."""
    renderer = Renderer()
    began = time.perf_counter()
    await renderer.compile("bench", TEMPLATE)
    print(f"  start, with the first template {(time.perf_counter() - began) * 1e3:8.0f} ms")
    for name, messages in CASES:
        apart, inside = [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            text = await renderer.render("bench", TEMPLATE, messages, (), None)
            between = time.perf_counter()
            same = render_template("bench", TEMPLATE.text, TEMPLATE.special, list(map(plain, messages)), [], None)
            apart.append(between - began)
            inside.append(time.perf_counter() - between)
            assert text == same
        medians = [statistics.median(times) * 1e6 for times in (apart, inside)]
        print(f"  {name:30} {medians[0]:8.0f} µs, {medians[1]:8.0f} µs in process")
    status = Path(f"/proc/{renderer.helper.pid}/status").read_text()  # noqa: ASYNC240 - procfs does not wait
    print("  memory of the process         ", " ".join(status.partition("VmRSS:")[2].split()[:2]))
    renderer.close()


def main() -> None:
    print("A prompt's template, in the helper process")
    asyncio.run(measure())


if __name__ == "__main__":
    main()
