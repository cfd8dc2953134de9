"""A parser turns what a model writes into answer, thoughts and calls, however its tokens cut the text."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_rkllm.backends.base import (
    Capabilities,
    Finish,
    FinishReason,
    GenerationRequest,
    Ignored,
    Image,
    Message,
    Model,
    Piece,
    Tool,
    ToolCall,
    Usage,
    content_of,
)
from exo_rkllm.backends.dummy import DummyModel
from exo_rkllm.catalogue.card import Card, Weights
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.chat.chat_format import ChatSettings
from exo_rkllm.chat.formats import REASONING, TOOLS
from exo_rkllm.chat.parser import ResponseParser
from exo_rkllm.chat.prompt import Prompt
from exo_rkllm.chat.renderer import plain
from exo_rkllm.chat.rendering import message_value
from exo_rkllm.chat.toolcall import new_tool_call, read_tool_call, tool_call_piece
from exo_rkllm.errors import AnswerInvalid, NotSupported, TemplateError, UsageError
from tests.chat.conversations import ASK, CLOCK, FINE, HELLO, SYSTEM, WEATHER
from tests.chat.in_process import render

TEMPLATES = Path(__file__).parent / "templates"
RKLLM = Capabilities()
THINK, HERMES = REASONING["think"], TOOLS["hermes"]
DONE = Finish("stop", Usage(3, 0, 4))


class Bare(Model):
    """A model file without a card."""

    def __init__(self, file: str) -> None:
        self._file = file

    @property
    def id(self) -> str:
        return self._file

    @property
    def engine(self) -> str:
        return "rkllm"

    @property
    def path(self) -> Path:
        return Path("/models") / self._file

    @property
    def context(self) -> int:
        return 0


def entry(folder: Path, template: str, base: str = "", chat: ChatSettings | None = None) -> Entry:
    """An entry whose template is one of the published ones."""
    (folder / "chat_template.jinja").write_text((TEMPLATES / f"{template}.jinja").read_text())
    card = Card(template, base_model=base or template, weights=Weights("w.rkllm"), chat=chat or ChatSettings())
    return Entry(folder, card)


@dataclass(frozen=True)
class Heard:
    thinking: str
    answer: str
    calls: tuple[tuple[str, object], ...]
    reason: FinishReason


def feed(parser: ResponseParser, texts: Sequence[str], finish: Finish = DONE) -> Heard:
    """Everything that comes out of one run."""
    out: list[Piece] = []
    for token, text in enumerate(texts):
        out += parser.feed(Piece(text, token))
        if parser.stopped:
            break
    *rest, last = parser.end(finish)
    out += [piece for piece in rest if isinstance(piece, Piece)]
    assert isinstance(last, Finish)
    calls = tuple(
        (made.name, json.loads(made.arguments))
        for made in (read_tool_call(piece) for piece in out if piece.kind == "tool_call")
    )
    return Heard(
        "".join(piece.text for piece in out if piece.kind == "thinking"),
        "".join(piece.text for piece in out if piece.kind == "answer"),
        calls,
        last.reason,
    )


def cuts(text: str) -> list[list[str]]:
    """The text in one piece, in single characters, and in pieces of two, three and seven."""
    return [[text[at : at + size] for at in range(0, len(text), size)] for size in (len(text), 1, 2, 3, 7)]


OSLO = ("get_weather", {"city": "Oslo", "days": 2})
ROME = ("get_weather", {"city": "Rome"})
TIME: tuple[str, object] = ("get_time", {})


@dataclass(frozen=True)
class Said:
    """What a model of this family writes, by its published format, and what it means."""

    name: str
    text: str
    thinking: str = ""
    answer: str = ""
    calls: tuple[tuple[str, object], ...] = ()


FAMILY_OUTPUT = {
    "qwen2.5": (
        Said("qwen2.5-1.5b", "Hello!<|im_end|>", answer="Hello!"),
        Said(
            "qwen2.5-1.5b",
            'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}\n'
            "</tool_call>\n"
            '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call><|im_end|>',
            answer="Let me look.",
            calls=(OSLO, TIME),
        ),
    ),
    "qwen3": (
        Said("qwen3-0.6b", "<think>\nWell,\nwell.\n</think>\n\nHi!\n\nYou?<|im_end|>", "Well,\nwell.", "Hi!\n\nYou?"),
        Said(
            "qwen3-0.6b",
            '<think>\nOslo.\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}'
            "\n</tool_call><|im_end|>",
            "Oslo.",
            calls=(OSLO,),
        ),
        Said("qwen3-0.6b", "<think>\n\n</think>\n\nNo thoughts.", "", "No thoughts."),
    ),
    "qwen3.5": (  # its template opens the thoughts
        Said("qwen3.5-2b", "Hmm.\n</think>\n\nHi.<|im_end|>", "Hmm.", "Hi."),
        Said(
            "qwen3.5-2b",
            "Oslo.\n</think>\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n"
            "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call><|im_end|>",
            "Oslo.",
            calls=(OSLO,),
        ),
    ),
    "deepseek-r1": (
        Said("deepseek-r1-1.5b", "<think>\nSo.\n</think>\n\nYes.<｜end▁of▁sentence｜>", "So.", "Yes."),
        Said(
            "deepseek-r1-1.5b",
            '<think>\nSo.\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n'
            "</tool_call>",
            "So.",
            calls=(ROME,),
        ),
    ),
    "gemma-4": (
        Said("gemma-4-e2b", "Hi there.<turn|>", answer="Hi there."),
        Said("gemma-4-e2b", "<|channel>thought\nHm.\n<channel|>Hi.<turn|>", "Hm.", "Hi."),
        Said(
            "gemma-4-e2b",
            '<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:2}<tool_call|><|tool_response>',
            calls=(OSLO,),
        ),
    ),
    "phi-4-mini": (
        Said("phi-4-mini", "Hi.<|end|>", answer="Hi."),
        Said(
            "phi-4-mini",
            '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}, '
            '{"name": "get_time", "arguments": {}}]<|/tool_call|><|end|>',
            calls=(OSLO, TIME),
        ),
        Said("phi-4-mini", 'functools[{"name": "get_weather", "arguments": {"city": "Rome"}}]<|end|>', calls=(ROME,)),
    ),
    "phi-3.5": (
        Said(
            "phi-3.5-mini",
            '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call><|end|>',
            calls=(ROME,),
        ),
    ),
    "minicpm3": (
        Said(
            "minicpm3-4b",
            "<|thought_start|>\nThe city is given.\n<|thought_end|>\n<|tool_call_start|>\n```python\n"
            'get_weather(city="Oslo", days=2)\nget_time()\n```\n<|tool_call_end|>\nPlease wait.<|im_end|>',
            "The city is given.",
            "Please wait.",
            (OSLO, TIME),
        ),
    ),
    "minicpm5": (
        Said(
            "minicpm5-1b",
            '<think>\nHm.\n</think>\n\n<function name="get_weather"><param name="city"><![CDATA[Oslo]]></param>'
            '<param name="days">2</param></function>\n<function name="get_time"></function><|im_end|>',
            "Hm.",
            "",
            (OSLO, TIME),
        ),
    ),
    "internlm2-chat": (
        Said(
            "internlm2-1.8b",
            'Sure, I will look.<|action_start|><|plugin|>\n{"name": "get_weather", "parameters": {"city": "Rome"}}'
            "<|action_end|><|im_end|>",
            "",
            "Sure, I will look.",
            (ROME,),
        ),
    ),
    "smollm3": (
        Said("smollm3-3b", "<think>\nHm.\n</think>\nHi.<|im_end|>", "Hm.", "Hi."),
        Said(
            "smollm3-3b",
            '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call><|im_end|>',
            calls=(ROME,),
        ),
    ),
}
OWN_OUTPUT = (  # families that are spoken to by our own templates
    Said("Llama-3.2-3B", '{"name": "get_weather", "parameters": {"city": "Rome"}}<|eot_id|>', calls=(ROME,)),
    Said("Llama-3.2-3B", '<|python_tag|>{"name": "get_time", "parameters": {}}<|eom_id|>', calls=(TIME,)),
    Said(
        "Llama-3.1-8B",
        '{"name": "get_time", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "Rome"}}',
        calls=(TIME, ROME),
    ),
    Said("Llama-3.2-3B", '{"temperature": 4}<|eot_id|>', answer='{"temperature": 4}'),
    Said("chatglm3-6b", "get_weather\n ```python\ntool_call(city='Oslo', days=2)\n```<|observation|>", calls=(OSLO,)),
    Said("chatglm3-6b", "\n get_weather is a tool.", answer="\n get_weather is a tool."),
    Said("glm-4-9b-chat", 'get_weather\n{"city": "Rome"}<|observation|>', calls=(ROME,)),
    Said(
        "TeleChat2-3B",
        'Gut.\n<tool_call>\n{"name": " get_time", "arguments": {}}\n</tool_call><_end>',
        "",
        "Gut.",
        (TIME,),
    ),
    Said("gemma-3-1b-it", '<tool_call>{"name": "get_time", "arguments": {}}</tool_call><end_of_turn>', calls=(TIME,)),
)
OUTPUTS = [
    *(
        pytest.param(family, said, id=f"{family} {index}")
        for family, several in FAMILY_OUTPUT.items()
        for index, said in enumerate(several)
    ),
    *(pytest.param("", said, id=f"{said.name} {index}") for index, said in enumerate(OWN_OUTPUT)),
]  # fmt: skip


@pytest.mark.parametrize(("family", "said"), OUTPUTS)
def test_each_family_is_understood_however_its_text_is_cut(family: str, said: Said, tmp_path: Path) -> None:
    model: Model = entry(tmp_path, family, said.name) if family else Bare(f"{said.name}_W8A8_RK3588.rkllm")
    request = GenerationRequest(messages=(ASK,), tools=(WEATHER, CLOCK))
    for pieces in cuts(said.text):
        heard = feed(ResponseParser(render(request, model, RKLLM)), pieces)
        reason: FinishReason = "tool_calls" if said.calls else "stop"
        assert heard == Heard(said.thinking, said.answer, said.calls, reason), pieces


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_parser_reads_the_same_wherever_the_text_is_cut(data: st.DataObject) -> None:
    """Random text out of tags and halves of tags: the pieces put together mean what the whole means."""
    parts = ["<think>", "</think>", "<tool_call>", "</tool_call>", "\n", " ", "<", "</", "a", "STOP", "ST", "<|end|>",
             '{"name": "x", "arguments": {}}', "<|e", "é🙂"]  # fmt: skip
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=12)))
    edges = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)) | {0, len(text)})
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    request = GenerationRequest(prompt="", stop=("STOP",), tools=(WEATHER,))

    def parser() -> ResponseParser:
        return ResponseParser(Prompt.of(request, ("<|end|>",), reasoning=THINK, tools=HERMES))

    whole, cut = feed(parser(), [text]), feed(parser(), pieces)
    assert cut == whole
    assert feed(parser(), list(text)) == whole
    assert "STOP" not in whole.answer
    assert "<|end|>" not in whole.answer + whole.thinking


@given(st.text(alphabet="ab <\n", max_size=40), st.integers(1, 5))
def test_parser_without_tags_passes_every_piece_on_at_once(text: str, size: int) -> None:
    parser = ResponseParser(Prompt.of(GenerationRequest(prompt="")))
    for at in range(0, len(text), size):
        part = text[at : at + size]
        assert [piece.text for piece in parser.feed(Piece(part))] == [part]


def test_pieces_keep_their_tokens() -> None:
    parser = ResponseParser(Prompt.of(GenerationRequest(prompt=""), reasoning=THINK))
    out = [
        piece
        for token, text in enumerate(["<th", "ink>", "a", "</", "b", "</think>c", "d"])
        for piece in parser.feed(Piece(text, token))
    ]
    assert [(piece.text, piece.token, piece.kind) for piece in out] == [
        ("a", 2, "thinking"),
        ("</", 3, "thinking"),
        ("b", 4, "thinking"),
        ("c", 5, "answer"),
        ("d", 6, "answer"),
    ]  # fmt: skip


def test_only_what_may_become_a_tag_is_held_back() -> None:
    parser = ResponseParser(Prompt.of(GenerationRequest(prompt="", stop=("END",)), reasoning=THINK))
    assert [piece.text for piece in parser.feed(Piece("one E"))] == ["one "]
    assert [piece.text for piece in parser.feed(Piece("N"))] == []
    assert [piece.text for piece in parser.feed(Piece("T"))] == ["E", "N", "T"]


def test_a_stop_string_ends_the_run_and_nothing_follows() -> None:
    parser = ResponseParser(Prompt.of(GenerationRequest(prompt="", stop=("\nUser:", "###"))))
    heard = [piece.text for text in ("Hi", "\nUs", "er: more", "yet more") for piece in parser.feed(Piece(text))]
    assert heard == ["Hi"]
    assert parser.stopped
    assert parser.end(Finish("abort")) == (Finish("stop", stop="\nUser:"),)


def test_a_users_stop_string_does_not_end_thoughts() -> None:
    request = GenerationRequest(prompt="", stop=("\n\n",))
    parser = ResponseParser(Prompt.of(request, reasoning=THINK, ends=("<|end|>",)))
    assert feed(parser, ["<think>a\n\nb</think>", "c\n\nd"]) == Heard("a\n\nb", "c", (), "stop")
    parser = ResponseParser(Prompt.of(request, reasoning=THINK, ends=("<|end|>",)))
    assert feed(parser, ["<think>a<|end|>b"]) == Heard("a", "", (), "stop")


@pytest.mark.parametrize("reason", ["length", "abort"])
def test_answer_that_is_cut_off_finishes_with_length(reason: FinishReason) -> None:
    parser = ResponseParser(Prompt.of(GenerationRequest(prompt="", tools=(WEATHER,)), tools=HERMES))
    text = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call><tool_call>{"name": "get'
    heard = feed(parser, [text], Finish(reason))
    assert heard.calls == (TIME,)
    assert heard.answer == '<tool_call>{"name": "get'
    assert heard.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>not json</tool_call>",
        '<tool_call>{"nom": "x"}</tool_call>',
        '<tool_call>{"name": "x", "arguments": [1]}</tool_call>',
        "<tool_call></tool_call>",
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
        '<tool_call>{"name": "x", "arguments": ' + '{"a":' * 100_000 + "</tool_call>",
    ],
)
def test_malformed_call_is_given_back_as_answer_text(text: str) -> None:
    parser = ResponseParser(Prompt.of(GenerationRequest(prompt="", tools=(WEATHER,)), tools=HERMES))
    assert feed(parser, ["So:\n", text, " ok"]) == Heard("", f"So:\n{text} ok", (), "stop")


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        (
            '<think>Look:\n<tool_call>{"name": "get_time"}</tool_call>\nThen.</think>Done.',
            Heard("Look:Then.", "Done.", (TIME,), "tool_calls"),
        ),
        (
            '<think>Look:\n<tool_call>{"name": "get_time"}',
            Heard("Look:", "", (TIME,), "tool_calls"),
        ),
        (
            "<think>I could write\n<tool_call> here.</think>It is noon.",
            Heard("I could write\n<tool_call> here.", "It is noon.", (), "stop"),
        ),
        (
            "<think>I could write <tool_call>x</tool_call> here.\n</think>\n\nIt is noon.",
            Heard("I could write <tool_call>x</tool_call> here.", "It is noon.", (), "stop"),
        ),
    ],
)
def test_calls_amid_thoughts_are_made_and_words_about_them_stay_thoughts(text: str, heard: Heard) -> None:
    for pieces in cuts(text):
        request = GenerationRequest(prompt="", tools=(WEATHER, CLOCK), stop=("here",))
        parser = ResponseParser(Prompt.of(request, ("<|end|>",), reasoning=THINK, tools=HERMES))
        assert feed(parser, pieces) == heard, pieces


def test_arguments_may_be_text_that_is_json() -> None:
    parser = ResponseParser(Prompt.of(GenerationRequest(prompt="", tools=(WEATHER,)), tools=HERMES))
    heard = feed(parser, ['<tool_call>{"function": {"name": "x", "arguments": "{\\"a\\": 1}"}}</tool_call>'])
    assert heard.calls == (("x", {"a": 1}),)


def test_parser_without_tools_takes_nothing_for_a_call(tmp_path: Path) -> None:
    text = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
    parser = ResponseParser(render(GenerationRequest(messages=(ASK,)), entry(tmp_path, "qwen2.5"), RKLLM))
    assert feed(parser, [text]).answer == text
    chosen = GenerationRequest(messages=(ASK,), tools=(WEATHER,), tool_choice="none")
    prompt = render(chosen, entry(tmp_path, "qwen2.5"), RKLLM)
    assert "get_weather" not in (prompt.request.prompt or "")
    assert feed(ResponseParser(prompt), [text]).answer == text


# ── what the engine is given ─────────────────────────────────────────────────────────────────────


def test_the_engine_gets_a_prompt_and_the_models_stop_strings(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {"eos_token": {"content": "<|im_end|>"}, "added_tokens_decoder": {"7": {"content": "<|endoftext|>"}}}
        )
    )
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    request = GenerationRequest(messages=(HELLO,), stop=("###",), max_tokens=5)
    given_ = render(request, entry(tmp_path, "qwen2.5", chat=ChatSettings(stop=("<x>",))), RKLLM).request
    assert given_.messages == ()
    assert given_.prompt is not None
    assert given_.prompt.endswith(f"<|im_start|>user\n{HELLO.content}<|im_end|>\n<|im_start|>assistant\n")
    assert given_.stop == ("###", "<x>", "<|im_end|>", "<|endoftext|>")
    assert (given_.max_tokens, given_.id) == (5, request.id)


def test_engines_that_chat_get_the_request_as_it_is() -> None:
    request = GenerationRequest(messages=(SYSTEM, HELLO), tools=(WEATHER,), stop=("x",))
    prompt = render(request, DummyModel(), Capabilities(chat=True))
    assert prompt.request == request
    assert feed(ResponseParser(prompt), ["a<think>", "b x c"]).answer == "a<think>b "


def test_pieces_of_engines_that_chat_keep_their_kind() -> None:
    parser = ResponseParser(render(GenerationRequest(messages=(HELLO,)), DummyModel(), Capabilities(chat=True)))
    made = tool_call_piece(new_tool_call("x", {}))
    pieces = [piece for sent in (Piece("hm", 1, "thinking"), made, Piece("a")) for piece in parser.feed(sent)]
    assert [piece.kind for piece in pieces] == ["thinking", "tool_call", "answer"]
    assert parser.end(Finish("tool_calls")) == (Finish("tool_calls"),)


def test_text_that_waits_comes_out_before_an_engines_own_call() -> None:
    request = GenerationRequest(messages=(HELLO,), stop=("STOP",))
    parser = ResponseParser(render(request, DummyModel(), Capabilities(chat=True)))
    made = tool_call_piece(new_tool_call("S", {}))
    assert [piece.text for sent in (Piece("a ST"), made) for piece in parser.feed(sent)] == ["a ", "ST", made.text]


def test_text_that_ends_undecided_is_an_answer() -> None:
    for text in ("get_wea", "  ", ""):
        parser = ResponseParser(
            Prompt.of(GenerationRequest(prompt="", tools=(WEATHER,), stop=("\n",)), tools=TOOLS["glm"])
        )
        assert feed(parser, [text]).answer == text


def test_images_and_odd_arguments_reach_the_template(tmp_path: Path) -> None:
    odd = new_tool_call("get_weather", "not json")
    messages = (
        Message("user", "What is it?", images=(Image(b"png", "image/png"),)),
        Message("assistant", tool_calls=(odd,)),
        Message("tool", "4", tool_call_id=odd.id),
    )
    assert message_value(plain(messages[1]), text=False)["tool_calls"][0]["function"]["arguments"] == "not json"
    question = GenerationRequest(messages=messages[:1])
    sees = dataclasses.replace(RKLLM, images=True)
    prompt = render(question, entry(tmp_path, "qwen3.5"), sees).request.prompt
    with pytest.raises(NotSupported, match="does not see images"):
        render(question, entry(tmp_path, "qwen3.5"), RKLLM)
    assert "<image>What is it?" in str(prompt)


@pytest.mark.parametrize("family", ["qwen", "qwen3.5", "gemma4", "deepseek", "minicpm", "internlm"])
def test_text_between_images_keeps_its_place_in_every_familys_prompt(tmp_path: Path, family: str) -> None:
    first, second = (Image(data, "image/png") for data in (b"one", b"two"))
    content, images = content_of(["Compare", first, "with", second, "now", "please"], "\n")
    question = GenerationRequest(messages=(Message("user", content, images=images),))
    model = Entry(tmp_path, Card(family, weights=Weights("w.rkllm"), chat=ChatSettings(family=family)))
    prompt = render(question, model, dataclasses.replace(RKLLM, images=True)).request
    assert "Compare<image>with<image>now\nplease" in str(prompt.prompt)
    assert [image.data for image in prompt.images] == [b"one", b"two"]


def test_prompts_and_tokens_go_through_without_a_template(tmp_path: Path) -> None:
    for request in (GenerationRequest(prompt="Once"), GenerationRequest(tokens=(1, 2))):
        given_ = render(request, entry(tmp_path, "qwen3"), RKLLM).request
        assert (given_.prompt, given_.tokens) == (request.prompt, request.tokens)
        assert "<|im_end|>" in given_.stop


def test_requests_for_hidden_states_keep_their_text(tmp_path: Path) -> None:
    request = GenerationRequest(prompt="Embed me", output="hidden")
    assert render(request, entry(tmp_path, "qwen3"), RKLLM).request == request


def test_thinking_is_switched_by_the_template(tmp_path: Path) -> None:
    model = entry(tmp_path, "qwen3")

    def prompt(thinking: bool | None) -> str:
        return str(render(GenerationRequest(messages=(ASK,), thinking=thinking), model, RKLLM).request.prompt)

    assert prompt(thinking=False).endswith("assistant\n<think>\n\n</think>\n\n")
    assert prompt(thinking=True).endswith("assistant\n") and prompt(thinking=None).endswith("assistant\n")


def test_thoughts_that_the_template_opens_are_closed_where_none_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}<think>\n")
    model = Entry(tmp_path, Card("x", weights=Weights("w"), chat=ChatSettings(template="t.jinja", reasoning="think")))
    wanted = ResponseParser(render(GenerationRequest(messages=(ASK,)), model, RKLLM))
    assert feed(wanted, ["So.\n</thi", "nk>\n", "Yes."]) == Heard("So.", "Yes.", (), "stop")
    unwanted = render(GenerationRequest(messages=(ASK,), thinking=False), model, RKLLM)
    assert unwanted.request.prompt == f"{ASK.content}<think>\n\n</think>\n\n"
    assert feed(ResponseParser(unwanted), ["Yes."]) == Heard("", "Yes.", (), "stop")


def test_thinking_is_ignored_and_named_where_a_model_cannot(tmp_path: Path) -> None:
    request = GenerationRequest(model="qwen2.5", messages=(ASK,), thinking=True)
    prompt = render(request, entry(tmp_path, "qwen2.5"), RKLLM)
    assert prompt.ignored == (Ignored(("thinking",), "is for models that think aloud, and qwen2.5 does not"),)
    assert (
        prompt.request.prompt
        == render(dataclasses.replace(request, thinking=None), entry(tmp_path, "qwen2.5"), RKLLM).request.prompt
    )


def test_offered_tools_are_left_out_where_a_model_cannot_call_any(tmp_path: Path) -> None:
    model = Entry(tmp_path, Card("smollm", weights=Weights("w.rkllm")))
    request = GenerationRequest(model="smollm", messages=(ASK,), tools=(WEATHER,))
    prompt = render(request, model, RKLLM)
    assert prompt.ignored == (Ignored(("tools",), "smollm cannot call"),)
    assert prompt.request.prompt == render(dataclasses.replace(request, tools=()), model, RKLLM).request.prompt
    assert prompt.tools is None
    assert not render(dataclasses.replace(request, tool_choice="none"), model, RKLLM).ignored, (
        "tool_choice leaves them out already"
    )
    with pytest.raises(NotSupported, match="smollm cannot call tools, and tool_choice demands it"):
        render(dataclasses.replace(request, tool_choice="required"), model, RKLLM)


def test_engine_that_chats_without_tools_is_not_given_any(tmp_path: Path) -> None:
    engine = Capabilities(chat=True, tools=False)
    prompt = render(GenerationRequest(messages=(ASK,), tools=(WEATHER,)), entry(tmp_path, "qwen2.5"), engine)
    assert prompt.request.tools == ()
    assert [one.fields for one in prompt.ignored] == [("tools",)]


def test_the_cards_system_words_stand_in_for_missing_ones(tmp_path: Path) -> None:
    model = entry(tmp_path, "qwen2.5", chat=ChatSettings(system="You are a pirate."))
    said = str(render(GenerationRequest(messages=(HELLO,)), model, RKLLM).request.prompt)
    assert said.startswith("<|im_start|>system\nYou are a pirate.<|im_end|>")
    said = str(render(GenerationRequest(messages=(SYSTEM, HELLO)), model, RKLLM).request.prompt)
    assert "pirate" not in said


FORCED = {
    "hermes": ('<tool_call>\n{"name": "get_weather", "arguments": ', '{"city": "Rome"}}\n</tool_call>'),
    "qwen-xml": (
        "<tool_call>\n<function=get_weather>\n", "<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"),
    "llama": ('{"name": "get_weather", "parameters": ', '{"city": "Rome"}}'),
    "deepseek": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n",
        '{"city": "Rome"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    ),
    "phi": ('<|tool_call|>[{"name": "get_weather", "arguments": ', '{"city": "Rome"}}]<|/tool_call|>'),
    "minicpm": ("<|tool_call_start|>\n```python\nget_weather(", 'city="Rome")\n```\n<|tool_call_end|>'),
    "minicpm-xml": ('<function name="get_weather">', '<param name="city">Rome</param></function>'),
    "internlm": (
        '<|action_start|><|plugin|>\n{"name": "get_weather", "parameters": ',
        '{"city": "Rome"}}<|action_end|>',
    ),
    "glm": ("get_weather\n", "```python\ntool_call(city='Rome')\n```"),
    "gemma": ("<|tool_call>call:get_weather{", 'city:<|"|>Rome<|"|>}<tool_call|>'),
}  # fmt: skip


@pytest.mark.parametrize("way", TOOLS)
def test_a_forced_call_begins_in_the_prompt(way: str) -> None:
    begun, rest = FORCED[way]
    format_ = TOOLS[way]
    assert format_.call_start("get_weather") == begun
    request = GenerationRequest(prompt=begun, tools=(WEATHER, CLOCK))
    for pieces in cuts(rest):
        parser = ResponseParser(Prompt.of(request, tools=format_, call_start=begun))
        assert feed(parser, pieces) == Heard("", "", (ROME,), "tool_calls")
    if way == "glm":
        return  # its calls begin with the name itself, so there is nothing to begin for any tool
    open_ = format_.call_start("")
    assert begun.startswith(open_)
    parser = ResponseParser(Prompt.of(request, tools=format_, call_start=open_))
    assert feed(parser, [begun.removeprefix(open_), rest]) == Heard("", "", (ROME,), "tool_calls")


@pytest.mark.parametrize("way", TOOLS)
def test_calls_are_written_as_they_are_read(way: str) -> None:
    text = TOOLS[way].write([("get_weather", {"city": "Rome"})])
    parser = ResponseParser(Prompt.of(GenerationRequest(prompt="", tools=(WEATHER, CLOCK)), tools=TOOLS[way]))
    assert feed(parser, [text]) == Heard("", "", (ROME,), "tool_calls")


def test_gemmas_arguments_are_written_with_all_their_types() -> None:
    arguments = {"text": "a", "count": 2, "flags": [True, None], "inner": {"x": 1.5}}
    text = TOOLS["gemma"].write([("get_weather", arguments)]).removeprefix("<|tool_call>").removesuffix("<tool_call|>")
    assert json.loads(TOOLS["gemma"].read(text, ())[0].arguments) == arguments


@pytest.mark.parametrize(
    "rest", ['{"city": "Rome"}', '{"city": "Rome"}\n\nI called it.', '{"city": "Rome"}} and more', '{"city": "Rome"}}']
)
def test_forced_call_counts_as_soon_as_its_arguments_are_whole(rest: str) -> None:
    begun = FORCED["hermes"][0]
    request = GenerationRequest(prompt=begun, tools=(WEATHER,))
    for pieces in cuts(rest):
        prompt = Prompt.of(request, tools=TOOLS["hermes"], call_start=begun, forced="get_weather")
        assert feed(ResponseParser(prompt), pieces) == Heard("", "", (ROME,), "tool_calls")


@pytest.mark.parametrize("way", TOOLS)
@pytest.mark.parametrize("rest", ["", "I would rather talk.", '{"city": "Ro'])
def test_forced_call_that_is_none_is_an_error_and_no_text(way: str, rest: str) -> None:
    begun = FORCED[way][0]
    if way in ("qwen-xml", "minicpm-xml") or (way, rest) in (("minicpm", ""), ("gemma", "")):
        return  # without parameters it is a whole call
    parser = ResponseParser(
        Prompt.of(
            GenerationRequest(prompt=begun, tools=(WEATHER,)), tools=TOOLS[way], call_start=begun, forced="get_weather"
        )
    )
    with pytest.raises(AnswerInvalid, match="The model had to call get_weather, and its answer is no complete call"):
        feed(parser, [rest])


def test_family_without_tokenizer_files_is_told_of_tools_in_its_own_form(tmp_path: Path) -> None:
    for name, form in (
        ("minicpm4", "<|tool_call_start|>\n```python\nNAME(KEY='VALUE')"),
        ("qwen3.5", "<function=NAME>"),
    ):
        model = Entry(tmp_path, Card(name, weights=Weights("w.rkllm")))
        call = Message("assistant", tool_calls=(ToolCall("call_1", "get_time", "{}"), ToolCall("call_2", "x", "[")))
        request = GenerationRequest(messages=(ASK, call, Message("tool", "noon")), tools=(CLOCK,))
        prompt = render(request, model, RKLLM)
        assert form in str(prompt.request.prompt)
        assert '<tools>\n{"type": "function", "function": {"name": "get_time"' in str(prompt.request.prompt)
        assert "<tool_response>\nnoon\n</tool_response>" in str(prompt.request.prompt)
        assert prompt.tools is not None
        assert prompt.tools.write([("get_time", {}), ("x", {"arguments": "["})]) in str(prompt.request.prompt)


def test_forcing_a_tool_ends_thoughts_and_names_it(tmp_path: Path) -> None:
    model = entry(tmp_path, "qwen3.5")
    request = GenerationRequest(messages=(ASK,), tools=(WEATHER, CLOCK), tool_choice="get_time")
    prompt = render(request, model, RKLLM)
    assert str(prompt.request.prompt).endswith("<think>\n\n</think>\n\n<tool_call>\n<function=get_time>\n")
    assert feed(ResponseParser(prompt), ["</function>\n</tool_call>"]).calls == (TIME,)
    required = GenerationRequest(messages=(ASK,), tools=(WEATHER, CLOCK), tool_choice="required")
    assert str(render(required, model, RKLLM).request.prompt).endswith("<tool_call>\n<function=")
    only = GenerationRequest(messages=(ASK,), tools=(CLOCK,), tool_choice="required")
    assert str(render(only, model, RKLLM).request.prompt).endswith("<function=get_time>\n")


def test_a_tool_choice_that_cannot_be_is_refused(tmp_path: Path) -> None:
    model = entry(tmp_path, "qwen3")
    with pytest.raises(UsageError, match="names 'fly', which is not among the tools"):
        render(GenerationRequest(messages=(ASK,), tools=(WEATHER,), tool_choice="fly"), model, RKLLM)
    with pytest.raises(UsageError, match="no tools are given"):
        render(GenerationRequest(messages=(ASK,), tool_choice="required"), model, RKLLM)


def test_models_whose_template_knows_no_tools_are_told_of_them(tmp_path: Path) -> None:
    """Phi 3.5 has no tool markup at all; the results come back as words it can read."""
    made = new_tool_call("get_weather", {"city": "Rome"})
    messages = (
        SYSTEM,
        ASK,
        Message("assistant", "Wait.", tool_calls=(made,)),
        Message("tool", "4", tool_call_id=made.id),
        FINE,
        ASK,
    )
    prompt = str(
        render(GenerationRequest(messages=messages, tools=(WEATHER,)), entry(tmp_path, "phi-3.5"), RKLLM).request.prompt
    )
    assert '{"type": "function", "function": {"name": "get_weather"' in prompt
    assert (
        '<|assistant|>\nWait.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call><|end|>'
        in prompt
    )
    assert "<|user|>\n<tool_response>\n4\n</tool_response><|end|>" in prompt
    without = str(
        render(GenerationRequest(messages=(ASK,), tools=(WEATHER,)), entry(tmp_path, "phi-3.5"), RKLLM).request.prompt
    )
    assert without.startswith("<|system|>\n# Tools\n\nYou can call tools.")


def test_families_that_know_tools_get_their_own_markup_where_the_template_lacks_it(tmp_path: Path) -> None:
    prompt = str(
        render(
            GenerationRequest(messages=(ASK,), tools=(CLOCK,)),
            entry(tmp_path, "internlm2-chat", "internlm/internlm2-chat-1_8b"),
            RKLLM,
        ).request.prompt
    )
    assert prompt.startswith('<s><|im_start|>system name=<|plugin|>\n[{"name": "get_time"')


def test_the_card_may_overrule_what_the_template_tells(tmp_path: Path) -> None:
    chat = ChatSettings(tools="internlm", reasoning="none")
    model = entry(tmp_path, "qwen3", chat=chat)
    request = GenerationRequest(messages=(ASK,), tools=(CLOCK,))
    text = '<think>no</think><|action_start|><|plugin|>{"name": "get_time"}<|action_end|>'
    assert feed(ResponseParser(render(request, model, RKLLM)), [text]) == Heard(
        "", "<think>no</think>", (TIME,), "tool_calls"
    )


def test_bare_file_gets_the_template_of_the_family_in_its_name() -> None:
    request = GenerationRequest(messages=(HELLO,))
    for file, begin in {
        "Llama-3.2-1B-rk3588.rkllm": "<|begin_of_text|><|start_header_id|>user",
        "gemma-3-1b-it_W8A8_RK3588.rkllm": "<bos><start_of_turn>user",
        "unheard-of.rkllm": "<|im_start|>user",
        "DeepSeek-R1-Distill-Qwen-1.5B.rkllm": "<｜begin▁of▁sentence｜><｜User｜>",
    }.items():
        assert str(render(request, Bare(file), RKLLM).request.prompt).startswith(begin)


def test_conversation_without_a_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError):
        render(GenerationRequest(messages=(SYSTEM,)), entry(tmp_path, "qwen3.5"), RKLLM)


def test_tool_call_crosses_the_seam_in_one_piece() -> None:
    made = new_tool_call("get_weather", {"city": 'Tromsø "N"'})
    assert read_tool_call(tool_call_piece(made, 7)) == made
    assert tool_call_piece(made, 7).token == 7
    assert re.fullmatch(r"call_[0-9a-f]{24}", made.id)


def test_values_are_typed_by_the_tools_schema() -> None:
    tool = Tool(
        "t",
        parameters={
            "properties": {
                "s": {"type": "string"}, "n": {"type": "number"}, "b": {"type": "boolean"}, "o": {"type": "object"},
                "e": {"type": ["integer", "null"]},
            }
        },
    )  # fmt: skip
    text = "<tool_call><function=t>" + "".join(
        f"<parameter={key}>\n{value}\n</parameter>"
        for key, value in {
            "s": "12",
            "n": "12",
            "b": "True",
            "o": '{"a": [1]}',
            "e": "null",
            "u": "x y",
            "v": "7",
        }.items()
    )
    parser = ResponseParser(Prompt.of(GenerationRequest(prompt="", tools=(tool,)), tools=TOOLS["qwen-xml"]))
    assert feed(parser, [text + "</function></tool_call>"]).calls == (
        ("t", {"s": "12", "n": 12, "b": True, "o": {"a": [1]}, "e": None, "u": "x y", "v": 7}),
    )
