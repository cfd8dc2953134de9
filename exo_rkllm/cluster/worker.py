"""What a worker of the cluster does, decided without a network: (worker, what happened) -> (worker, effects).

The replica is what the cluster says, the worker what this board is doing about it; `settle` brings one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from exo_rkllm.backends import base
from exo_rkllm.cluster import chunks, clean, messages, offers, reading
from exo_rkllm.cluster.messages import (
    AddCustomModelCard,
    Chunk,
    CreateInstance,
    DeleteInstance,
    DownloadProgress,
    ErrorChunk,
    ImageChunk,
    ModelCard,
    PrefillProgressChunk,
    RunnerFailed,
    RunnerIdle,
    RunnerLoaded,
    RunnerLoading,
    RunnerReady,
    RunnerRunning,
    RunnerShutdown,
    RunnerShuttingDown,
    RunnerStatus,
    RunnerWarmingUp,
    TokenChunk,
)
from exo_rkllm.cluster.reading import Instance, Task
from exo_rkllm.cluster.replica import Replica
from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.settings import Placement
from exo_rkllm.errors import ExoRkllmError

# Commands have no echo of their own: one whose result does not show is given again.
REPEAT = 5.0

TEXT, IMAGE = "TextGeneration", ("ImageGeneration", "ImageEdits")


# ── what the worker wants done ───────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Runner:
    runner_id: str
    status: RunnerStatus


@dataclass(frozen=True, slots=True)
class Moved:
    task_id: str
    status: Literal["Running", "Complete", "Failed"]


@dataclass(frozen=True, slots=True)
class Say:
    """A chunk for the one who asked."""

    command_id: str
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Report:
    progress: DownloadProgress


@dataclass(frozen=True, slots=True)
class Order:
    command: AddCustomModelCard | CreateInstance | DeleteInstance


@dataclass(frozen=True, slots=True)
class Begin:
    """Put a task into the board's queue."""

    task: Task
    model: str  # its name in the catalogue


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop a task at once; nothing that it has left to say may go out."""

    task_id: str
    command_id: str


@dataclass(frozen=True, slots=True)
class Load:
    model: str


@dataclass(frozen=True, slots=True)
class Introduce:
    """Tell the cluster again who we are."""


@dataclass(frozen=True, slots=True)
class Tell:
    """A line for the operator."""

    level: Literal["info", "warning", "error"]
    sentence: str


Effect: TypeAlias = Runner | Moved | Say | Report | Order | Begin | Halt | Load | Introduce | Tell


# ── what it knows ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Seat:
    """Our side of one instance: its runner, and what was last said of it."""

    instance_id: str
    runner_id: str
    model_id: str
    said: RunnerStatus | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One task in the board's queue. `over` waits for the log to say so too."""

    task: Task
    model_id: str
    phase: Literal["queued", "running", "over"] = "queued"
    thinking: int = 0
    calls: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """A command whose result has not been seen yet."""

    command: AddCustomModelCard | CreateInstance | DeleteInstance
    at: float


@dataclass(frozen=True, slots=True)
class Worker:
    me: str
    name: str
    placement: Placement = "own"
    models: Mapping[str, Servable] = field(default_factory=dict)  # by the cluster's id of the model
    serving: bool = False
    seats: Mapping[str, Seat] = field(default_factory=dict)  # by instance
    jobs: Mapping[str, Job] = field(default_factory=dict)  # by task
    given: tuple[Given, ...] = ()
    reported: frozenset[str] = frozenset()  # models whose files the cluster was told of
    carded: Mapping[str, ModelCard] = field(default_factory=dict)  # as this session was told
    withdrawn: frozenset[str] = frozenset()  # models whose instance somebody deleted: not offered again unasked
    deleting: frozenset[str] = frozenset()  # instances that we delete ourselves
    unsettled: bool = False  # something changed while the replica was known to be behind

    def busy(self, instance_id: str) -> bool:
        return any(job.task.instance_id == instance_id and job.phase == "running" for job in self.jobs.values())


NewId: TypeAlias = Callable[[], str]


