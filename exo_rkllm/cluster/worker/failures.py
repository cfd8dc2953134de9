"""How a client of the cluster hears that its request failed."""

from __future__ import annotations

from exo_rkllm.cluster.wire import chunks
from exo_rkllm.cluster.wire.events import Tagged
from exo_rkllm.cluster.worker.state import Worker, WorkerTask
from exo_rkllm.config.table import ErrorForm


def failure_chunk(worker: Worker, task: WorkerTask, problem: str) -> Tagged:
    """The last chunk of a request that fails."""
    streams = bool(task.task.params.get("stream"))
    return last_chunk(worker.name, task.model_id, problem, worker.errors, spoke=task.spoke, streams=streams)


def last_chunk(name: str, model: str, problem: str, errors: ErrorForm, *, spoke: bool, streams: bool) -> Tagged:
    """exo answers an error with an empty body where nothing is streamed, and its dashboard shows nothing of one.

    So an answer says it, except where a client has read a part of the answer as it came: to that one an error tells
    that the answer is not whole. `[cluster] errors = "error"` makes it an error always.
    """
    if errors == "error" or (spoke and streams):
        return chunks.error(model, problem)
    if spoke:
        return chunks.notice(model, f"\n\n[{name} broke off] {problem}", broke_off=True)
    return chunks.notice(model, f"[{name} did not answer] {problem}")
