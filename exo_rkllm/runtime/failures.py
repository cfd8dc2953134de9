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
        facts = log.facts(lines)
        # Whoever picked these CPUs had no more to pick from.
        confined = bool(self.cpus) and self.cpus <= self.allowed and len(self.allowed) < (facts.npu_cores or 2)
        names = ", ".join(map(str, sorted(self.cpus)))
        enabled = f"only CPU {names} was enabled" if names else "fewer were enabled"
        return {
            "cpus": f"the service may use CPU {names} only" if confined else enabled,
            "cpus_hint": ALLOWED_CPUS if confined else CPUS,
            "path": self.path,
            "model": self.path.rpartition("/")[2],
            "runtime": self.runtime,
            "platform": facts.platform or "another SoC",
            "target": facts.target_platform or "another SoC",
            "driver": facts.driver or "of this kernel",
            "cores": str(facts.npu_cores or "several"),
        }


def match(lines: Iterable[VendorLine]) -> tuple[FailureRule, Mapping[str, str]] | None:
    """The rule nearest to the cause, and the words of its message."""
    messages = [line.message for line in lines]
    for rule in TABLE:
        for message in messages:
            if (hit := re.search(rule.pattern, message)) is not None:
                return rule, {name: text or "" for name, text in hit.groupdict().items()}
    return None


def explain(lines: Iterable[str], context: Context) -> ExoRkllmError | None:
    """The error behind these lines; None where none of them is known."""
    lines = list(lines)
    hit = match(map(log.parse, lines))
    if hit is None:
        return None
    rule, words = hit
    values = {**context.words(lines), **words}
    return rule.kind(rule.sentence.format_map(values), rule.hint.format_map(values))


def proves_failure(lines: Iterable[str]) -> bool:
    """Whether the load failed although init said 0."""
    messages = [log.parse(line).message for line in lines]
    return any(re.search(rule.pattern, message) for rule in TABLE if rule.proves for message in messages)


def failure(lines: Iterable[str], context: Context, activity: str, otherwise: type[ExoRkllmError]) -> ExoRkllmError:
    """Always an error: the known one, else `otherwise` with the last error line of the library that says something."""
    lines = list(lines)
    if (error := explain(lines, context)) is not None:
        return error
    errors = [line.message for line in map(log.parse, lines) if line.level == "E" and line.message not in EMPTY_WORDS]
    reason = f": {errors[-1]}" if errors else ", without a reason"
    return otherwise(
        f"Runtime {context.runtime} failed at {activity}{reason}.",
        "RKLLM_LOG_LEVEL=2 in its environment makes the runtime say more",
    )
