"""Conversations that the browser keeps, and what may be done with one, in a real browser."""

from __future__ import annotations

import json

from tests.page.browser import Tab
from tests.page.opening import ANSWERS, DONE, ask, eventually, needs_chromium, opened, press

pytestmark = needs_chromium

LAST = f"[...{ANSWERS}].at(-1)"
TITLES = "[...document.querySelectorAll('#conversations .title')].map((one) => one.textContent.trim())"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGP8z8DAwMDAxMDAwMDAAAANHQEDasKb6QAAAABJRU5ErkJggg=="
IMPORT = """((box) => {
    const data = new DataTransfer();
    data.items.add(new File([%s], 'conversations.json'));
    box.files = data.files;
    box.dispatchEvent(new Event('change'));
})(document.getElementById('import'))"""


async def told(tab: Tab, question: str, answer: str = "", model: str = "") -> None:
    """Ask, and wait for the answer."""
    count = await tab.run(f"{ANSWERS}.length")
    await ask(tab, question, model)
    await tab.until(f"{ANSWERS}.length > {count} && {DONE} && {LAST}.innerText.includes({json.dumps(answer)})")


async def reload(tab: Tab) -> None:
    """Once what the page keeps is in the database: whoever reads it waits for what is being written."""
    await tab.run(
        """new Promise((done) => { indexedDB.open("exo-rkllm").onsuccess = ({target: {result}}) => {
            const store = result.transaction("conversations").objectStore("conversations");
            store.count().onsuccess = () => { result.close(); done(null); }; }; })"""
    )
    await tab.send("Page.reload")


async def put(tab: Tab, identity: str, value: str, event: str = "input") -> None:
    box = f"document.getElementById('{identity}')"
    await tab.run(f"{box}.value = {json.dumps(value)}; {box}.dispatchEvent(new Event('{event}', {{bubbles: true}}))")


async def test_conversations_outlive_a_reload_and_are_found_renamed_and_deleted() -> None:
    async with opened() as (_, tab):
        await told(tab, "«apples»", "apples", "qwen")
        await tab.run("document.getElementById('fresh').click()")
        await told(tab, "«pears»", "pears")
        await reload(tab)
        await tab.until(f"{TITLES}.length === 2")
        await tab.until(f"{LAST}?.innerText.includes('pears')")  # the one that was open
        await put(tab, "search", "appl")
        await tab.until(f"{TITLES}.join() === '«apples»'")
        await put(tab, "search", "")
        await tab.until(f"{TITLES}.length === 2")
        await press(tab, "Rename", "[...document.querySelectorAll('#conversations li')].at(-1)")
        await tab.run("document.querySelector('.rename input').value = 'Fruit'")
        await tab.press("Enter")
        await tab.until(f"{TITLES}.includes('Fruit')")
        await press(
            tab,
            "Delete",
            "[...document.querySelectorAll('#conversations li')].find((one) => one.textContent.includes('pears'))",
        )
        await press(tab, "Delete", "document.querySelector('.asking')")
        await tab.until(f"{TITLES}.join() === 'Fruit' && {ANSWERS}.length === 0")
        await reload(tab)
        await tab.until(f"{TITLES}.join() === 'Fruit'")
        assert tab.problems == []


async def test_what_was_exported_can_be_imported_again() -> None:
    async with opened() as (_, tab):
        await tab.run("""window.files = []; const make = URL.createObjectURL;
            URL.createObjectURL = (blob) => {
                blob.text().then((text) => window.files.push(text));
                return make(blob);
            }; null""")
        await told(tab, "«apples»", "apples", "qwen")
        await press(tab, "Export as Markdown")
        await tab.until("window.files.length === 1")
        assert await tab.run("window.files[0]") == "# «apples»\n\n## You\n\n«apples»\n\n## qwen\n\napples\n"
        await press(tab, "Export all")
        await tab.until("window.files.length === 2")
        await tab.run(IMPORT % "window.files[1]")
        await tab.until(f"document.body.innerText.includes('One conversation was imported.') && {TITLES}.length === 2")
        await tab.run(IMPORT % "'{}'")
        await tab.until("document.body.innerText.includes('This file holds no conversations')")
        assert tab.problems == []


async def test_question_is_edited_and_an_answer_asked_for_again() -> None:
    async with opened() as (server, tab):
        await told(tab, "«one»", "one", "qwen")
        await told(tab, "«two»", "two")
        await press(tab, "Ask again")
        await eventually(lambda: len(server.ledger.requests) == 3)
        await tab.until(f"{DONE} && {ANSWERS}.length === 2")
        assert server.ledger.requests[2].prompt == server.ledger.requests[1].prompt
        await press(tab, "Edit", "document.querySelector('.said.user')")
        await tab.until("document.activeElement.matches('.editing textarea')")
        await tab.run("document.activeElement.select()")
        await tab.type("«three»")
        await tab.press("Enter")
        await tab.until(f"{DONE} && {ANSWERS}.length === 1 && {LAST}.innerText.includes('three')")
        assert "one" not in (server.ledger.requests[3].prompt or "")


