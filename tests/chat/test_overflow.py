"""A prompt that does not fit says what fills it."""

from __future__ import annotations

from exo_rkllm.backends.base import GenerationRequest, Message, Tool
from exo_rkllm.chat.overflow import with_shares
from exo_rkllm.errors import ContextOverflow

ERROR = ContextOverflow("The prompt has 9000 tokens, the context 4096.", "Shorten it.")
LONG = tuple(Tool(f"tool_{number}", "x" * 4000) for number in range(3))


def test_sentence_names_tools_system_prompt_and_conversation() -> None:
    messages = (Message("system", "a b c"), Message("user", "d e"), Message("assistant", "f"), Message("user", "g"))
    request = GenerationRequest(messages=messages, tools=LONG)
    error = with_shares(ERROR, request)
    assert error.hint == "Shorten it."
    assert error.sentence == (
        "The prompt has 9000 tokens, the context 4096. Of these the 3 tools take about 3069, the system prompt takes "
        "about 10 and the conversation of 3 messages takes about 27."
    )


def test_share_of_a_single_question_is_named() -> None:
    error = with_shares(ERROR, GenerationRequest(messages=(Message("user", "a b c"),)))
    assert error.sentence.endswith("Of these the question takes about 9.")


def test_prompt_that_came_ready_has_no_shares() -> None:
    assert with_shares(ERROR, GenerationRequest(prompt="a")) is ERROR
