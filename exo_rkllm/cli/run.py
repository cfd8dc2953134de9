"""`exo-rkllm run`: ask a model one question, or chat with it; through the daemon if one is running."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from exo_rkllm import dispatch
from exo_rkllm.assembly import LocalSource, Node, is_file
from exo_rkllm.backends.base import GenerationRequest, Model, Sampling
from exo_rkllm.backends.registry import BUILT_IN
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.cli import place
from exo_rkllm.cli.answer_output import AnswerOutput
from exo_rkllm.cli.conversation import Conversation, folder, image_of
from exo_rkllm.cli.line_input import LineInput, unquoted
from exo_rkllm.cli.run_commands import COMPLETIONS, Leave, is_command, perform
from exo_rkllm.client.answers import AnswerSource, DaemonSource
from exo_rkllm.client.control import Client, DaemonUnreachable, NotInTheGroup, find
from exo_rkllm.config import load
from exo_rkllm.errors import ExoRkllmError, LoadError, NpuUnavailable, RunnerLost, UsageError
from exo_rkllm.sampling import SETTINGS
from exo_rkllm.schema.specs import Whole

INTERRUPTED = 130
# After these no further question can be answered.
UNUSABLE = (RunnerLost, LoadError, NpuUnavailable, DaemonUnreachable)
T = TypeVar("T")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .rkllm file, or a name from `exo-rkllm models`")
    parser.add_argument("prompt", metavar="PROMPT", nargs="*", help="the question (default: stdin, or a conversation)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="stop the answer after N tokens")
    parser.add_argument(
        "--context", type=int, default=0, metavar="N", help="context length, prompt and answer together"
    )
    parser.add_argument(
        "--image", type=Path, action="append", default=[], metavar="FILE", help="show it an image (may be repeated)"
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="the system message")
    think = parser.add_mutually_exclusive_group()
    think.add_argument("--think", action="store_true", default=None, help="let the model think before it answers")
    think.add_argument("--nothink", dest="think", action="store_false", help="answer without thinking")
    # As Ollama writes it; argparse looks a whole word up before it looks for a value in it.
    think.add_argument("--think=false", dest="think", action="store_false", help=argparse.SUPPRESS)
    think.add_argument("--think=true", dest="think", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--hidethinking", action="store_true", help="do not print what the model thinks")
    parser.add_argument("--format", choices=["json"], help="ask for one JSON object, and check that it is one")
    sampling = parser.add_argument_group("sampling")
    for setting in SETTINGS:
        flag, kind = "--" + setting.name.replace("_", "-"), int if isinstance(setting.kind, Whole) else float
        sampling.add_argument(flag, type=kind, metavar="X", help=setting.about)
    parser.add_argument("--engine", default="", metavar="NAME", help="use this engine instead of the card's")
    parser.add_argument("--library", type=Path, metavar="FILE", help="use this librkllmrt.so")
    parser.add_argument("--verbose", action="store_true", help="print the library's log lines, and timings")
    parser.add_argument("--json", action="store_true", help="print JSON lines: the pieces, then the figures")
    parser.epilog = (
        "Without a question it is a conversation: /help lists its commands. What you type is kept in "
        "~/.local/share/exo-rkllm/history, for you only."
    )


def main(args: argparse.Namespace) -> int:
    if args.max_tokens is not None and args.max_tokens < 1:
        raise UsageError(f"--max-tokens {args.max_tokens} leaves no room for an answer.", "Use 1 or more.")
    chat = TerminalChat(args)
    said = " ".join(args.prompt) if args.prompt else None
    prompt = said if said is not None or sys.stdin.isatty() else sys.stdin.read()
    return chat.converse() if prompt is None else chat.once(prompt)


def model_of(name: str, context: int, sampling: Sampling, node: Node) -> Model:
    """Loaded with what was asked for, since runtimes before 1.3.0 take a sampling at no other time."""
    if is_file(name):
        return RkllmFile(Path(name), context, sampling)
    return node.catalogue.resolve(name).with_settings(context, sampling)


def beside(args: argparse.Namespace) -> Client | None:
    """The daemon where it can answer this: a second copy of its model would not fit beside the first one."""
    if is_file(args.model) or args.library or args.engine or args.context:
        return None
    try:
        return find()
    except NotInTheGroup:
        return None  # the user's own models are what is left


class TerminalChat:
    """One loaded model and the conversation with it. The loop runs only while something is awaited, so that between
    the answers the terminal belongs to the prompt and Ctrl-C means what it means everywhere."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        sampling = Sampling(**{setting.name: getattr(args, setting.name) for setting in SETTINGS})
        client = beside(args)
        self._node: Node | None = None
        self._models: dict[str, Model] = {}
        name = args.model
        if client is not None:
            self._source: AnswerSource = DaemonSource(client.path)
        else:
            engine = args.engine or load(os.environ).models.engine
            self._node = place.node(
                plugged=not is_file(args.model) or engine not in ("", *BUILT_IN),
                engine=engine,
                library=args.library,
                report=self._report,
            )
            name = self._add(args.model, sampling, self._node)
            self._source = LocalSource(self._node.dispatcher(find=self._models.__getitem__))
        # What goes wrong is raised here as well, and said once.
        logging.getLogger(dispatch.__name__).addHandler(logging.NullHandler())
        self.conversation = Conversation(
            name,
            system=args.system,
            sampling=sampling,
            max_tokens=args.max_tokens,
            thinking=args.think,
            json=args.format == "json",
            hide_thinking=args.hidethinking,
            verbose=args.verbose,
            images=tuple(map(image_of, args.image)),
        )
        self._loop = asyncio.new_event_loop()
        self._load_seconds = 0.0

    @cached_property
    def lines(self) -> LineInput:
        return LineInput(folder() / "history", COMPLETIONS)

    def _report(self, lines: Sequence[str]) -> None:
        if self._args.verbose:
            print(*lines, sep="\n", file=sys.stderr)

    def once(self, prompt: str) -> int:
        with self._loaded():
            return self._ask(prompt)

    def converse(self) -> int:
        with self._loaded():
            print(f"Chatting with {self.conversation.model}. /help lists the commands, /bye leaves.", file=sys.stderr)
            while True:
                try:
                    if line := self.lines.read():
                        self._turn(line)
                except EOFError:
                    print()
                    return 0
                except Leave:
                    return 0
                except KeyboardInterrupt:
                    print("\n/bye or Ctrl-D ends the conversation.")
                except UNUSABLE:
                    raise
                except ExoRkllmError as error:
                    print(error, file=sys.stderr)

    def _turn(self, line: str) -> None:
        if not is_command(line):
            self._ask(unquoted(line))
        elif said := perform(self, line):
            print(said)

    def load(self, model: str) -> None:
        if self._node is not None:
            model = self._add(model, self.conversation.sampling, self._node)
        self._await(self._load(model))
        self.conversation.model = model

    def _add(self, name: str, sampling: Sampling, node: Node) -> str:
        """The name by which the dispatcher finds the model: the catalogue's, or the file's path."""
        model = model_of(name, self._args.context, sampling, node)
        found = name if is_file(name) else model.id
        self._models[found] = model
        return found

    @contextmanager
    def _loaded(self) -> Iterator[None]:
        try:
            self._await(self._load(self.conversation.model))
            yield
        finally:
            self._loop.run_until_complete(self._source.close())
            self._loop.close()

    async def _load(self, model: str) -> None:
        loading = asyncio.ensure_future(self._source.load(model))
        began = time.monotonic()
        try:
            # Somebody looks on, or nobody needs to be told: a log full of seconds says nothing.
            shown = sys.stderr.isatty()
            while not (await asyncio.wait({loading}, timeout=1.0 if shown else None))[0]:
                waited = f"\rloading {model}: {time.monotonic() - began:.0f} s"
                print(waited, end="", file=sys.stderr, flush=True)
        except asyncio.CancelledError:
            loading.cancel()
            await asyncio.wait({loading})
            raise
        finally:
            self._load_seconds = time.monotonic() - began
            if self._load_seconds > 1 and shown:
                print(file=sys.stderr)
        await loading

    def _ask(self, prompt: str) -> int:
        """Exit code of one question: 0, or 130 where Ctrl-C ended the answer, of which the conversation keeps what
        had come."""
        talk = self.conversation
        output = AnswerOutput(
            talk.response_format(),
            as_lines=self._args.json,
            hide_thinking=talk.hide_thinking,
            verbose=talk.verbose,
        )
        try:
            self._await(self._answer(talk.request(prompt), output))
        except KeyboardInterrupt:
            output.end_line()
            self._stop(prompt, output.text)
            return INTERRUPTED
        except ExoRkllmError:
            output.end_line()
            talk.add(prompt, "")
            raise
        talk.add(prompt, output.text)
        return 0

    def _stop(self, prompt: str, answer: str) -> None:
        """A bare file has its conversation in the runtime only, which does not go on after an answer that was ended."""
        if is_file(self.conversation.model):
            self.conversation.messages, self.conversation.images = (), ()
            print("(stopped; the next question starts a new conversation)", file=sys.stderr)
        else:
            self.conversation.add(prompt, answer)
            print("(stopped)", file=sys.stderr)

    async def _answer(self, request: GenerationRequest, output: AnswerOutput) -> None:
        """Prints while it listens; leaving early closes the generator, which ends the run."""
        async with aclosing(self._source.answer(request)) as events:
            async for event in events:
                output.take(event, self._load_seconds)

    def _await(self, work: Coroutine[None, None, T]) -> T:
        """Runs the loop for one thing; Ctrl-C cancels it, so that everything is put away before it is reported."""
        task = self._loop.create_task(work)
        self._loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            return self._loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._loop.remove_signal_handler(signal.SIGINT)
