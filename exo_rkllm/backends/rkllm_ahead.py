"""A run that the model's process has before its turn: it begins when the present one ends, so the NPU need not wait.

Only a run before which nothing happens on the runtime is given ahead: no picture, no adapter, no other sampling to
load, no saved conversation to restore, and nothing of the present one to save.
"""

from __future__ import annotations

from dataclasses import dataclass

from exo_rkllm.backends.base import GenerationRequest
from exo_rkllm.backends.ledger import CachedRun
from exo_rkllm.backends.prefix_plan import PrefixPlan
from exo_rkllm.runner.jobs import RunnerJob
from exo_rkllm.runner.parent import Runner
from exo_rkllm.runner.stream import RunStream

# Bytes a token in a text that takes many, and tokens of an answer: for what a run may leave in the KV cache at most.
LEAST_BYTES = 3
ANSWER_TOKENS = 256


@dataclass(frozen=True, slots=True)
class OrderedRun:
    """A run as the child has it. `measured` is its prompt as the ledger measures it, of `tokens` at least."""

    request: str
    runner: Runner
    number: int
    stream: RunStream
    job: RunnerJob
    measured: str | None
    tokens: int
    plan: PrefixPlan

    def read(self) -> CachedRun | None:
        """What it has read when it ends, with the least number of tokens that can be; None where nobody knows."""
        return None if self.measured is None else CachedRun(self.measured, self.tokens)

    def left_behind(self) -> CachedRun | None:
        """What it leaves in the KV cache, with the largest number of tokens that is likely."""
        if self.measured is None:
            return None
        tokens = max(self.tokens, len(self.measured.encode(errors="replace")) // LEAST_BYTES)
        return CachedRun(self.measured, tokens, "", min(ANSWER_TOKENS, self.job.max_tokens or ANSWER_TOKENS))


def goes_ahead(request: GenerationRequest) -> bool:
    """Whether a request is a run and nothing else."""
    return request.output == "text" and not request.images and not request.lora


def follows_at_once(plan: PrefixPlan) -> bool:
    """Whether nothing happens before the run, whatever happens at its end."""
    return not plan.stash and not plan.fresh and plan.restore is None
