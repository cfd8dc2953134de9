"""The chat, in a real browser."""

from __future__ import annotations

import asyncio

from tests.page.opening import ANSWERS, DONE, ask, eventually, needs_chromium, opened

pytestmark = needs_chromium

LAST = f"[...{ANSWERS}].at(-1)"
MARKDOWN = """\
Some **bold**, `code` and <i>plain</i>:

| core | load |
|:--|--:|
| 0 | 25 |

1. First
   ```python
   def f(x):  # note
       return "a"
   ```
2. Second with $E = mc^2$ and [a link](https://example.org) or [none](javascript:alert(1))

> quoted

$$\\int_0^1 x\\,dx$$

It costs $5 and $6.

مرحبا بالعالم"""


async def test_new_during_an_answer_leaks_nothing_into_the_next_conversation() -> None:
    async with opened() as (server, tab):
        await ask(tab, "«" + "secret words " * 60 + "»", "slow")
        await tab.until(f"{ANSWERS}[0]?.innerText.includes('secret')")
        await tab.run("document.getElementById('fresh').click()")
        await tab.until(f"{ANSWERS}.length === 0")
        await ask(tab, "«fresh start»", "qwen")
        await tab.until(f"{DONE} && {LAST}.innerText.includes('fresh start')")
        await ask(tab, "«second turn»")
        await tab.until(f"{DONE} && {LAST}.innerText.includes('second turn')")
        assert "secret" not in await tab.run("document.getElementById('talk').innerText")
        asked = [request for request in server.ledger.requests if "fresh start" in (request.prompt or "")]
        assert len(asked) == 2
        assert all("secret" not in (request.prompt or "") for request in asked)
        # The first answer went on in its own conversation.
        await tab.run("[...document.querySelectorAll('#conversations .title')].at(-1).click()")
        await tab.until(f"{ANSWERS}.length === 1 && {LAST}.innerText.includes('secret')")
        assert "fresh" not in await tab.run("document.getElementById('talk').innerText")
        assert tab.problems == []


async def test_stop_and_escape_end_the_answer_and_keep_what_was_said() -> None:
    async with opened() as (server, tab):
        for count, way in enumerate(("button", "key"), 1):
            await ask(tab, "«" + "on and on " * 200 + "»", "slow")
            await tab.until(f"{ANSWERS}.length === {count} && {LAST}.innerText.includes('on and on')")
            await tab.until("document.getElementById('queue').innerText.includes('answering')")
            if way == "button":
                await tab.run("document.getElementById('stop').click()")
            else:
                await tab.press("Escape")
            await tab.until(f"{DONE} && {LAST}.innerText.includes('stopped')")
            assert "on and on" in await tab.run(f"{LAST}.innerText")
            await eventually(lambda count=count: server.ledger.left == count)  # type: ignore[misc]
        assert tab.problems == []


async def test_thoughts_are_folded_and_opened_by_a_press() -> None:
    async with opened() as (_, tab):
        await ask(tab, "«<think>\nlet me see\n</think>\n\nseen»", "thinker")
        await tab.until(f"{DONE} && {LAST}.innerText.includes('seen')")
        assert await tab.run("document.querySelector('.thoughts').open") is False
        assert "let me see" not in await tab.run(f"{LAST}.innerText")
        await tab.run("document.querySelector('.thoughts summary').click()")
        assert "let me see" in await tab.run(f"{LAST}.innerText")


