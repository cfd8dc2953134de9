"""The commands that begin with a slash in `exo-rkllm run`, by the names that Ollama gave them: one table."""

from __future__ import annotations

import difflib
import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from exo_rkllm.assembly import is_file
from exo_rkllm.cli import inspect, show
from exo_rkllm.cli.conversation import Conversation, image_of, saved
from exo_rkllm.cli.line_input import LineInput, unquoted
from exo_rkllm.cli.output import table
from exo_rkllm.errors import UsageError
from exo_rkllm.sampling import SPECS
from exo_rkllm.schema.quantities import from_text
from exo_rkllm.schema.specs import FieldError, Whole

HELP = "/help lists the commands."


class ChatSession(Protocol):
    """What a command may change."""

    conversation: Conversation

    @property
    def lines(self) -> LineInput: ...

    def load(self, model: str) -> None:
        """The next question goes to this model; raises where it cannot be loaded."""


class Leave(Exception):
    """The conversation is over."""


class Command(NamedTuple):
    usage: str
    about: str
    run: Callable[[ChatSession, str], str]

    @property
    def name(self) -> str:
        return self.usage.partition(" ")[0]


def perform(chat: ChatSession, line: str) -> str:
    """Run one command, and return what there is to say. Raises Leave at the end, and what is wrong as an error."""
    name, _, argument = line.partition(" ")
    command = NAMES.get(name)
    if command is None:
        close = difflib.get_close_matches(name, NAMES, n=1)
        raise UsageError(f"There is no command {name[:40]!a}.", f"Did you mean {close[0]}?" if close else HELP)
    return command.run(chat, argument.strip())


def is_command(line: str) -> bool:
    """A path at the beginning of a question is none."""
    return line.startswith("/") and "/" not in line[1:].partition(" ")[0]


# ── /set ─────────────────────────────────────────────────────────────────────────────────────────


def _set(chat: ChatSession, argument: str) -> str:
    what, _, value = argument.partition(" ")
    if what not in SET:
        raise UsageError(f"/set takes {', '.join(SET)}.", "/set parameter temperature 0.5")
    return SET[what](chat, value.strip())


def _set_system(chat: ChatSession, value: str) -> str:
    chat.conversation.system = unquoted(value)
    return "The system message is set." if value else "There is no system message any more."


def _set_parameter(chat: ChatSession, value: str) -> str:
    name, _, text = value.partition(" ")
    name = "max_tokens" if name == "num_predict" else name
    kind = Whole() if name == "max_tokens" else SPECS[name].kind if name in SPECS else None
    if kind is None:
        known = ", ".join(("num_predict", *SPECS))
        raise UsageError(f"There is no parameter {name[:40]!a}.", f"/set parameter NAME VALUE takes {known}")
    try:
        number = kind.check(from_text(kind, text.strip()), name)
    except FieldError as error:
        raise UsageError(error.sentence, f"/set parameter {name} VALUE") from None
    if name == "max_tokens":
        chat.conversation.max_tokens = number if number > 0 else None
    else:
        chat.conversation.sampling = replace(chat.conversation.sampling, **{name: number})
    return f"{name} is {number:g}."


def _set_format(chat: ChatSession, value: str) -> str:
    if value != "json":
        raise UsageError("/set format takes json.", "/set noformat")
    return _switch("Answers are JSON objects.", json=True)(chat, value)


def _switch(sentence: str, **fields: bool) -> Callable[[ChatSession, str], str]:
    def switch(chat: ChatSession, _: str) -> str:
        vars(chat.conversation).update(fields)
        return sentence

    return switch


def _remember(*, remembers: bool) -> Callable[[ChatSession, str], str]:
    def switch(chat: ChatSession, _: str) -> str:
        chat.lines.remembers = remembers
        return "What you type is kept." if remembers else "What you type is not kept."

    return switch


SET: Mapping[str, Callable[[ChatSession, str], str]] = {
    "system": _set_system,
    "parameter": _set_parameter,
    "think": _switch("The model thinks before it answers.", thinking=True),
    "nothink": _switch("The model answers without thinking.", thinking=False),
    "verbose": _switch("Figures follow each answer.", verbose=True),
    "quiet": _switch("No figures follow the answers.", verbose=False),
    "format": _set_format,
    "noformat": _switch("Answers are text.", json=False),
    "history": _remember(remembers=True),
    "nohistory": _remember(remembers=False),
}

