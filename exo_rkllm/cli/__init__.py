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
    follows `--` as `args.command`.
    """

    name: str
    module: str
    summary: str
    passes_on: bool = False
    runs: bool = False


VERBS: tuple[Verb, ...] = (
    Verb("serve", "exo_rkllm.cli.serve", "run the daemon in the foreground"),
    Verb("ps", "exo_rkllm.cli.ps", "show loaded models, running answers and the queue"),
    Verb("load", "exo_rkllm.cli.load", "load a model into memory"),
    Verb("unload", "exo_rkllm.cli.unload", "unload a model and free its memory"),
    Verb("cluster", "exo_rkllm.cli.cluster", "show the exo cluster and this board's part in it; join or leave it"),
    Verb("logs", "exo_rkllm.cli.logs", "show the daemon's recent log lines"),
    Verb("config", "exo_rkllm.cli.config", "check, show or reload the configuration"),
    Verb("run", "exo_rkllm.cli.run", "ask a model one question, or chat with it"),
    Verb("models", "exo_rkllm.cli.models", "list the installed models"),
    Verb("show", "exo_rkllm.cli.show", "show what is known about a model"),
    Verb("pull", "exo_rkllm.cli.pull", "download a model from Hugging Face or a mirror"),
    Verb("import", "exo_rkllm.cli.importing", "add model files from this machine to the catalogue"),
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
    Verb("selftest", "exo_rkllm.cli.selftest", "measure what only a real board can show, and write a report"),
)


def parser() -> argparse.ArgumentParser:
    """The top level only: importing no verb keeps `--help` fast."""
    width = max(len(verb.name) for verb in VERBS)
    listing = "\n".join(f"  {verb.name:<{width}}  {verb.summary}" for verb in VERBS)
    top = argparse.ArgumentParser(
        prog="exo-rkllm",
        usage="exo-rkllm [--version] VERB ...",
        description="Local language models on Rockchip NPUs.",
        epilog=f"verbs:\n{listing}\n\nRun exo-rkllm VERB --help for the options of one verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"exo-rkllm {__version__}")
    top.add_argument("verb", metavar="VERB", choices=[verb.name for verb in VERBS], help=argparse.SUPPRESS)
    top.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return top


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
    command = parser().parse_args(argv)
    verb = next(verb for verb in VERBS if verb.name == command.verb)
    if verb.passes_on and command.rest[:1] not in (["-h"], ["--help"]):
        args = verb_parser(verb).parse_args(["--", *command.rest])
    elif verb.runs:
        own = command.rest.index("--") if "--" in command.rest else len(command.rest)
        args = verb_parser(verb).parse_intermixed_args(command.rest[:own])
        args.command = command.rest[own + 1 :]
    else:
        # Flags may stand between positional arguments: `run MODEL --max-tokens 9 PROMPT`.
        args = verb_parser(verb).parse_intermixed_args(command.rest)
    try:
        return int(importlib.import_module(verb.module).main(args))
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