async def test_markdown_becomes_nodes_and_markup_of_the_model_stays_text() -> None:
    async with opened(answers={"show": MARKDOWN}) as (_, tab):
        await ask(tab, "show", "qwen")
        formulas = "document.querySelectorAll('.katex').length === 2"  # each becomes one by itself
        await tab.until(f"{DONE} && {formulas} && document.querySelector('.hljs-keyword')")
        seen = await tab.run("""({
            bold: document.querySelector('.markdown strong').textContent,
            markup: document.querySelector('.markdown i'),
            right: document.querySelector('.markdown td.right').textContent,
            fence: document.querySelector('.markdown li .code code').textContent,
            items: document.querySelectorAll('.markdown ol > li').length,
            links: [...document.querySelectorAll('.markdown a')].map((one) => [one.href, one.rel]),
            quote: document.querySelector('.markdown blockquote').textContent.trim(),
            formulas: document.querySelectorAll('.katex').length,
            price: document.querySelector('.markdown').textContent.includes('It costs $5 and $6.'),
            arabic: getComputedStyle(document.querySelector('.markdown').lastElementChild).direction,
            rule: getComputedStyle(document.querySelector('.katex .mord')).fontFamily,
        })""")
        assert seen == {
            "bold": "bold",
            "markup": None,
            "right": "25",
            "fence": 'def f(x):  # note\n    return "a"\n',
            "items": 2,
            "links": [["https://example.org/", "noopener noreferrer"]],
            "quote": "quoted",
            "formulas": 2,
            "price": True,
            "arabic": "rtl",
            "rule": seen["rule"],
        }
        await tab.until("[...document.fonts].some((one) => one.family === 'KaTeX_Main' && one.status === 'loaded')")
        assert tab.problems == []


async def test_code_is_copied_as_it_was_written() -> None:
    async with opened(answers={"show": "```sh\necho <b>\n```"}) as (_, tab):
        await ask(tab, "show", "qwen")
        await tab.until(f"{DONE} && document.querySelector('.code .copy')")
        await tab.run(
            "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (it) => { window.copied = it; }}})"
        )
        await tab.run("document.querySelector('.code .copy').click()")
        await tab.until(
            "window.copied === 'echo <b>\\n' && document.querySelector('.code .copy').textContent === 'Copied'"
        )


async def test_selection_survives_the_answer_that_goes_on() -> None:
    async with opened() as (_, tab):
        await ask(tab, "«Take these words. " + "on and on " * 80 + "»", "slow")
        await tab.until(f"{ANSWERS}[0]?.innerText.includes('words. on')")
        text = "document.querySelector('.markdown p').firstChild"
        await tab.run(f"getSelection().setBaseAndExtent({text}, 5, {text}, 16)")
        length = await tab.run(f"{ANSWERS}[0].innerText.length")
        await tab.until(f"{ANSWERS}[0].innerText.length > {length} + 30")
        assert await tab.run("getSelection().toString()") == "these words"
        await tab.press("Escape")


async def test_screen_reader_hears_sentences() -> None:
    async with opened(answers={"speak": "One is done. Two follows!\n\n```py\nx = 1\n```\n**Three** ends"}) as (_, tab):
        await tab.run("window.heard = []; null")
        await tab.until("document.querySelector('[role=log]')")
        await tab.run("""new MutationObserver((changes) => changes.forEach(({addedNodes}) =>
            addedNodes.forEach((one) => window.heard.push(one.textContent))))
            .observe(document.querySelector('[role=log]'), {childList: true}); null""")
        await ask(tab, "speak", "slow")
        await tab.until("window.heard.includes('The answer is complete.')")
        heard = await tab.run("window.heard")
        assert "".join(heard).replace(" ", "") == "Oneisdone.Twofollows!Code.ThreeendsTheansweriscomplete."
        assert all(one.strip() for one in heard)
        assert len(heard) <= 6


async def test_bubble_says_what_it_waits_for() -> None:
    async with opened() as (server, tab):
        await ask(tab, "«" + "on and on " * 100 + "»", "slow")
        await tab.until(f"{ANSWERS}[0]?.innerText.includes('on and on')")
        await tab.run("document.getElementById('fresh').click()")
        await ask(tab, "«me, too»", "slow")
        await tab.until("document.querySelector('.wait')?.textContent.includes('1 ahead of you')")
        await tab.press("Escape")
        await tab.until(f"{DONE} && {LAST}.innerText.includes('stopped')")
        assert len(server.ledger.requests) == 1
        await asyncio.sleep(0)
