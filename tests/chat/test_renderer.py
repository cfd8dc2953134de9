"""Templates in the helper process: what is stopped there says whose it was, and is not tried again at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from exo_rkllm.backends.base import Message
from exo_rkllm.chat import renderer
from exo_rkllm.chat.renderer import Renderer
from exo_rkllm.chat.template_source import TemplateSource
from exo_rkllm.errors import TemplateError

HELLO = (Message("user", "Hello"),)
GOOD = TemplateSource("{{ messages[0].content }}!")
SLOW = TemplateSource("{% if a %}{{ a }}{% endif %}" * 4600)  # takes seconds to compile


@pytest_asyncio.fixture
async def one(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Renderer]:
    monkeypatch.setattr(renderer, "RENDER_SECONDS", 0.5)
    made = Renderer()
    await made.compile("good", GOOD)
    yield made
    made.close()


async def test_slow_template_is_stopped_and_refused_for_a_while(one: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "REFUSED_SECONDS", 1.0)
    for longest in (2.0, 0.01):
        began = time.monotonic()
        with pytest.raises(TemplateError) as refusal:
            await one.render("slow", SLOW, HELLO, (), None)
        assert time.monotonic() - began < longest
        assert refusal.value.sentence == "The chat template of slow was stopped: it took longer than 0.5 s."
        assert "exo-rkllm show slow --template" in refusal.value.hint
    assert await one.render("good", GOOD, HELLO, (), None) == "Hello!"
    await asyncio.sleep(1)
    pid = one.helper.pid
    with pytest.raises(TemplateError):
        await one.render("slow", SLOW, HELLO, (), None)
    assert one.helper.pid != pid  # it was tried again


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{{ raise_exception('No.') }}", "refuses this: No"),
        ("{{ 1 // 0 }}", "fails: ZeroDivisionError"),
        ("{% for x %}", "cannot be read"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "was stopped"),
        ("{# nothing #}", "makes nothing of this conversation"),
        ("x" * 200_000, "has more than 128 KiB"),
    ],
    ids=lambda value: value[:20],
)
async def test_refusals_name_the_model(one: Renderer, text: str, what: str) -> None:
    with pytest.raises(TemplateError, match=f"^The chat template of hers {what}"):
        await one.render("hers", TemplateSource(text), HELLO, (), None)
