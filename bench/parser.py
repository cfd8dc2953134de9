"""What reading an answer costs a token: nothing to find, thoughts, tags about, a stop string about.

python -m bench.parser
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from exo_rkllm.backends.base import Finish, GenerationRequest, Piece, Tool
from exo_rkllm.chat.formats import REASONING, TOOLS
from exo_rkllm.chat.parser import ResponseParser
from exo_rkllm.chat.prompt import Prompt

TOKENS = 100_000
ROUNDS = 7
ENDS = ("<|im_end|>", "<|endoftext|>")
PROSE = [" word", " and", " another", ",", " with", " a", " longer", " one", "."]
LINES = [*PROSE, "\n"]
MARKUP = ["<p", ">", " text", "</", "p", ">", "\n"]
PLAIN = GenerationRequest(prompt="")
ASKED = GenerationRequest(prompt="", stop=("\nUser:", "###"))
OFFERED = GenerationRequest(prompt="", tools=(Tool("get_weather"),))


def plain() -> ResponseParser:
    return ResponseParser(Prompt.of(GenerationRequest(prompt="")))


def qwen() -> ResponseParser:
    return ResponseParser(Prompt.of(PLAIN, reasoning=REASONING["think"], ends=ENDS))


def thinking() -> ResponseParser:
    return ResponseParser(Prompt.of(PLAIN, reasoning=REASONING["think"], ends=ENDS, thinking=True))


def tools() -> ResponseParser:
    return ResponseParser(Prompt.of(OFFERED, reasoning=REASONING["think"], tools=TOOLS["hermes"], ends=ENDS))


def stops() -> ResponseParser:
    return ResponseParser(Prompt.of(ASKED, reasoning=REASONING["think"], ends=ENDS))


CASES = (
    ("nothing to look for", plain, PROSE),
    ("prose, tags possible", qwen, PROSE),
    ("thoughts, with line breaks", thinking, LINES),
    ("prose, tools offered, with line breaks", tools, LINES),
    ("prose, stop strings, with line breaks", stops, LINES),
    ("markup, tags possible", qwen, MARKUP),
)


def microseconds(parser: ResponseParser, texts: Sequence[str]) -> float:
    """A token's cost, over pieces made beforehand."""
    pieces = [Piece(texts[index % len(texts)], index) for index in range(TOKENS)]
    feed = parser.feed
    started = time.perf_counter()
    for piece in pieces:
        feed(piece)
    spent = time.perf_counter() - started
    parser.end(Finish("stop"))
    return spent / TOKENS * 1e6


def main() -> None:
    print(f"{'case':<42}{'median us':>10}{'least':>8}{'most':>8}{'tokens/s':>12}")
    for name, make, texts in CASES:
        taken = [microseconds(make(), texts) for _ in range(ROUNDS)]
        middle = statistics.median(taken)
        print(f"{name:<42}{middle:>10.2f}{min(taken):>8.2f}{max(taken):>8.2f}{1e6 / middle:>12,.0f}")


if __name__ == "__main__":
    main()
