"""How one model is spoken to: its template, where it stops, how it writes calls and thoughts. Read from its folder."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo_rkllm.backends.base import Model
from exo_rkllm.chat.families import FAMILIES, Family, family_of
from exo_rkllm.chat.formats import REASONING, TOOLS, Reasoning, ToolFormat
from exo_rkllm.chat.template_source import TemplateSource
from exo_rkllm.errors import CardError
from exo_rkllm.schema.specs import nearest

# Gemma 3 has the largest of these files: 1.2 MB, with 6400 tokens of its own.
LARGEST_JSON = 4 * 1024 * 1024
MOST_PARTS = 300_000
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What a template's text says of the model's habits, most telling first.
TOOL_MARKS = (
    ("<function=", "qwen-xml"),
    ('<function name="', "minicpm-xml"),
    ("<|tool_call>", "gemma"),
    ("<tool_call>", "hermes"),
    ("<｜tool▁calls▁begin｜>", "deepseek"),
    ("<|tool_call|>", "phi"),
    ("<|tool_call_start|>", "minicpm"),
    ("<|plugin|>", "internlm"),
    ("<|python_tag|>", "llama"),
    ('"parameters": dictionary', "llama"),
)
# Where a template's code and comments begin. Inside code: strings, its end, and `tools` where the name is read. No
# alternative can fail behind its first character, so the time is linear.
CODE = re.compile(r"\{[{%#]")
STRING = r"""'(?:[^'\\]|\\.?)*'?|"(?:[^"\\]|\\.?)*"?"""
TOKEN = re.compile(STRING + r"|(?P<end>%\}|\}\})|(?<![\w.])(?P<tools>tools)\b(?!\s*=(?!=))", re.DOTALL)
REASONING_MARKS = (("<|channel>", "channel"), ("<|thought_start|>", "thought"), ("</think>", "think"))


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """A card's table [chat]. An empty word means: as the template and the family tell; `none` means off."""

    template: str = ""  # a file in the model's folder
    tools: str = ""  # a row of formats.TOOLS
    reasoning: str = ""  # a row of formats.REASONING
    family: str = ""  # a row of families.FAMILIES, or a plugin's
    stop: tuple[str, ...] = ()
    system: str = ""  # said first where a conversation brings no system message


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Everything that rendering a prompt and reading an answer need to know of a model."""

    template: TemplateSource
    tool_template: TemplateSource | None  # the one that tells the model of tools; None where a system message has to
    tools: ToolFormat | None
    reasoning: Reasoning | None
    stop: tuple[str, ...]
    system: str = ""
    special: bool = False  # whether some of its tags are special tokens, which a runtime may leave out of the text


class ChatModel(Model):
    """A model that knows its own chat format; any other is talked to as its name's family is."""

    @abstractmethod
    def chat_format(self) -> ChatFormat:
        """Raises CardError where the model's files and settings contradict each other."""