@dataclass(slots=True)
class _Turn:
    """One decision in the making."""

    worker: Worker
    replica: Replica
    now: float
    new_id: NewId
    effects: list[Effect] = field(default_factory=list)

    # ── changes to the worker ──

    def change(self, **changes: object) -> None:
        self.worker = replace(self.worker, **changes)  # type: ignore[arg-type]  # the names are checked at run time

    def seat(self, seat: Seat) -> None:
        self.change(seats={**self.worker.seats, seat.instance_id: seat})

    def unseat(self, instance_id: str) -> None:
        self.change(seats={key: seat for key, seat in self.worker.seats.items() if key != instance_id})

    def job(self, job: Job) -> None:
        self.change(jobs={**self.worker.jobs, job.task.id: job})

    def forget(self, task_id: str) -> None:
        self.change(jobs={key: job for key, job in self.worker.jobs.items() if key != task_id})

    # ── what goes out ──

    def order(self, command: AddCustomModelCard | CreateInstance | DeleteInstance) -> None:
        self.change(given=(*self.worker.given, Given(command, self.now)))
        if isinstance(command, DeleteInstance):
            self.change(deleting=self.worker.deleting | {command.instance_id})
        self.effects.append(Order(command))

    def delete(self, instance_id: str) -> None:
        if instance_id not in self.worker.deleting:
            self.order(DeleteInstance(self.new_id(), instance_id))

    def status(self, seat: Seat, status: RunnerStatus) -> Seat:
        """Say it once; a new runner begins idle, and a load that is through passes exo's own steps."""
        if seat.said is None:
            self.effects.append(Runner(seat.runner_id, RunnerIdle()))
            seat = replace(seat, said=RunnerIdle())
            self.seat(seat)
        if status != seat.said:
            if isinstance(seat.said, RunnerLoading) and isinstance(status, RunnerReady | RunnerRunning):
                self.effects.append(Runner(seat.runner_id, RunnerLoaded()))
            if isinstance(status, RunnerWarmingUp):
                self.effects.append(Runner(seat.runner_id, RunnerLoaded()))
            self.effects.append(Runner(seat.runner_id, status))
            seat = replace(seat, said=status)
            self.seat(seat)
        return seat

    # ── cards, downloads, instances of our own ──

    def card_of(self, model: Servable) -> ModelCard:
        return offers.card(model, self.worker.placement, backends(self.worker, self.replica))

    def announce(self, *, first: bool = False) -> None:
        """Make the cluster know our models, and have one instance of each."""
        for model_id, model in self.worker.models.items():
            card = self.card_of(model)
            if self.card_wanted(model_id, card):
                self.change(carded={**self.worker.carded, model_id: card})
                self.order(AddCustomModelCard(self.new_id(), card))
            self.report(model_id, model, again=first)
            self.want_instance(model_id, model, card)

    def report(self, model_id: str, model: Servable, *, again: bool = False) -> None:
        """The model's file is here; said once, and again where the cluster forgot it."""
        if again or model_id not in self.worker.reported:
            self.change(reported=self.worker.reported | {model_id})
            self.effects.append(Report(completed(self.worker.me, model, self.card_of(model))))

    def card_wanted(self, model_id: str, card: ModelCard) -> bool:
        """Boards with the same model and slightly other cards must not take turns in correcting each other."""
        known = self.replica.cards.get(model_id)
        if known is not None and (
            self.worker.carded.get(model_id) == card
            or reading.same(messages.wire(card), known)
            or self.replica.offered_elsewhere(model_id)
        ):
            return False
        return not any(_is_card(given, model_id) for given in self.worker.given)

    def want_instance(self, model_id: str, model: Servable, card: ModelCard) -> None:
        if self.worker.placement != "own" or model_id in self.worker.withdrawn or model.state == "failed":
            return
        if any(instance.model_id == model_id and not self._refused(instance) for instance in self.replica.mine()):
            return
        if any(_creates(given, model_id) for given in self.worker.given):
            return
        self.order(CreateInstance(self.new_id(), offers.instance(card, self.worker.me, self.new_id(), self.new_id())))

    def _refused(self, instance: Instance) -> bool:
        seat = self.worker.seats.get(instance.id)
        return instance.id in self.worker.deleting or (seat is not None and seat.refused)

    # ── bringing the worker to what the cluster says ──

    def settle(self) -> None:
        if not self.worker.serving:
            return
        self.drop_results_seen()
        for gone in [seat for key, seat in self.worker.seats.items() if key not in self.replica.instances]:
            self.leave_instance(gone)
        for instance in list(self.replica.mine()):
            if instance.id not in self.worker.seats and instance.id not in self.worker.deleting:
                self.meet(instance)
        self.drop_doubles()
        self.drop_jobs()
        for task in list(self.replica.tasks.values()):
            seat = self.worker.seats.get(task.instance_id)
            if seat is not None and task.id not in self.worker.jobs:
                self.take(task, seat)
        self.show()

    def drop_results_seen(self) -> None:
        kept = tuple(given for given in self.worker.given if not _done(given, self.replica))
        if kept != self.worker.given:
            self.change(given=kept)
        gone = self.worker.deleting - self.replica.instances.keys()
        if gone:
            pending = {given.command.instance_id for given in kept if isinstance(given.command, DeleteInstance)}
            self.change(deleting=self.worker.deleting - (gone - pending))

    def leave_instance(self, seat: Seat) -> None:
        """It was deleted, by whomever."""
        for job in [job for job in self.worker.jobs.values() if job.task.instance_id == seat.instance_id]:
            self.halt(job)
        self.effects.append(Runner(seat.runner_id, RunnerShuttingDown()))
        self.effects.append(Runner(seat.runner_id, RunnerShutdown()))
        self.unseat(seat.instance_id)

    def withdraw(self, instance_id: str) -> None:
        """Somebody deleted an instance of ours while we were there: that is a wish, not an accident."""
        seat = self.worker.seats.get(instance_id)
        if seat is None or seat.refused or instance_id in self.worker.deleting or self.worker.placement != "own":
            return
        if self.replica.nodes.get(self.worker.me) is None:
            return  # the master took us for dead
        self.change(withdrawn=self.worker.withdrawn | {seat.model_id})
        self.effects.append(
            Tell("info", f"{seat.model_id} was taken out of the exo cluster by a user; it stays out of this session.")
        )

    def meet(self, instance: Instance) -> None:
        runner_id = instance.node_to_runner[self.worker.me]
        problem = objection(self.worker, instance)
        if problem:
            self.effects.append(Runner(runner_id, RunnerFailed(problem)))
            self.effects.append(Tell("warning", f"Refused an instance of {instance.model_id}: {problem}"))
            self.seat(Seat(instance.id, runner_id, instance.model_id, RunnerFailed(problem), refused=True))
            self.delete(instance.id)
            return
        self.seat(Seat(instance.id, runner_id, instance.model_id))
        self.change(withdrawn=self.worker.withdrawn - {instance.model_id})
        model = self.worker.models[instance.model_id]
        self.report(instance.model_id, model)
        if self.worker.placement == "dashboard" and model.state == "cold":
            self.effects.append(Load(model.id))

    def drop_doubles(self) -> None:
        """After two sessions became one there may be two instances of one model; the older one stays."""
        kept: set[str] = set()
        for instance in list(self.replica.mine()):
            seat = self.worker.seats.get(instance.id)
            if seat is None or seat.refused or instance.id in self.worker.deleting:
                continue
            if instance.model_id in kept:
                self.delete(instance.id)
            kept.add(instance.model_id)

    # ── tasks ──

    def take(self, task: Task, seat: Seat) -> None:
        if seat.refused:
            return
        model = self.worker.models[seat.model_id]
        if task.kind in IMAGE:
            # any other kind of chunk for an image request ends the exo node that asked
            self._answer(task, ImageChunk(seat.model_id, f"{seat.model_id} answers with text, not with images."))
        elif task.kind != TEXT:
            self._answer(task, ErrorChunk(seat.model_id, f"{self.worker.name} knows no task {task.kind}."))
        elif task.status == "Running":
            problem = f"{self.worker.name} was restarted or cut off while it answered. Ask again."
            self._answer(task, ErrorChunk(seat.model_id, problem))
        else:
            self.job(Job(task, seat.model_id))
            self.effects.append(Begin(task, model.id))

    def _answer(self, task: Task, chunk: Chunk) -> None:
        self.effects += [Say(task.command_id, chunk), Moved(task.id, "Failed")]
        self.job(Job(task, chunk.model, "over"))

    def drop_jobs(self) -> None:
        for job in [job for key, job in self.worker.jobs.items() if key not in self.replica.tasks]:
            self.halt(job)

    def halt(self, job: Job) -> None:
        if job.phase != "over":
            self.effects.append(Halt(job.task.id, job.task.command_id))
        self.forget(job.task.id)

    def show(self) -> None:
        """Runner statuses follow what the board does."""
        for seat in list(self.worker.seats.values()):
            model = self.worker.models.get(seat.model_id)
            if seat.refused or model is None:
                continue
            self.status(seat, status_of(model, busy=self.worker.busy(seat.instance_id)))

    # ── the engine's side ──

    def started(self, job: Job) -> Job:
        if job.phase != "queued":
            return job
        job = replace(job, phase="running")
        self.job(job)
        self.effects.append(Moved(job.task.id, "Running"))
        self.show()
        return job

    def ended(self, job: Job, chunk: Chunk) -> None:
        job = self.started(job)
        self.effects += [Say(job.task.command_id, chunk), Moved(job.task.id, "Complete")]
        self.job(replace(job, phase="over"))
        self.show()

    def engine(self, task_id: str, event: base.Event | ExoRkllmError) -> None:
        job = self.worker.jobs.get(task_id)
        if job is None or job.phase == "over":
            return
        match event:
            case base.Piece(text=text, token=token, kind=kind):
                job = self.started(job)
                if kind == "tool_call":
                    self.job(replace(job, calls=job.calls + text))
                    return
                if kind == "thinking":
                    self.job(replace(job, thinking=job.thinking + 1))
                if text:
                    chunk = TokenChunk(job.model_id, clean.text(text), token, is_thinking=kind == "thinking")
                    self.effects.append(Say(job.task.command_id, chunk))
            case base.Progress(stage="prefill", done=done, total=total):
                job = self.started(job)
                self.effects.append(Say(job.task.command_id, PrefillProgressChunk(job.model_id, done, total)))
            case base.Finish():
                model = self.worker.models.get(job.model_id)
                self.ended(
                    job,
                    chunks.last(
                        job.model_id,
                        event,
                        calls=job.calls,
                        thinking=job.thinking,
                        memory=model.memory if model else 0,
                    ),
                )
            case ExoRkllmError():
                self.ended(job, ErrorChunk(job.model_id, clean.text(str(event))))

    # ── other wishes ──

    def offered(self, models: Mapping[str, Servable]) -> None:
        """The board's models changed: other ones, or another state of one."""
        before = self.worker.models
        if not self.worker.serving:
            self.change(models=models)
            return
        for model_id in before.keys() - models.keys():
            self.retire(model_id, f"{self.worker.name} does not offer {model_id} any more.")
        self.change(models=models)
        for model_id, model in models.items():
            was = before.get(model_id)
            if model.state == "failed" and (was is None or was.state != "failed"):
                self.retire(model_id, model.problem or f"{model_id} cannot be loaded.", show=model)
        self.announce()
        self.settle()

    def retire(self, model_id: str, problem: str, show: Servable | None = None) -> None:
        for seat in [seat for seat in self.worker.seats.values() if seat.model_id == model_id and not seat.refused]:
            for job in [job for job in self.worker.jobs.values() if job.task.instance_id == seat.instance_id]:
                if job.phase != "over":
                    self.effects.append(Halt(job.task.id, job.task.command_id))
                    self.ended(job, ErrorChunk(model_id, clean.text(problem)))
            self.effects.append(Runner(seat.runner_id, RunnerFailed(clean.text(problem))))
            self.seat(replace(seat, said=RunnerFailed(clean.text(problem)), refused=True))
            self.delete(seat.instance_id)
        if show is None and model_id in self.worker.reported:
            model = self.worker.models[model_id]
            self.change(reported=self.worker.reported - {model_id})
            self.effects.append(Report(pending(self.worker.me, model, self.card_of(model))))

    def asked(self, command: reading.DownloadCommand) -> None:
        """Nobody in the cluster loads files onto this board or deletes them from it."""
        if command.target != self.worker.me:
            return
        model = self.worker.models.get(command.model_id)
        if model is not None:
            self.effects.append(Report(completed(self.worker.me, model, self.card_of(model))))
        elif command.kind == "StartDownload":
            problem = f"{self.worker.name} runs .rkllm models only; add models on the board with: exo-rkllm pull"
            self.effects.append(Report(messages.DownloadFailed(self.worker.me, command.shard, "", problem)))

    def leave(self) -> None:
        problem = f"{self.worker.name} is shutting down."
        for job in list(self.worker.jobs.values()):
            if job.phase != "over":
                self.effects.append(Halt(job.task.id, job.task.command_id))
                self.effects.append(Say(job.task.command_id, ErrorChunk(job.model_id, problem)))
        for seat in self.worker.seats.values():
            self.effects.append(Runner(seat.runner_id, RunnerShuttingDown()))
            self.effects.append(Runner(seat.runner_id, RunnerShutdown()))
            self.delete(seat.instance_id)
        self.change(serving=False, jobs={}, seats={})

    def repeat(self) -> None:
        again = tuple(
            replace(given, at=self.now) if self.now >= given.at + REPEAT else given for given in self.worker.given
        )
        self.effects += [Order(new.command) for old, new in zip(self.worker.given, again, strict=True) if old != new]
        self.change(given=again)


