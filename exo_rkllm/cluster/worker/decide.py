"""(worker, what happened) -> (worker, effects)."""

from __future__ import annotations

from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.wire import reading
from exo_rkllm.cluster.worker.effects import Effect, Introduce, Tell
from exo_rkllm.cluster.worker.events import (
    Answered,
    Applied,
    Asked,
    CaughtUp,
    Happening,
    Invited,
    Leaving,
    Offered,
    Ticked,
)
from exo_rkllm.cluster.worker.rules import is_card
from exo_rkllm.cluster.worker.state import Worker
from exo_rkllm.cluster.worker.transition import NewId, Turn


def decide(
    worker: Worker, happening: Happening, replica: Replica, now: float, new_id: NewId
) -> tuple[Worker, list[Effect]]:
    turn = Turn(worker, replica, now, new_id)
    match happening:
        case CaughtUp():
            turn.change(serving=True)
            turn.announce(first=True)
            turn.settle()
        case Applied(event, fresh):
            _applied(turn, event, fresh=fresh)
        case Offered(models):
            turn.offered(models)
        case Answered(task_id, event):
            turn.engine(task_id, event)
        case Asked(command) if worker.serving:
            turn.asked(command)
        case Invited() if worker.serving:
            turn.change(withdrawn=frozenset())
            turn.announce()
        case Ticked() if worker.serving:
            turn.repeat()
        case Leaving() if worker.serving:
            turn.leave()
    return turn.worker, turn.effects


def _applied(turn: Turn, event: reading.Event, *, fresh: bool) -> None:
    if not turn.worker.serving:
        return
    idle = isinstance(event, reading.Other | reading.NodeHeard | reading.RunnerMoved | reading.ImageArrived)
    if idle and not (fresh and turn.worker.unsettled):
        return
    match event:
        case reading.NodeTimedOut(node) if node == turn.worker.me:
            turn.effects.append(
                Tell("warning", "The exo cluster took this board for dead; it introduces itself again.")
            )
            turn.effects.append(Introduce())
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
