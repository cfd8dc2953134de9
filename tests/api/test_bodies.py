"""Large bodies: counted before they are parsed, parsed beside the loop, and within a budget of memory."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_rkllm.api import body
from exo_rkllm.api.bodies import Bodies
from exo_rkllm.api.body import MOST_NAMES, MOST_VALUES, is_large, memory_of, parse, scan
from exo_rkllm.api.context import ApiServerSettings
from exo_rkllm.api.faults import BodyTooLarge
from exo_rkllm.config import ApiSettings
from exo_rkllm.errors import Busy
from exo_rkllm.schema.specs import FieldError
from tests.api.test_serving import ask, post
from tests.api.world import World, world

CHAT = "/v1/chat/completions"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text('a"\\{[:,]} \n\u4e2d', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('"\\{', max_size=3), inner, max_size=4),
    max_leaves=20,
)


def counted(value: Any) -> tuple[int, int, int]:
    """Names, values and depth, as `scan` is meant to count them."""
    if not isinstance(value, dict | list) or not value:
        return (int(isinstance(value, dict | list)), int(isinstance(value, dict | list)), 0)
    members = list(value.values()) if isinstance(value, dict) else value
    parts = [counted(member) for member in members]
    names = 1 + (len(value) if isinstance(value, dict) else 0) + sum(part[0] for part in parts)
    return names, len(members) + sum(part[1] for part in parts), 1 + max(part[2] for part in parts)


@settings(max_examples=300, deadline=None)
@given(JSON, st.booleans())
def test_scan_counts_what_stands_outside_strings(value: Any, ascii_only: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode()
    names, values, _ = counted(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body, "MOST_NAMES", names)
        patch.setattr(body, "MOST_VALUES", values + 1)
        scan(raw)
        patch.setattr(body, "MOST_NAMES", names - 1)
        with pytest.raises(BodyTooLarge, match="objects, lists and names") if names else pytest.raises(BodyTooLarge):
            scan(raw)


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"[" + b"{}," * MOST_NAMES + b"1]", "objects, lists and names, 10000 are allowed"),
        (b"[" + b"1," * MOST_VALUES + b"1]", "values, 50000 are allowed"),
        (b'["' + b'","' * 60_001 + b'"]', "strings, 60000 are allowed"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 levels"),
        (b"[1, " + b"9" * 101 + b"]", "a number of more than 100 digits"),
        (b"[1." + b"9" * 101 + b"e-5]", "a number of more than 100 digits"),
    ],
    ids=["objects", "values", "strings", "depth", "integer", "fraction"],
)
def test_limits_of_a_body_have_a_sentence(raw: bytes, what: str) -> None:
    with pytest.raises((BodyTooLarge, FieldError), match=what):
        scan(raw)


def test_a_text_may_hold_any_number_of_signs() -> None:
    for raw in (b'["' + rb"\"{[:,\\" * 200_000 + b'"]', b'["' + b"1" * 1000 + b"{[:," * 50_000 + b'"]'):
        assert scan(raw) == 2
        assert parse(raw)


def test_what_is_large_is_told_by_what_stands_outside_the_texts() -> None:
    prose = "It is about 384,400 km away, on average: {far} [enough]. " * 12

    def history(length: int) -> bytes:
        return json.dumps({**ask(), "messages": [{"role": "user", "content": prose}] * length}).encode()

    assert not is_large(history(201))
    assert is_large(history(600))
    assert is_large(b'["' + rb"\"" * 8_000 + b'"]')
    assert is_large(b'["' + b"x" * 300_000 + b'"]')
    with pytest.raises(FieldError, match="nested"):
        is_large(b"[" * 65 + b"]" * 65)


def test_bytes_are_given_back_and_memory_is_measured() -> None:
    raw = bytearray(json.dumps({"a": ["b" * 1000, 1]}).encode())
    value = parse(raw)
    assert raw == b"" and value == {"a": ["b" * 1000, 1]}
    assert 1000 < memory_of(value) < 2000
    assert memory_of("b" * 1000 + "\U0001f600") > 4000


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text('a\u4e2d\U0001f600\U0010ffff\\"', max_size=8), min_size=1, max_size=5))
def test_wide_characters_of_a_large_body_stay_what_they_are(texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body, "LARGE", 0)
        assert parse(json.dumps(texts, ensure_ascii=False).encode()) == texts
        for broken in (b'["\\\xf0\x9f\x98\x80"]', b'["\xf4\xbf\xbf\xbf"]', b"\xf0\x9f\x98\x80"):
            with pytest.raises(FieldError):
                parse(broken)
        patch.setattr(body, "MOST_WIDE", 1)
        with pytest.raises(BodyTooLarge, match=r"2 characters beyond U\+FFFF"):
            parse('["\U0001f600\U0001f600"]'.encode())


@settings(max_examples=300, deadline=None)
@given(st.text("au\\\0\ud83d\ude00\udfff\u4e2d\U0001f600", max_size=8), st.booleans())
def test_no_escape_makes_half_a_character_or_an_end(text: str, as_name: bool) -> None:
    raw = json.dumps({text: 1} if as_name else [text]).encode()
    meant = json.loads(raw)  # two halves in a row are one character
    (read,) = meant
    if "\0" in read or any("\ud800" <= sign <= "\udfff" for sign in read):
        with pytest.raises(FieldError):
            parse(raw)
    else:
        assert parse(raw) == meant


# ── budgets ──────────────────────────────────────────────────────────────────────────────────────


def test_budgets_hold_for_one_client_and_for_all() -> None:
    bodies = Bodies()
    with bodies.hold("one", 100) as first, bodies.hold("one", 100) as second, bodies.hold("two", 100) as third:
        first.resize(100)
        second.resize(100)
        with pytest.raises(Busy, match="your requests"):
            second.resize(101)
        third.resize(50)
        with bodies.hold("three", 100) as fourth, pytest.raises(Busy, match="all waiting requests"):
            fourth.resize(51)
        first.resize(0)
        third.resize(200)
        with pytest.raises(BodyTooLarge, match=r"takes 0\.000201 MB of memory"):
            third.resize(201)
    assert not bodies.clients


async def test_client_with_too_much_waiting_is_told_to_come_back() -> None:
    bodies = Bodies()
    async with world(settings=ApiServerSettings(ApiSettings(body_bytes=4000)), bodies=bodies) as server:
        waiting = [
            asyncio.create_task(post(server, CHAT, ask("x" * 3000, "slow"), Authorization="Bearer one"))
            for _ in range(2)
        ]
        while bodies.clients.total() < 6000:  # noqa: ASYNC110 - nothing tells that a body has arrived
            await asyncio.sleep(0.01)
        status, said, headers = await post(server, CHAT, ask("x" * 3000), Authorization="Bearer one")
        assert (status, said["error"]["code"]) == (503, "busy")
        assert int(headers["Retry-After"]) >= 1
        assert (await post(server, CHAT, ask("x" * 3000), Authorization="Bearer two"))[0] == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        while bodies.clients:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


# ── beside the loop ──────────────────────────────────────────────────────────────────────────────

MANY = {**ask("x"), "messages": [{"role": "user", "content": "x"}] * 3000}
SCHEMA = {"type": "object", "properties": {f"a{number}": {"type": "string"} for number in range(1900)}}
LARGE_BODIES = {
    "messages": MANY,
    "text": ask(extra="\u4e2d" * 1_000_000),
    "long conversation": ask("x" * 2_100_000),
    "schema": ask(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}),
    "unknown field": ask(extra=[{}] * 9000),
    "numbers": ask(extra=[0.123456789] * 40_000),
}


@pytest.mark.parametrize("name", LARGE_BODIES)
async def test_large_body_is_answered_and_the_loop_goes_on(server: World, name: str) -> None:
    data = json.dumps(LARGE_BODIES[name]).encode()
    await post(server, CHAT, ask())
    gc.collect()
    gc.freeze()  # a full collection here would look through what all of pytest's modules hold, too
    longest, last = 0.0, time.thread_time()

    async def watch() -> None:
        """The processor time that the loop's thread takes at a stretch: other programs do not count."""
        nonlocal longest, last
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    watching = asyncio.create_task(watch())
    async with server.http.post(f"{server.url}{CHAT}", data=data) as response:
        assert response.status in (200, 400, 422), await response.text()
    watching.cancel()
    gc.unfreeze()
    assert longest < 0.05


async def test_what_is_wrong_with_a_large_body_is_told(server: World) -> None:
    body_value = {**ask("x" * 300_000), "temperature": "hot"}
    status, said, _ = await post(server, CHAT, body_value)
    assert status == 400 and said["error"]["param"] == "temperature"
    status, _, headers = await post(server, CHAT, {**ask("x"), "extra": ["y" * 300_000]})
    assert status == 200 and headers["X-Ignored-Fields"] == "extra"