async def test_settings_are_sent_and_an_answer_at_its_limit_can_go_on() -> None:
    async with opened() as (server, tab):
        await tab.until("document.getElementById('model')")
        await tab.run("document.getElementById('open-settings').click()")
        await put(tab, "system", "Be brief.")
        await put(tab, "setting-temperature", "0.2")
        await put(tab, "length", "3")
        await tab.run("document.getElementById('settings').close()")
        await told(tab, "«abcdefghijkl»", "reached its limit", "qwen")
        request = server.ledger.requests[0]
        assert "Be brief." in (request.prompt or "")
        assert (request.sampling.temperature, request.max_tokens) == (0.2, 3)
        await press(tab, "Continue")
        await eventually(lambda: len(server.ledger.requests) == 2)
        await tab.until(f"{DONE} && {ANSWERS}.length === 1")
        assert "abcdefghi<|im_end|>" in (server.ledger.requests[1].prompt or "")
        assert (await tab.run(f"{LAST}.querySelector('.markdown').innerText")).startswith("abcdefghi")
        await tab.run("document.getElementById('fresh').click()")
        await tab.until(f"{ANSWERS}.length === 0")


async def test_full_context_has_two_ways_out() -> None:
    cards = {"small": 'engine = "scripted"\ncontext = 40\n'}
    async with opened(cards=cards, answers={}) as (server, tab):
        await told(tab, "«first» " + "word " * 14, "first", "small")
        await told(tab, "«second» " + "word " * 14, "second")
        await ask(tab, "«third» " + "word " * 14)
        await tab.until("document.querySelector('.said.board .trouble')")
        await press(tab, "Leave out the oldest")
        await tab.until(f"{DONE} && {LAST}.innerText.includes('third')")
        assert "first" not in (server.ledger.requests[-1].prompt or "")
        assert "Everything above is no longer sent to the model." in await tab.text()
        await told(tab, "«fourth» " + "word " * 14, "fourth")
        await press(tab, "Start anew with a summary")
        await tab.until("document.querySelector('.said.summary')")
        await tab.until(f"{TITLES}.length === 2")
        assert "Summarize this conversation" in (server.ledger.requests[-1].prompt or "")


def files(event: str, kind: str, name: str = "a.png", media_type: str = "image/png", data: str = PNG) -> str:
    """The script of a person who drops or pastes a file, or chooses it."""
    targets = {"drop": "#ask", "paste": "#question", "change": "#ask input[type=file]"}
    return f"""((place) => {{ const data = new DataTransfer();
        const bytes = Uint8Array.from(atob('{data}'), (one) => one.charCodeAt(0));
        data.items.add(new File([bytes], '{name}', {{type: '{media_type}'}}));
        if ('{event}' === 'change') place.files = data.files;
        place.dispatchEvent(new {kind}('{event}', {{dataTransfer: data, clipboardData: data, bubbles: true,
            cancelable: true}})); }})(document.querySelector('{targets[event]}'))"""


DROP, PASTE, CHOOSE_FILE = files("drop", "DragEvent"), files("paste", "ClipboardEvent"), files("change", "Event")
ATTACHED = "document.querySelectorAll('.attached canvas')"


async def test_picture_is_dropped_pasted_or_chosen_and_sent_to_a_model_that_sees() -> None:
    async with opened() as (server, tab):
        await server.dispatcher.load("seer")
        await server.dispatcher.load("qwen")
        await tab.until(
            "[...document.querySelectorAll('#model option')].some((one) => one.textContent.includes('sees'))"
        )
        await put(tab, "model", "qwen", "change")
        await tab.until("!document.querySelector('#ask input[type=file]')")
        await tab.run(DROP)
        await tab.until("document.body.innerText.includes('does not see pictures')")
        await put(tab, "model", "seer", "change")
        await tab.run(files("drop", "DragEvent", "a.txt", "text/plain"))
        await tab.until("document.body.innerText.includes('Only pictures can be added')")
        await tab.run(files("drop", "DragEvent", data="bm8gcGljdHVyZQ=="))
        await tab.until("document.body.innerText.includes('no picture that the browser can read')")
        for count, script in enumerate((DROP, PASTE, CHOOSE_FILE), 1):
            await tab.run(script)
            await tab.until(f"{ATTACHED}.length === {count} && {ATTACHED}[{count - 1}].width > 1")
        await told(tab, "«squares»", "squares")
        assert (server.ledger.requests[-1].prompt or "").count("<image>") == 3
        await tab.until("document.querySelectorAll('.said.user canvas').length === 3")
        assert tab.problems == []
