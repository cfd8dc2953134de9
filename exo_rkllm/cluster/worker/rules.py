"""Small judgements on the worker, an instance, a model or a command."""

from __future__ import annotations

from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.wire import clean, messages
from exo_rkllm.cluster.wire.messages import (
    AddCustomModelCard,
    CreateInstance,
    DeleteInstance,
    DownloadProgress,
    ModelCard,
    RunnerFailed,
    RunnerIdle,
    RunnerLoading,
    RunnerReady,
    RunnerRunning,
    RunnerStatus,
    RunnerWarmingUp,
)
from exo_rkllm.cluster.wire.reading import Instance
from exo_rkllm.cluster.worker import offers
from exo_rkllm.cluster.worker.state import PendingCommand, Worker


def backends(worker: Worker, replica: Replica) -> tuple[str, ...]:
    """None where we place ourselves; otherwise the one that leaves other nodes' placement alone (reference 4)."""
    if worker.placement == "own":
        return ()
    taken = any("MlxCuda" in (facts.backends or ()) for node, facts in replica.nodes.items() if node != worker.me)
    return ("MlxCpu",) if taken else ("MlxCuda",)


def objection(worker: Worker, instance: Instance) -> str:
    """Why this instance is not for us; empty if it is."""
    if len(instance.runners) > 1 or len(instance.node_to_runner) > 1:
        return f"{worker.name} takes whole models only, no share of one."
    model = worker.models.get(instance.model_id)
    if model is None:
        return f"{worker.name} runs its own .rkllm models only, and {instance.model_id} is none of them."
    return clean.text(model.problem) or f"{instance.model_id} cannot be loaded." if model.state == "failed" else ""


def status_of(model: Servable, *, busy: bool) -> RunnerStatus:
    match model.state:
        case "loading":
            total = max(1, model.layers)
            return RunnerLoading(int(min(1.0, max(0.0, clean.number(model.progress) or 0.0)) * total), total)
        case "warming":
            return RunnerWarmingUp()
        case "failed":
            return RunnerFailed(clean.text(model.problem))
        case "ready":
            return RunnerRunning() if busy else RunnerReady()
        case _:
            # an answer that runs knows better than a list of models that is a moment old
            return RunnerRunning() if busy else RunnerIdle()


def completed(me: str, model: Servable, card: ModelCard) -> DownloadProgress:
    return messages.DownloadCompleted(me, offers.shard(card), clean.text(model.folder), card.storage_size)


def pending(me: str, model: Servable, card: ModelCard) -> DownloadProgress:
    nothing = messages.Memory(0)
    return messages.DownloadPending(me, offers.shard(card), clean.text(model.folder), nothing, nothing)


def is_card(given: PendingCommand, model_id: str) -> bool:
    return isinstance(given.command, AddCustomModelCard) and given.command.model_card.model_id == model_id


def creates(given: PendingCommand, model_id: str) -> bool:
    command = given.command
    return isinstance(command, CreateInstance) and command.instance.shard_assignments.model_id == model_id


def done(given: PendingCommand, replica: Replica) -> bool:
    match given.command:
        case AddCustomModelCard():
            return False  # told by the event, see `decide`: the card may be another board's a moment later
        case CreateInstance(instance=instance):
            model = instance.shard_assignments.model_id
            return any(one.id == instance.instance_id or one.model_id == model for one in replica.mine())
        case DeleteInstance(instance_id=instance_id):
            return instance_id not in replica.instances
