"""What a run on the NPU was: its figures as the usage, the timings and the reason of a `Finish`."""

from __future__ import annotations

from exo_rkllm.backends.base import Finish, FinishReason, Timings, Usage
from exo_rkllm.backends.ledger import Ledger
from exo_rkllm.runner.jobs import RunnerJob
from exo_rkllm.runner.stream import RunDone

# The figure that every run has which computed anything.
GENERATED = "generate_tokens"


def usage_of(job: RunnerJob, prompt: str | None, done: RunDone, ledger: Ledger) -> Usage:
    """The library's own count of computed tokens is missing before 1.2.1, and of most aborted runs."""
    computed, completion = done.figures.get("prefill_tokens"), done.figures.get(GENERATED, 0)
    if job.tokens is None:
        follows = job.keep_history and not job.clear_first
        return ledger.usage(prompt or "", computed, completion, follows=follows)
    if computed is None:
        return Usage(len(job.tokens), 0, completion, counted=False)
    return Usage(len(job.tokens), max(0, len(job.tokens) - computed), completion)


def finish_of(done: RunDone, usage: Usage, context: int, queued: float, load: float) -> Finish:
    """`queued` and `load` are the seconds before the run."""
    figures = done.figures
    return Finish(
        reason_of(done, usage.prompt + usage.completion if usage.counted else usage.completion, context),
        usage,
        Timings(
            queued=queued,
            load=load,
            prefill=figures.get("prefill_ms", 0.0) / 1000,
            decode=figures.get("generate_ms", 0.0) / 1000,
        ),
        end_token=figures.get("end_token"),
    )


def reason_of(done: RunDone, total: int, context: int) -> FinishReason:
    """`total` counts prompt and answer, for releases that end an answer themselves where the context is full."""
    if finish := done.figures.get("finish"):
        return "stop" if finish == "stop" else "length"
    if done.stopped:
        return "abort"
    return "length" if 0 < context <= total else "stop"
