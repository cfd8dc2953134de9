"""How smooth the page is: `python -m tests.page.measured`, on a machine that does nothing else.

The bars: no task above 50 ms of processor time in a long answer, and a first paint within 300 ms.
"""

from __future__ import annotations

import asyncio

from tests.page.opening import DONE, ask, opened

PARAGRAPH = "The **cores** share `one` token, and the [results](https://example.org) are put together again. "
PARTS = 30
LONG = "\n\n".join(
    f"## Part {part}\n\n{PARAGRAPH * 3}\n\n| a | b |\n|---|--:|\n| {part} | $x_{{{part}}}^2$ |\n\n"
    f"```python\ndef part_{part}(x):\n    # what it does\n    return x * {part}\n```\n\n* one\n* two"
    for part in range(PARTS)
)
TOKENS = -(-len(LONG) // 3)  # the scripted engine says three characters a token


async def longest_tasks() -> list[float]:
    """Milliseconds of the main thread's ten longest tasks during an answer of more than 4,000 tokens."""
    cards = {"quick": 'engine = "scripted"\ncontext = 16384\n[options]\npace = 0.001\n'}
    async with opened(cards=cards, answers={"long": LONG}) as (_, tab):
        await ask(tab, "«warm up $x$»", "quick")
        await tab.until(f"{DONE} && document.querySelector('.katex')")
        await tab.trace()
        await ask(tab, "long")
        await tab.until(
            f"{DONE} && document.querySelectorAll('.said.board')[1]?.querySelectorAll('.code').length === {PARTS}", 60
        )
        tasks = await tab.tasks()
        return tasks[-10:]


async def first_paints() -> list[float]:
    """Milliseconds until the first paint, of five visits."""
    async with opened() as (_, tab):
        paints = []
        for _ in range(5):
            await tab.send("Page.reload")
            await tab.until("performance.getEntriesByName('first-contentful-paint').length")
            paints.append(await tab.run("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        return paints


if __name__ == "__main__":
    print("first paints:", asyncio.run(first_paints()))  # noqa: T201 - a program
    print("longest tasks:", asyncio.run(longest_tasks()))  # noqa: T201 - a program
