"""The command line: a table of verbs. A verb's module is imported only when the verb is used."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from exo_rkllm import __version__
from exo_rkllm.errors import ExoRkllmError, UsageError


class Verb(NamedTuple):
    """`module` has `arguments(parser)`, which declares the flags, and `main(args)`, which returns the exit code.

    A verb that `passes_on` gives all its arguments to another program unchanged; one that `runs` a command gets what
    follows `--` as `args.command`. `aliases` are other names, mostly Ollama's.
    """

    name: str
    module: str
    summary: str
    passes_on: bool = False
    runs: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


VERBS: tuple[Verb, ...] = (
    Verb("serve", "exo_rkllm.cli.serve", "run the daemon in the foreground", aliases=("start",)),
    Verb("ps", "exo_rkllm.cli.ps", "show loaded models, running answers and the queue"),
    Verb("load", "exo_rkllm.cli.load", "load a model into memory"),
    Verb("unload", "exo_rkllm.cli.unload", "unload a model and free its memory", aliases=("stop",)),
    Verb("cluster", "exo_rkllm.cli.cluster", "show the exo cluster and this board's part in it; join or leave it"),
    Verb("logs", "exo_rkllm.cli.logs", "show the daemon's recent log lines"),
    Verb("config", "exo_rkllm.cli.config", "check, show or reload the configuration"),
    Verb("run", "exo_rkllm.cli.run", "ask a model one question, or chat with it"),
    Verb("models", "exo_rkllm.cli.models", "list the installed models", aliases=("list", "ls")),
    Verb("show", "exo_rkllm.cli.show", "show what is known about a model"),
    Verb("search", "exo_rkllm.cli.search", "find models for this board on Hugging Face or a mirror"),
    Verb("pull", "exo_rkllm.cli.pull", "download a model from Hugging Face or a mirror"),
    Verb("import", "exo_rkllm.cli.importing", "add model files from this machine to the catalogue"),
    Verb("cp", "exo_rkllm.cli.cp", "give a model another name"),
    Verb("create", "exo_rkllm.cli.create", "make a model of another one, as a Modelfile says"),
    Verb("rm", "exo_rkllm.cli.rm", "remove models"),
    Verb("inspect", "exo_rkllm.cli.inspect", "describe a .rkllm file without loading it"),
    Verb("engines", "exo_rkllm.cli.engines", "list the engines, and explain which one a model gets"),
    Verb("plugins", "exo_rkllm.cli.plugins", "list the plugins, and explain why one is not used"),
    Verb("runtime", "exo_rkllm.cli.runtime", "list, add, choose and remove versions of the vendor library"),
    Verb("npu", "exo_rkllm.cli.npu", "run another program's command while it has the NPU for itself", runs=True),
    Verb("board", "exo_rkllm.cli.board", "describe this machine and its NPU"),
    Verb("doctor", "exo_rkllm.cli.doctor", "check everything a model needs, and name each repair"),
    Verb("top", "exo_rkllm.cli.top", "watch the NPU, the models and the requests live"),
    Verb("exo-classic", "exo_rkllm.cli.exo_classic", "start classic exo with the NPU engine", passes_on=True),
    Verb("bench", "exo_rkllm.cli.bench", "measure a model's speed, and name what slows it down"),
    Verb("selftest", "exo_rkllm.cli.selftest", "measure what only a real board can show, and write a report"),
    Verb("help", "exo_rkllm.cli.help", "show the verbs, or the options of one"),
    Verb("version", "exo_rkllm.cli.version", "show the version of this command and of the daemon"),
)
NAMES = {name: verb for verb in VERBS for name in verb.names}
# Shown for a command line without a verb.
START = "exo_rkllm.cli.next_steps"


def parser() -> argparse.ArgumentParser:
    """The top level only: importing no verb keeps `--help` fast."""
    names = {verb.name: ", ".join(verb.names) for verb in VERBS}
    width = max(map(len, names.values()))
    listing = "\n".join(f"  {names[verb.name]:<{width}}  {verb.summary}" for verb in VERBS)
    top = argparse.ArgumentParser(
        prog="exo-rkllm",
        usage="exo-rkllm [--version] VERB ...",
        description="Local language models on Rockchip NPUs.",
        epilog=f"verbs:\n{listing}\n\nRun exo-rkllm VERB --help for the options of one verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("-v", "--version", action="version", version=f"exo-rkllm {__version__}")
    top.add_argument("verb", metavar="VERB", nargs="?", help=argparse.SUPPRESS)
    top.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return top


def verb_of(name: str) -> Verb:
    """Raises a UsageError that names the verb which was probably meant."""
    if verb := NAMES.get(name):
        return verb
    import difflib

    close = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"Did you mean exo-rkllm {close[0]}?" if close else "exo-rkllm help lists the verbs."
    raise UsageError(f"There is no verb {name[:40]!a}.", hint)


def verb_parser(verb: Verb) -> argparse.ArgumentParser:
    """The parser of one verb; the manual and the completions are generated from it, too."""
    parser = argparse.ArgumentParser(
        prog=f"exo-rkllm {verb.name}",
        description=verb.summary[0].upper() + verb.summary[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    importlib.import_module(verb.module).arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted, 141 the reader of the output left."""
    try:
        return _main(argv)
    except ExoRkllmError as error:
        print(f"exo-rkllm: {error.sentence}", file=sys.stderr)
        if error.hint:
            print(f"  try: {error.hint}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # otherwise the interpreter complains about the broken pipe when it exits
        return 141


def _main(argv: Sequence[str] | None) -> int:
    command = parser().parse_args(argv)
    if command.verb is None:
        return int(importlib.import_module(START).main())
    verb = verb_of(command.verb)
    if verb.passes_on and command.rest[:1] not in (["-h"], ["--help"]):
        args = verb_parser(verb).parse_args(["--", *command.rest])
    elif verb.runs:
        own = command.rest.index("--") if "--" in command.rest else len(command.rest)
        args = verb_parser(verb).parse_intermixed_args(command.rest[:own])
        args.command = command.rest[own + 1 :]
    else:
        # Flags may stand between positional arguments: `run MODEL --max-tokens 9 PROMPT`.
        args = verb_parser(verb).parse_intermixed_args(command.rest)
    return int(importlib.import_module(verb.module).main(args))
