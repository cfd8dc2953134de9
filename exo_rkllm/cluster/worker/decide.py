"""(worker, what happened) -> (worker, effects)."""

from __future__ import annotations

from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.wire import reading
from exo_rkllm.cluster.worker.effects import LogLineEffect, PublishNodeInfo, WorkerEffect
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
from exo_rkllm.cluster.worker.rules import is_card
from exo_rkllm.cluster.worker.state import Worker
from exo_rkllm.cluster.worker.transition import NewId, Transition


def decide(
    worker: Worker, happening: WorkerEvent, replica: Replica, now: float, new_id: NewId
) -> tuple[Worker, list[WorkerEffect]]:
    turn = Transition(worker, replica, now, new_id)
    match happening:
        case CaughtUpEvent():
            turn.change(serving=True)
            turn.announce(first=True)
            turn.settle()
        case AppliedEvent(event, fresh):
            _applied(turn, event, fresh=fresh)
        case ModelsChangedEvent(models):
            turn.offered(models)
        case AnswerEvent(task_id, event):
            turn.engine(task_id, event)
        case CommandEvent(command) if worker.serving:
            turn.asked(command)
        case JoinedEvent() if worker.serving:
            turn.change(withdrawn=frozenset())
            turn.announce()
        case TickedEvent() if worker.serving:
            turn.repeat()
        case LeavingEvent() if worker.serving:
            turn.leave()
    return turn.worker, turn.effects


def _applied(turn: Transition, event: reading.Event, *, fresh: bool) -> None:
    if not turn.worker.serving:
        return
    idle = isinstance(event, reading.Other | reading.NodeHeard | reading.RunnerMoved | reading.ImageArrived)
    if idle and not (fresh and turn.worker.unsettled):
        return
    match event:
        case reading.NodeTimedOut(node) if node == turn.worker.me:
            turn.effects.append(
                LogLineEffect("warning", "The exo cluster took this board for dead; it introduces itself again.")
            )
            turn.effects.append(PublishNodeInfo())
            turn.change(reported=frozenset())
        case reading.InstanceDeleted(instance_id):
            turn.withdraw(instance_id)
        case reading.CardAdded(model_id):
            turn.change(given=tuple(given for given in turn.worker.given if not is_card(given, model_id)))
    if not fresh:
        turn.change(unsettled=True)
        return
    turn.settle()
    if turn.worker.unsettled or isinstance(event, reading.InstanceDeleted | reading.NodeTimedOut):
        turn.change(unsettled=False)
        turn.announce()
