"""The README's picture, docs/screenshots/demo.png: what `make run` shows while its model answers.

python -m tests.page.demo_picture
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys

from tests.page.browser import browser
from tests.page.opening import ask
from tests.page.screenshots import FOLDER
from tools.demo_words import QUESTION

BUSY = "[...document.querySelectorAll('.lane .value')].filter((one) => parseFloat(one.textContent) > 30).length >= 3"


async def main() -> None:
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tools.demo", stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        assert demo.stdout is not None
        url = ""
        async for line in demo.stdout:
            url = url or next(iter(re.findall(r"http://127\.0\.0\.1:\d+", line.decode())), "")
            if b"Its metrics" in line:
                break
        async with browser() as tab:
            await tab.open(url, width=1366, height=768)
            await asyncio.sleep(3)
            await tab.until("document.getElementById('pill').textContent === 'ready'", 60)  # its own answer has ended
            await ask(tab, QUESTION, "qwen2.5-1.5b")
            await tab.until(f"document.querySelector('.said.board .markdown')?.innerText.length > 300 && {BUSY}", 30)
            await tab.picture(FOLDER / "demo.png")
            assert tab.problems == []
    finally:
        demo.send_signal(signal.SIGINT)
        await demo.wait()


if __name__ == "__main__":
    asyncio.run(main())
