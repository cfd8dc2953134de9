"""The library's messages as errors: the first row of `failure_rules` that any line matches is the answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.runtime import log
from exo_rkllm.runtime.failure_rules import ALLOWED_CPUS, CPUS, TABLE, FailureRule
from exo_rkllm.runtime.log import VendorLine

# Says only that something failed.
EMPTY_WORDS = frozenset({"rkllm_init failed"})


@dataclass(frozen=True, slots=True)
class Context:
    """What a sentence may name beside the message's own words."""

    path: str
    runtime: str
    # CPUs that were enabled for the load, and those that this process may use.
    cpus: frozenset[int] = frozenset()
    allowed: frozenset[int] = frozenset()

    def words(self, lines: Iterable[str]) -> Mapping[str, str]:
        said = log.facts(lines)
        # Whoever picked these CPUs had no more to pick from.
        confined = bool(self.cpus) and self.cpus <= self.allowed and len(self.allowed) < (said.npu_cores or 2)
        names = ", ".join(map(str, sorted(self.cpus)))
        enabled = f"only CPU {names} was enabled" if names else "fewer were enabled"
        return {
            "cpus": f"the service may use CPU {names} only" if confined else enabled,
            "cpus_hint": ALLOWED_CPUS if confined else CPUS,
            "path": self.path,
            "model": self.path.rpartition("/")[2],
            "runtime": self.runtime,
            "platform": said.platform or "another SoC",
            "target": said.target_platform or "another SoC",
            "driver": said.driver or "of this kernel",
            "cores": str(said.npu_cores or "several"),
        }


def match(lines: Iterable[VendorLine]) -> tuple[FailureRule, Mapping[str, str]] | None:
    """The row nearest to the cause, and the words of its message."""
    messages = [line.message for line in lines]
    for row in TABLE:
        for message in messages:
            if (found := re.search(row.pattern, message)) is not None:
                return row, {name: text or "" for name, text in found.groupdict().items()}
    return None


def explain(lines: Iterable[str], context: Context) -> ExoRkllmError | None:
    """The error behind these lines; None where none of them is known."""
    lines = list(lines)
    found = match(map(log.parse, lines))
    if found is None:
        return None
    row, words = found
    known = {**context.words(lines), **words}
    return row.kind(row.sentence.format_map(known), row.hint.format_map(known))


def proves_failure(lines: Iterable[str]) -> bool:
    """Whether the load failed although init said 0."""
    messages = [log.parse(line).message for line in lines]
    return any(re.search(row.pattern, message) for row in TABLE if row.proves for message in messages)


def last_words(lines: Iterable[str]) -> str:
    """The last error line that says something, for a message that no row knows."""
    said = [line.message for line in map(log.parse, lines) if line.level == "E" and line.message not in EMPTY_WORDS]
    return said[-1] if said else ""


def failure(lines: Iterable[str], context: Context, doing: str, otherwise: type[ExoRkllmError]) -> ExoRkllmError:
    """Always an error: the known one, else `otherwise` with the library's own last words."""
    lines = list(lines)
    if (known := explain(lines, context)) is not None:
        return known
    words = last_words(lines)
    said = f": {words}" if words else ", without a reason"
    return otherwise(
        f"Runtime {context.runtime} failed at {doing}{said}.",
        "RKLLM_LOG_LEVEL=2 in its environment makes the runtime say more",
    )