# ── the others ───────────────────────────────────────────────────────────────────────────────────


def _show(chat: ChatSession, argument: str) -> str:
    conversation = chat.conversation
    if argument == "system":
        return conversation.system or "There is no system message but the model's own."
    if argument == "parameters":
        values = {"num_predict": conversation.max_tokens, **conversation.sampling.explicit()}
        return "\n".join(f"{name} {value}" for name, value in values.items() if value is not None) or "None is set."
    if argument not in ("info", "template"):
        raise UsageError("/show takes info, system, parameters or template.", "/show info")
    if is_file(conversation.model):
        inspect.main(Namespace(file=Path(conversation.model), json=False))
    else:
        form = {"json": False, "card": False, "template": argument == "template"}
        show.main(Namespace(model=conversation.model, models=None, **form))
    return ""


def _load(chat: ChatSession, argument: str) -> str:
    values = saved(argument)
    if values is None:
        if not argument:
            raise UsageError("/load takes a model, or the name of a saved conversation.", "/load MODEL")
        chat.load(argument)
        return f"Chatting with {argument}."
    restored = replace(chat.conversation)
    restored.restore(values)
    chat.load(restored.model)
    chat.conversation = restored
    return f"Chatting with {restored.model}, {len(restored.messages) // 2} answers so far."


def _save(chat: ChatSession, argument: str) -> str:
    if not argument:
        raise UsageError("/save takes a name.", "/save NAME")
    chat.conversation.save(argument)
    return f"The conversation is saved: /load {argument}"


def _clear(chat: ChatSession, _: str) -> str:
    chat.conversation.messages, chat.conversation.images = (), ()
    return "The next question starts a new conversation."


def _image(chat: ChatSession, argument: str) -> str:
    if not argument:
        raise UsageError("/image takes a file.", "/image photo.jpg")
    try:
        [name] = [argument] if Path(argument).expanduser().exists() else shlex.split(argument)
    except ValueError:
        name = argument
    chat.conversation.images += (image_of(Path(name)),)
    return f"{name} goes with the next question."


def _bye(_chat: ChatSession, _: str) -> str:
    raise Leave


def _help(_chat: ChatSession, _: str) -> str:
    rows = [*((command.usage, command.about) for command in COMMANDS), *KEYS]
    return "\n".join(table(rows))


COMMANDS = (
    Command("/help", "show this list", _help),
    Command("/set system TEXT", 'set the system message; """ begins and ends a longer one', _set),
    Command("/set parameter NAME VALUE", "such as temperature 0.5, or num_predict 200", _set),
    Command("/set think|nothink", "let the model think before it answers, or not", _set),
    Command("/set verbose|quiet", "show figures after each answer, or not", _set),
    Command("/set format json|noformat", "ask for a JSON object, or for text", _set),
    Command("/set history|nohistory", "keep what you type for the next time, or not", _set),
    Command("/show info|system|parameters|template", "show what is known of the model, or what is set", _show),
    Command("/load NAME", "go on with another model, or with a saved conversation", _load),
    Command("/save NAME", "save the conversation with its settings", _save),
    Command("/clear", "forget the conversation", _clear),
    Command("/image FILE", "show the model an image with the next question", _image),
    Command("/bye", "leave", _bye),
)
KEYS = (
    ('"""', "begins and ends a question of several lines"),
    ("Up, Down, Ctrl-R", "find what you typed before"),
    ("Ctrl-C", "end the answer, and keep the conversation"),
    ("Ctrl-D", "leave"),
)
NAMES: Mapping[str, Command] = {
    **{command.name: command for command in COMMANDS},
    "/?": COMMANDS[0],
    "/exit": COMMANDS[-1],
    "/quit": COMMANDS[-1],
}
COMPLETIONS = tuple(
    dict.fromkeys(
        [*(f"/set {word}" for word in SET), *(f"/show {word}" for word in ("info", "system", "parameters", "template"))]
        + [command.name for command in COMMANDS]
    )
)
