"""Answers of engines that behave oddly: ends that are shown as text, thoughts without an end, runs that break off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from exo_rkllm.backends.base import (
    Finish,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    Piece,
    Progress,
    Structure,
    Timings,
    Usage,
)
from exo_rkllm.backends.dummy import DummyEngine, DummyModel
from exo_rkllm.chat.formats import REASONING
from exo_rkllm.chat.prompt import Prompt
from exo_rkllm.errors import ContextOverflow
from exo_rkllm.structure.guide import guided
from exo_rkllm.structure.matcher import MatcherHelper

pytest.importorskip("llguidance")

WORD = Structure("regex", "[a-z]+ [a-z]+")


class Spoken(DummyEngine):
    """Says one text a run, in pieces that are divided by bars."""

    def __init__(self, *runs: str, reason: FinishReason = "stop") -> None:
        super().__init__(DummyModel())
        self.runs = list(runs)
        self.reason = reason
        self.requests: list[GenerationRequest] = []
        self.aborts = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        self.requests.append(request)
        yield Progress("prefill")
        text, said, aborts = self.runs.pop(0), 0, self.aborts
        if text == "overflow":
            raise ContextOverflow("The prompt is too long.", "Shorten it.")
        for piece in text.split("|"):
            said += 1
            yield Piece(piece, 7)
            if self.aborts > aborts:
                break
        if text.endswith("!"):
            return
        reason = "abort" if self.aborts > aborts else self.reason
        yield Finish(reason, Usage(10, 2, said), Timings(prefill=1.0, decode=2.0))

    async def abort(self, request_id: str) -> None:
        self.aborts += 1


@pytest.fixture
async def helper() -> AsyncIterator[MatcherHelper]:
    one = MatcherHelper()
    yield one
    one.close()


async def heard(
    helper: MatcherHelper, engine: Spoken, structure: Structure = WORD, *, stopped: bool = False, **fields: Any
) -> tuple[str, GenerationEvent]:
    limits = {name: fields.pop(name) for name in ("max_tokens",) if name in fields}
    prompt = Prompt.of(GenerationRequest(prompt="p ", **limits), ("<|im_end|>",), **fields)
    events = [event async for event in guided(helper, engine, prompt, structure, lambda: stopped)]
    assert sum(isinstance(event, Progress) for event in events) == 1, "the reader hears of one prefill"
    return "".join(event.text for event in events if isinstance(event, Piece)), events[-1]


async def test_end_that_the_engine_shows_as_text_ends_the_answer(helper: MatcherHelper) -> None:
    engine = Spoken("two wo|rds<|im|_end|>|more")
    assert (await heard(helper, engine))[0] == "two words"
    engine = Spoken("two <|im_end|>|more", "words")
    text, finish = await heard(helper, engine)
    assert text == "two words"
    assert engine.requests[1].prompt == "p two "
    assert finish == Finish("stop", Usage(10, 2, 2), Timings(prefill=1.0, decode=5.0))
    assert (await heard(helper, Spoken("two words<|im")))[0] == "two words", "what only looked like one cannot belong"


async def test_thoughts_that_the_model_does_not_end_are_ended_for_it(helper: MatcherHelper) -> None:
    engine = Spoken("Well|, well", "two words")
    text, _ = await heard(helper, engine, reasoning=REASONING["think"], thinking=True)
    assert text == "Well, well\n</think>\n\ntwo words"
    assert engine.requests[1].prompt == "p Well, well\n</think>\n\n"


async def test_answer_that_may_still_be_a_tag_when_it_ends_is_an_answer(helper: MatcherHelper) -> None:
    text, _ = await heard(helper, Spoken("<t"), Structure("regex", "<t"), reasoning=REASONING["think"])
    assert text == "<t"


async def test_first_overflow_is_the_prompts_and_a_later_one_the_answers(helper: MatcherHelper) -> None:
    with pytest.raises(ContextOverflow):
        await heard(helper, Spoken("overflow"))
    with pytest.raises(Exception, match="before it was complete"):
        await heard(helper, Spoken("two 2", "overflow"))
    with pytest.raises(Exception, match="before it was complete"):
        await heard(helper, Spoken("two 2", "words"), max_tokens=1)


async def test_engine_that_ends_without_saying_so_is_left_to_the_dispatcher(helper: MatcherHelper) -> None:
    _, last = await heard(helper, Spoken("two !"))
    assert isinstance(last, Piece)


async def test_blanks_without_end_are_repaired(helper: MatcherHelper) -> None:
    engine = Spoken('{"a":' + "|\n" * 500 + "|1}", "1}")
    text, _ = await heard(helper, engine, Structure("json"))
    assert text.replace("\n", "") == '{"a":1}' and len(text) < 100
    engine = Spoken("two" + "|\n" * 50 + "| words")
    assert (await heard(helper, engine))[0] == "two words", "some are left out"
    engine = Spoken("two" + "|\n" * 500, " words")
    assert (await heard(helper, engine))[0] == "two words"


async def test_reader_that_wants_no_more_gets_no_repair(helper: MatcherHelper) -> None:
    engine = Spoken("two 2")
    assert (await heard(helper, engine, stopped=True))[0] == "two "
    assert len(engine.requests) == 1


async def test_answer_that_was_complete_may_have_been_cut_behind_its_end(helper: MatcherHelper) -> None:
    for text, reason in (('"ab"', "stop"), ('"a', "length")):
        engine = Spoken(text, reason="length")
        structure = Structure("schema", '{"type": "string"}') if reason == "stop" else Structure("regex", '"[a-z]*"?')
        assert (await heard(helper, engine, structure))[1].reason == reason  # type: ignore[union-attr]  # a Finish


def test_server_imports_nothing_for_answers_without_a_form() -> None:
    code = "import sys, exo_rkllm.daemon.daemon; print([name for name in sys.modules if 'exo_rkllm.structure' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