# ── small judgements ─────────────────────────────────────────────────────────────────────────────


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


def _is_card(given: Given, model_id: str) -> bool:
    return isinstance(given.command, AddCustomModelCard) and given.command.model_card.model_id == model_id


def _creates(given: Given, model_id: str) -> bool:
    command = given.command
    return isinstance(command, CreateInstance) and command.instance.shard_assignments.model_id == model_id


def _done(given: Given, replica: Replica) -> bool:
    match given.command:
        case AddCustomModelCard():
            return False  # told by the event, see `_applied`: the card may be another board's a moment later
        case CreateInstance(instance=instance):
            model = instance.shard_assignments.model_id
            return any(one.id == instance.instance_id or one.model_id == model for one in replica.mine())
        case DeleteInstance(instance_id=instance_id):
            return instance_id not in replica.instances


# ── what may happen ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The replica holds all that the log had when we came."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The replica has just taken in this event; `fresh` unless more are known to be missing."""

    event: reading.Event
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class Offered:
    models: Mapping[str, Servable]


@dataclass(frozen=True, slots=True)
class Answered:
    task_id: str
    event: base.Event | ExoRkllmError


@dataclass(frozen=True, slots=True)
class Asked:
    command: reading.DownloadCommand


@dataclass(frozen=True, slots=True)
class Invited:
    """Somebody on this board wants withdrawn models offered again."""


@dataclass(frozen=True, slots=True)
class Ticked:
    pass


@dataclass(frozen=True, slots=True)
class Leaving:
    pass


Happening: TypeAlias = CaughtUp | Applied | Offered | Answered | Asked | Invited | Ticked | Leaving


def decide(
    worker: Worker, happening: Happening, replica: Replica, now: float, new_id: NewId
) -> tuple[Worker, list[Effect]]:
    turn = _Turn(worker, replica, now, new_id)
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


def _applied(turn: _Turn, event: reading.Event, *, fresh: bool) -> None:
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
            turn.change(given=tuple(given for given in turn.worker.given if not _is_card(given, model_id)))
    if not fresh:
        turn.change(unsettled=True)
        return
    turn.settle()
    if turn.worker.unsettled or isinstance(event, reading.InstanceDeleted | reading.NodeTimedOut):
        turn.change(unsettled=False)
        turn.announce()


def busy_jobs(worker: Worker) -> Iterator[Job]:
    """Tasks that the board has in hand."""
    return (job for job in worker.jobs.values() if job.phase != "over")
