"""How a client of the cluster hears that its request failed."""

from __future__ import annotations

from exo_rkllm.cluster.wire import chunks
from exo_rkllm.cluster.wire.events import Tagged
from exo_rkllm.cluster.worker.state import Worker, WorkerTask


def failure_chunk(worker: Worker, task: WorkerTask, problem: str) -> Tagged:
    """The last chunk of a request that fails.

    exo answers an error with an empty body where nothing is streamed, and its dashboard shows nothing of one. So an
    answer says it, except where a client has read a part of the answer as it came: to that one an error tells that the
    answer is not whole. `[cluster] errors = "error"` makes it an error always.
    """
    streamed = task.spoke and bool(task.task.params.get("stream"))
    if worker.errors == "error" or streamed:
        return chunks.error(task.model_id, problem)
    if task.spoke:
        return chunks.notice(task.model_id, f"\n\n[{worker.name} broke off] {problem}", broke_off=True)
    return chunks.notice(task.model_id, f"[{worker.name} did not answer] {problem}")
