"""(worker, what happened) -> (worker, effects)."""

from __future__ import annotations

from exo_rkllm.cluster.effects import ClusterEffect, LogEffect, PublishNodeInfoEffect
from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.wire.events import (
    CustomModelCardAdded,
    Event,
    InputChunkReceived,
    InstanceDeleted,
    NodeGatheredInfo,
    NodeTimedOut,
    OtherEvent,
    RunnerStatusUpdated,
)
from exo_rkllm.cluster.worker.events import (
    AnswerEvent,
    AppliedEvent,
    CaughtUpEvent,
    CommandEvent,
    JoinedEvent,
    LeavingEvent,
    ModelsChangedEvent,
    TickedEvent,
    WorkerEvent,
)
from exo_rkllm.cluster.worker.state import Worker
from exo_rkllm.cluster.worker.transition import NewId, Transition


def decide(
    worker: Worker, event: WorkerEvent, replica: Replica, now: float, new_id: NewId
) -> tuple[Worker, list[ClusterEffect]]:
    transition = Transition(worker, replica, now, new_id)
    match event:
        case CaughtUpEvent():
            transition.change(serving=True)
            transition.announce(first=True)
            transition.settle()
        case AppliedEvent(applied, fresh) if worker.serving:
            _applied(transition, applied, fresh=fresh)
        case ModelsChangedEvent(models):
            transition.change_models(models)
        case AnswerEvent(task_id, answer):
            transition.take_answer(task_id, answer)
        case CommandEvent(command) if worker.serving:
            transition.answer_download(command)
        case JoinedEvent() if worker.serving:
            transition.change(withdrawn=frozenset())
            transition.announce()
        case TickedEvent() if worker.serving:
            transition.repeat_commands()
        case LeavingEvent() if worker.serving:
            transition.leave()
    return transition.worker, transition.effects


def _applied(transition: Transition, event: Event, *, fresh: bool) -> None:
    """Nothing is decided on a replica that is known to be old; the first fresh event settles what was put off."""
    idle = isinstance(event, OtherEvent | NodeGatheredInfo | RunnerStatusUpdated | InputChunkReceived)
    if idle and not (fresh and transition.worker.needs_settling):
        return
    match event:
        case NodeTimedOut(node) if node == transition.worker.me:
            sentence = "The exo cluster took this board for dead; it introduces itself again."
            transition.effects += [LogEffect("warning", sentence), PublishNodeInfoEffect()]
            transition.change(announced=frozenset())
        case InstanceDeleted(instance_id):
            transition.withdraw(instance_id)
        case CustomModelCardAdded(model_id):
            pending = transition.worker.pending
            transition.change(pending=tuple(one for one in pending if not one.concerns("AddCustomModelCard", model_id)))
    if not fresh:
        transition.change(needs_settling=True)
        return
    transition.settle()
    if transition.worker.needs_settling or isinstance(event, InstanceDeleted | NodeTimedOut):
        transition.change(needs_settling=False)
        transition.announce()
