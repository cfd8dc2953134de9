"""The command line as data, read from the parsers behind `--help`, for the manual and the completions."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from exo_rkllm.cli import VERBS, Verb, verb_parser

Value: TypeAlias = Literal["", "text", "file", "folder", "model", "version"]
# Verbs whose first argument, or one of these flags, is an installed model.
MODEL_FLAGS = frozenset({"--model", "--runtimes"})
MODEL_VERBS = ("load", "unload", "run", "show", "cp", "rm", "bench", "selftest")


@dataclass(frozen=True, slots=True)
class Argument:
    """A flag with all its spellings, or a positional argument, which has none."""

    flags: tuple[str, ...]
    metavar: str  # the value's name, empty for a switch
    value: Value
    choices: tuple[str, ...]
    help: str
    many: bool
    optional: bool


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    aliases: tuple[str, ...]
    summary: str
    usage: str
    arguments: tuple[Argument, ...]
    epilog: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def flags(self) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if argument.flags)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if not argument.flags)


def commands() -> tuple[Command, ...]:
    return tuple(_command(verb) for verb in VERBS)


def _command(verb: Verb) -> Command:
    parser = verb_parser(verb)
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    return Command(verb.name, verb.aliases, verb.summary, usage, tuple(_arguments(verb, parser)), parser.epilog or "")


def _arguments(verb: Verb, parser: argparse.ArgumentParser) -> Iterator[Argument]:
    first = next((action for action in parser._actions if not action.option_strings), None)
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        takes = action.nargs != 0
        choices = tuple(map(str, action.choices or ()))
        explicit = action.metavar if isinstance(action.metavar, str) else None
        metavar = explicit or ("|".join(choices) if choices else action.dest.upper()) if takes else ""
        yield Argument(
            tuple(action.option_strings),
            metavar,
            _value(verb, action, metavar, first=action is first) if takes else "",
            choices,
            (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%"),
            many=action.nargs in ("*", "+"),
            optional=action.nargs in ("?", "*"),
        )


def _value(verb: Verb, action: argparse.Action, metavar: str, *, first: bool) -> Value:
    if metavar in ("DIR", "DIRECTORY", "FOLDER"):
        return "folder"
    if action.type is Path or metavar.startswith(("FILE", "PATH")):
        return "file"
    if metavar == "VERSION":
        return "version"
    names_model = first or not MODEL_FLAGS.isdisjoint(action.option_strings)
    return "model" if names_model and verb.name in MODEL_VERBS and action.choices is None else "text"
