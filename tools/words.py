"""The command line as data, read from the very parsers that `--help` prints: for the manual and the completions."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from exo_rkllm.cli import VERBS, Verb, verb_parser

Value: TypeAlias = Literal["", "text", "file", "folder", "model"]
# What verbs call a model that is here.
MODELS = ("load", "unload", "run", "show", "rm", "selftest")


@dataclass(frozen=True, slots=True)
class Word:
    """A flag with its spellings, or with none of them what stands on its own."""

    flags: tuple[str, ...]
    shown: str  # the value's name, empty for a switch
    value: Value
    choices: tuple[str, ...]
    says: str
    many: bool
    optional: bool


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    summary: str
    usage: str
    words: tuple[Word, ...]
    epilog: str

    @property
    def flags(self) -> tuple[Word, ...]:
        return tuple(word for word in self.words if word.flags)

    @property
    def positionals(self) -> tuple[Word, ...]:
        return tuple(word for word in self.words if not word.flags)


def commands() -> tuple[Command, ...]:
    return tuple(_command(verb) for verb in VERBS)


def _command(verb: Verb) -> Command:
    parser = verb_parser(verb)
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    return Command(verb.name, verb.summary, usage, tuple(_words(verb, parser)), parser.epilog or "")


def _words(verb: Verb, parser: argparse.ArgumentParser) -> Iterator[Word]:
    first = next((action for action in parser._actions if not action.option_strings), None)
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        takes = action.nargs != 0
        choices = tuple(map(str, action.choices or ()))
        metavar = action.metavar if isinstance(action.metavar, str) else None
        shown = metavar or ("|".join(choices) if choices else action.dest.upper()) if takes else ""
        yield Word(
            tuple(action.option_strings),
            shown,
            _value(verb, action, shown, first=action is first) if takes else "",
            choices,
            (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%"),
            many=action.nargs in ("*", "+"),
            optional=action.nargs in ("?", "*"),
        )


def _value(verb: Verb, action: argparse.Action, shown: str, *, first: bool) -> Value:
    if shown in ("DIR", "DIRECTORY", "FOLDER"):
        return "folder"
    if action.type is Path or shown.startswith(("FILE", "PATH")):
        return "file"
    own = first or "--model" in action.option_strings
    return "model" if own and verb.name in MODELS and action.choices is None else "text"
