"""`exo-rkllm run`: ask a model one question, or chat with it; through the daemon if one is running."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from exo_rkllm import dispatch
from exo_rkllm.assembly import LocalSource, Node, is_file
from exo_rkllm.backends.base import Finish, GenerationRequest, Ignored, Image, Message, Model, Piece, Sampling
from exo_rkllm.backends.registry import BUILT_IN
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.cli import place
from exo_rkllm.client.answers import AnswerSource, DaemonSource
from exo_rkllm.client.control import Client, NotInTheGroup, find
from exo_rkllm.config import load
from exo_rkllm.errors import ExoRkllmError, NotSupported, UsageError
from exo_rkllm.sampling import SETTINGS
from exo_rkllm.schema.specs import Whole

BYE = frozenset({"/bye", "/exit", "/quit"})
INTERRUPTED = 130
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
    sampling = parser.add_argument_group("sampling")
    for setting in SETTINGS:
        flag, kind = "--" + setting.name.replace("_", "-"), int if isinstance(setting.kind, Whole) else float
        sampling.add_argument(flag, type=kind, metavar="X", help=setting.about)
    parser.add_argument("--engine", default="", metavar="NAME", help="use this engine instead of the card's")
    parser.add_argument("--library", type=Path, metavar="FILE", help="use this librkllmrt.so")
    parser.add_argument("--verbose", action="store_true", help="print the library's log lines, and timings")
    parser.add_argument("--json", action="store_true", help="print JSON lines: the pieces, then the figures")


def main(args: argparse.Namespace) -> int:
    if args.max_tokens is not None and args.max_tokens < 1:
        raise UsageError(f"--max-tokens {args.max_tokens} leaves no room for an answer.", "Use 1 or more.")
    chat = TerminalChat(args)
    said = " ".join(args.prompt) if args.prompt else None
    prompt = said if said is not None or sys.stdin.isatty() else sys.stdin.read()
    return chat.converse() if prompt is None else chat.once(prompt)


def image_of(path: Path) -> Image:
    try:
        return Image(path.read_bytes(), "")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", f"ls -l {path}") from error


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
        self._sampling = Sampling(**{setting.name: getattr(args, setting.name) for setting in SETTINGS})
        client = beside(args)
        if client is not None:
            self._model = args.model
            self._source: AnswerSource = DaemonSource(client.path)
        else:
            engine = args.engine or load(os.environ).models.engine
            node = place.node(
                plugged=not is_file(args.model) or engine not in ("", *BUILT_IN),
                engine=engine,
                library=args.library,
                report=self._report,
            )
            model = model_of(args.model, args.context, self._sampling, node)
            self._model = model.id
            self._source = LocalSource(node.dispatcher(find=lambda _name: model))
        # What goes wrong is raised here as well, and said once.
        logging.getLogger(dispatch.__name__).addHandler(logging.NullHandler())
        self._messages: tuple[Message, ...] = ()
        self._images = tuple(map(image_of, args.image))  # go with the first question
        self._loop = asyncio.new_event_loop()
        self._load_seconds = 0.0
        self._was_thinking = False

    def _report(self, lines: Sequence[str]) -> None:
        if self._args.verbose:
            print(*lines, sep="\n", file=sys.stderr)

    def once(self, prompt: str) -> int:
        with self._loaded():
            return self._ask(prompt)

    def converse(self) -> int:
        with self._loaded():
            print(
                f"Chatting with {self._model}. /bye or Ctrl-D ends it, Ctrl-C stops an answer.",
                file=sys.stderr,
            )
            while True:
                try:
                    line = input(">>> ").strip()
                except EOFError:
                    print()
                    return 0
                except KeyboardInterrupt:
                    print("\n/bye or Ctrl-D ends the conversation.")
                    continue
                if line in BYE:
                    return 0
                if line:
                    try:
                        self._ask(line)
                    except NotSupported as error:
                        print(error, file=sys.stderr)

    @contextmanager
    def _loaded(self) -> Iterator[None]:
        try:
            self._await(self._load())
            yield
        finally:
            self._loop.run_until_complete(self._source.close())
            self._loop.close()

    async def _load(self) -> None:
        loading = asyncio.ensure_future(self._source.load(self._model))
        began = time.monotonic()
        try:
            # Somebody looks on, or nobody needs to be told: a log full of seconds says nothing.
            shown = sys.stderr.isatty()
            while not (await asyncio.wait({loading}, timeout=1.0 if shown else None))[0]:
                waited = f"\rloading {self._model}: {time.monotonic() - began:.0f} s"
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
        """Exit code of one question: 0, or 130 where Ctrl-C ended the answer."""
        request = GenerationRequest(
            model=self._model,
            messages=(*self._messages, Message("user", prompt, images=self._images)),
            sampling=self._sampling,
            max_tokens=self._args.max_tokens,
        )
        self._images = ()
        try:
            answer = self._await(self._answer(request))
        except KeyboardInterrupt:
            self._messages = ()
            print("\n(stopped; the next question starts a new conversation)", file=sys.stderr)
            return INTERRUPTED
        self._messages = (*request.messages, Message("assistant", answer))
        return 0

    async def _answer(self, request: GenerationRequest) -> str:
        """Prints while it listens; leaving early closes the generator, which ends the run."""
        pieces: list[str] = []
        try:
            async with aclosing(self._source.answer(request)) as events:
                async for event in events:
                    if isinstance(event, Piece):
                        self._take(event, pieces)
                    elif isinstance(event, Finish):
                        self._print_finish(event)
                    elif isinstance(event, Ignored):
                        print(f"({', '.join(event.fields)}, which {event.why}, has no effect.)", file=sys.stderr)
        except ExoRkllmError:
            if pieces and not self._args.json:
                print(flush=True)  # the reason has a line of its own
            raise
        return "".join(pieces)

    def _take(self, piece: Piece, answer: list[str]) -> None:
        if piece.kind == "answer" and not answer and self._was_thinking and not self._args.json:
            print("\n")  # between what it thought and what it says
        self._was_thinking = piece.kind == "thinking"
        answer += [piece.text] if piece.kind == "answer" else []
        self._print(piece)

    def _print(self, piece: Piece) -> None:
        if self._args.json:
            print(json.dumps({"text": piece.text, "token": piece.token, "kind": piece.kind}), flush=True)
        else:
            print(piece.text, end="", flush=True)

    def _print_finish(self, finish: Finish) -> None:
        if self._args.json:
            print(json.dumps({"finish": asdict(finish), "load_seconds": self._load_seconds}), flush=True)
            return
        print(flush=True)
        if self._args.verbose:
            print(*timings(finish, self._load_seconds), sep="\n", file=sys.stderr)

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


def timings(finish: Finish, load: float) -> Iterator[str]:
    """The lines of `ollama run --verbose`, so that figures can be compared; what nobody measured is left out."""
    usage, spent = finish.usage, finish.timings
    yield f"{'load duration:':<22}{load:.2f} s"
    if usage.counted:
        about = "about " if usage.guessed else ""
        yield f"{'prompt eval count:':<22}{about}{usage.prompt} tokens, {about}{usage.cached} of them cached"
    else:
        yield f"{'prompt eval count:':<22}about {usage.prompt} tokens: this runtime did not count them"
    if spent.prefill:
        yield f"{'prompt eval duration:':<22}{spent.prefill:.3f} s"
    if spent.prefill and usage.counted:
        yield f"{'prompt eval rate:':<22}{(usage.prompt - usage.cached) / spent.prefill:.2f} tokens/s"
    yield f"{'eval count:':<22}{usage.completion} tokens"
    if spent.decode:
        yield f"{'eval duration:':<22}{spent.decode:.3f} s"
    if speed := spent.tokens_per_second(usage.completion):
        yield f"{'eval rate:':<22}{speed:.2f} tokens/s"
    yield f"{'ended by:':<22}{finish.reason}"