def _read_json(path: Path) -> Any:
    """None for a file that is missing, too large or no JSON: every one of these files is optional."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            return None
        raw = path.read_bytes()
        if sum(map(raw.count, (b"{", b"[", b":", b","))) > MOST_PARTS:
            return None  # nothing interrupts `json.loads`, and the daemon would wait for it
        return json.loads(raw)
    except (OSError, ValueError, RecursionError):
        return None


def _mapping(path: Path) -> Mapping[str, Any]:
    read = _read_json(path)
    return read if isinstance(read, dict) else {}


def _token(value: object) -> str:
    """A special token as the files write it: text, or an object with its text in `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _special(config: Mapping[str, Any]) -> dict[str, str]:
    return {name: token for name in SPECIAL if (token := _token(config.get(name)))}


def _eos_texts(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Texts of the ids that end an answer, as generation_config.json names them."""
    ids = _mapping(folder / "generation_config.json").get("eos_token_id")
    decoder = config.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        return []
    ids = ids if isinstance(ids, list) else [ids]
    return [text for one in ids if (text := _token(decoder.get(str(one))))]


def _are_special(tags: Iterable[str], config: Mapping[str, Any]) -> bool:
    """As the tokenizer's table says; without one, by what special tokens look like."""
    decoder = config.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        return any(tag.startswith(("<|", "<｜")) for tag in tags)
    special = [
        text for one in decoder.values() if isinstance(one, dict) and one.get("special") and (text := _token(one))
    ]
    return any(text in tag for text in special for tag in tags)


def _tags(tools: ToolFormat | None, reasoning: Reasoning | None) -> tuple[str, ...]:
    return (
        *((*tools.open, *tools.close) if tools else ()),
        *((reasoning.open, reasoning.close) if reasoning else ()),
    )


def _template_source(folder: Path, model: str, settings: ChatSettings, config: Mapping[str, Any]) -> str:
    """Where Hugging Face looks too: the file, then the configuration; of several templates the default one."""
    name = settings.template or "chat_template.jinja"
    path = folder / name
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    if settings.template:
        raise CardError(f"The card of {model} names the template {name}, which is not there.", f"ls {folder}")
    for source in (config, _mapping(folder / "chat_template.json")):
        value = source.get("chat_template")
        if isinstance(value, list):
            several = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
            value = several.get("default") or next(iter(several.values()), None)
        if isinstance(value, str):
            return value
    return ""


def _row_by_mark(text: str, marks: tuple[tuple[str, str], ...]) -> str:
    return next((row for mark, row in marks if mark in text), "")


def _row(kind: str, name: str | ToolFormat | Reasoning, rows: Mapping[str, Any], model: str) -> Any:
    if name in ("", "none"):
        return None
    if not isinstance(name, str):
        return name
    if name not in rows:
        raise CardError(f"The card of {model} says {kind} = {name!r}.", nearest(name, rows))
    return rows[name]


def _names_tools(template: str) -> bool:
    """Whether the template's code reads the name `tools`. It is not compiled: a stranger's program runs elsewhere."""
    at = 0
    while (opening := CODE.search(template, at)) is not None:
        at = opening.end()
        if opening[0] == "{#":
            at = template.find("#}", at) + 2
            if at == 1:
                return False
            continue
        while (token := TOKEN.search(template, at)) is not None and token.lastgroup != "end":
            if token.lastgroup == "tools":
                return True
            at = token.end()
        if token is None:
            return False
        at = token.end()
    return False


def model_type(folder: Path) -> object:
    """What config.json says the model is."""
    return _mapping(folder / "config.json").get("model_type")


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says, with each special token as its text. Empty without such a file."""
    config = _mapping(folder / "tokenizer_config.json")
    return {**config, **{name: _token(value) for name, value in config.items() if name.endswith("_token") and value}}


def read_chat_format(
    folder: Path, model: str, settings: ChatSettings, family: Family, template: str = ""
) -> ChatFormat:
    """The format of the model in `folder`: its own files, then `template`, then its family's row, under its settings.

    Raises CardError where the settings of `model` name something that is not there.
    """
    config = _mapping(folder / "tokenizer_config.json")
    source = _template_source(folder, model, settings, config) or template
    special = _special(config) or ({"bos_token": family.bos} if family.bos else {})
    chat_template = TemplateSource(source or family.template, tuple(special.items()))
    with_tools = chat_template if _names_tools(chat_template.text) else None
    if with_tools is None and source and re.search(r"\btools\b", family.template):
        with_tools = TemplateSource(family.template, tuple({"bos_token": family.bos, **special}.items()))
    by_template = _row_by_mark(source, TOOL_MARKS) if with_tools is chat_template else ""
    tools = _row("tools", settings.tools or by_template or family.tools, TOOLS, model)
    reasoning = _reasoning(source, model, settings, family)
    stop = [*settings.stop, special.get("eos_token", ""), *_eos_texts(folder, config), *family.stop]
    return ChatFormat(
        chat_template,
        with_tools if tools else None,
        tools,
        reasoning,
        tuple(dict.fromkeys(text for text in stop if text)),
        settings.system,
        _are_special(_tags(tools, reasoning), config),
    )


def reasoning_of(
    folder: Path, model: str, settings: ChatSettings, family: Family, template: str = ""
) -> Reasoning | None:
    """How the model marks its thoughts, as in `read_chat_format`, but without compiling its template."""
    config = _mapping(folder / "tokenizer_config.json")
    return _reasoning(_template_source(folder, model, settings, config) or template, model, settings, family)


def _reasoning(source: str, model: str, settings: ChatSettings, family: Family) -> Reasoning | None:
    by_template = _row_by_mark(source, REASONING_MARKS) if source else ""
    reasoning: Reasoning | None = _row(
        "reasoning", settings.reasoning or by_template or family.reasoning, REASONING, model
    )
    return reasoning


def chat_format_of(model: Model, families: Mapping[str, Family] = FAMILIES) -> ChatFormat:
    """A model's own format, or that of the family which its file's name or its id means."""
    if isinstance(model, ChatModel):
        return model.chat_format()
    family = families[family_of(model.path.name if model.path else "", model.id, families=families)]
    template = TemplateSource(family.template, (("bos_token", family.bos),))
    return ChatFormat(
        template,
        template if family.tools and _names_tools(template.text) else None,
        _row("tools", family.tools, TOOLS, model.id),
        _row("reasoning", family.reasoning, REASONING, model.id),
        family.stop,
    )
