"""Which releases of the vendor's library harm which models: a table, each row with its source.

A row speaks against a release, it never forbids one: with nothing better installed the model is loaded all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trap:
    """A release of the runtime, and the models that it harms: by their toolkit's versions, or by their names.

    `breaks`: such a model is of no use with it. `every`: all such models are harmed, as far as anybody knows; other
    rows prefer another runtime and warn of nothing. `harm` follows the release in a sentence, `advice` is what helps.
    """

    runtime: str
    toolkit: str  # a regular expression of the whole version; empty for any file
    model: str  # a regular expression within a model's names; empty for any model
    breaks: bool
    every: bool
    harm: str
    advice: str
    source: str

    def catches(self, release: str, toolkit: str, names: Sequence[str]) -> bool:
        return (
            release == self.runtime
            and (not self.toolkit or re.fullmatch(self.toolkit, toolkit) is not None)
            and (not self.model or any(re.search(self.model, name, re.IGNORECASE) for name in names))
        )


TRAPS: tuple[Trap, ...] = (
    Trap(
        runtime="1.2.3",
        toolkit="",
        model=r"deepseek[-_ ]?r1[-_ ]?distill[-_ ]?qwen[-_ ]?1[._]5b",
        breaks=True,
        every=True,
        harm="turns DeepSeek-R1-Distill-Qwen-1.5B into endless [PAD151935]",
        advice="exo-rkllm runtime --install FILE with librkllmrt 1.2.2, which reads the same file rightly",
        source="rknn-llm issue 467, and a second report of the same file on 1.2.2 and 1.2.3 (board-facts 13; A)",
    ),
    Trap(
        runtime="1.3.1",
        toolkit=r"1\.2\..*",
        model="",
        breaks=False,
        every=False,
        harm="crashes (SIGBUS) while it loads some files of toolkit 1.2",
        advice="exo-rkllm selftest --runtimes MODEL finds out whether this one does",
        source="one board with driver 0.9.8; models of toolkit 1.3.1 load there (board-facts 13; B)",
    ),
    # The session ends such answers by an abort, after which nothing in the KV cache can be used.
    Trap(
        runtime="1.3.0",
        toolkit=r"1\.2\.[23]",
        model="",
        breaks=False,
        every=True,
        harm="misses the end token of files of toolkits 1.2.2 and 1.2.3: exo-rkllm ends each answer itself, which"
        " empties the KV cache, so every prompt is computed from its start",
        advice="exo-rkllm runtime --install FILE with librkllmrt 1.2.3 or 1.3.1",
        source="rknn-llm issue 534: the id is stored as UINT32 and read as INT32 (board-facts 13; A)",
    ),
)


def traps_for(release: str, toolkit: str, names: Sequence[str]) -> Iterator[Trap]:
    """The rows that speak against this release for a model of this toolkit (empty: unknown) and these names."""
    return (trap for trap in TRAPS if trap.catches(release, toolkit, names))
