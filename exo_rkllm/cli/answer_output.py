"""How `exo-rkllm run` prints one answer: text as it comes, thoughts marked, JSON lines, figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.backends.base import Finish, GenerationEvent, Ignored, Piece
from exo_rkllm.cli.output import Paint

THINKING, THOUGHT = "── thinking ──", "──────────────"


class AnswerOutput:
    """Takes one answer's events. `text` is what was answered so far.

    On a terminal thoughts are dim and stand between two lines; elsewhere an empty line follows them.
    """

    def __init__(self, answer_format: ResponseFormat, *, as_lines: bool, hide_thinking: bool, verbose: bool) -> None:
        self._format = answer_format
        self._as_lines, self._hide_thinking, self._verbose = as_lines, hide_thinking, verbose
        self._paint = Paint(sys.stdout)
        self._marks = sys.stdout.isatty()
        self._thinks = self._begun = False
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def take(self, event: GenerationEvent, load_seconds: float) -> None:
        if isinstance(event, Piece):
            self._take_piece(event)
        elif isinstance(event, Finish):
            self._take_finish(event, load_seconds)
        elif isinstance(event, Ignored):
            print(f"({', '.join(event.fields)}, which {event.why}, has no effect.)", file=sys.stderr)

    def end_line(self) -> None:
        """What follows an answer that broke off has a line of its own."""
        if self._begun and not self._as_lines:
            self._end_thoughts()
            print(flush=True)

    def _take_piece(self, piece: Piece) -> None:
        text = piece.text
        if piece.kind == "answer":
            text = self._format.feed(text)
            self._parts.append(text)
        elif self._hide_thinking and piece.kind == "thinking":
            return
        if self._as_lines:
            print(json.dumps({"text": text, "token": piece.token, "kind": piece.kind}), flush=True)
            return
        if piece.kind == "thinking":
            if not self._thinks and self._marks:
                print(self._paint(THINKING, "dim"))
            self._thinks, text = True, self._paint(text, "dim")
        else:
            self._end_thoughts()
        self._begun = True
        print(text, end="", flush=True)

    def _end_thoughts(self) -> None:
        if self._thinks:
            self._thinks = False
            print("\n" + self._paint(THOUGHT, "dim") if self._marks else "\n")

    def _take_finish(self, finish: Finish, load_seconds: float) -> None:
        rest = self._format.end(has_calls=False) if finish.reason == "stop" else ""
        self._parts.append(rest)
        if self._as_lines:
            print(json.dumps({"finish": asdict(finish), "load_seconds": load_seconds}), flush=True)
            return
        self._end_thoughts()
        print(rest, flush=True)
        if self._verbose:
            print(*timings(finish, load_seconds), sep="\n", file=sys.stderr)


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
