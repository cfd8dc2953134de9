"""One decision in the making: the worker as it changes, and the effects as they gather."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from exo_rkllm.backends import base
from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.wire import chunks, clean, messages, reading
from exo_rkllm.cluster.wire.messages import (
    AddCustomModelCard,
    Chunk,
    CreateInstance,
    DeleteInstance,
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
from exo_rkllm.cluster.wire.reading import Instance, Task
from exo_rkllm.cluster.worker import offers
from exo_rkllm.cluster.worker.effects import (
    BeginTask,
    CancelTask,
    Command,
    LoadModel,
    LogLineEffect,
    SendChunk,
    SendCommand,
    SetDownloadProgress,
    SetRunnerStatus,
    SetTaskStatus,
    WorkerEffect,
)
from exo_rkllm.cluster.worker.rules import backends, completed, creates, done, is_card, objection, pending, status_of
from exo_rkllm.cluster.worker.state import LocalInstance, PendingCommand, Worker, WorkerTask
from exo_rkllm.errors import ExoRkllmError

TEXT, IMAGE = "TextGeneration", ("ImageGeneration", "ImageEdits")

NewId: TypeAlias = Callable[[], str]


@dataclass(slots=True)
class Transition:
    """One decision in the making."""

    worker: Worker
    replica: Replica
    now: float
    new_id: NewId
    effects: list[WorkerEffect] = field(default_factory=list)

    # ── changes to the worker ──

    def change(self, **changes: object) -> None:
        self.worker = replace(self.worker, **changes)  # type: ignore[arg-type]  # the names are checked at run time

    def seat(self, seat: LocalInstance) -> None:
        self.change(seats={**self.worker.seats, seat.instance_id: seat})

    def unseat(self, instance_id: str) -> None:
        self.change(seats={key: seat for key, seat in self.worker.seats.items() if key != instance_id})

    def job(self, job: WorkerTask) -> None:
        self.change(jobs={**self.worker.jobs, job.task.id: job})

    def forget(self, task_id: str) -> None:
        self.change(jobs={key: job for key, job in self.worker.jobs.items() if key != task_id})

    # ── what goes out ──

    def order(self, command: Command) -> None:
        self.change(given=(*self.worker.given, PendingCommand(command, self.now)))
        if isinstance(command, DeleteInstance):
            self.change(deleting=self.worker.deleting | {command.instance_id})
        self.effects.append(SendCommand(command))

    def delete(self, instance_id: str) -> None:
        if instance_id not in self.worker.deleting:
            self.order(DeleteInstance(self.new_id(), instance_id))

    def status(self, seat: LocalInstance, status: RunnerStatus) -> LocalInstance:
        """Say it once; a new runner begins idle, and a load that is through passes exo's own steps."""
        if seat.said is None:
            self.effects.append(SetRunnerStatus(seat.runner_id, RunnerIdle()))
            seat = replace(seat, said=RunnerIdle())
            self.seat(seat)
        if status != seat.said:
            if isinstance(seat.said, RunnerLoading) and isinstance(status, RunnerReady | RunnerRunning):
                self.effects.append(SetRunnerStatus(seat.runner_id, RunnerLoaded()))
            if isinstance(status, RunnerWarmingUp):
                self.effects.append(SetRunnerStatus(seat.runner_id, RunnerLoaded()))
            self.effects.append(SetRunnerStatus(seat.runner_id, status))
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
            self.effects.append(SetDownloadProgress(completed(self.worker.me, model, self.card_of(model))))

    def card_wanted(self, model_id: str, card: ModelCard) -> bool:
        """Boards with the same model and slightly other cards must not take turns in correcting each other."""
        known = self.replica.cards.get(model_id)
        if known is not None and (
            self.worker.carded.get(model_id) == card
            or reading.same(messages.wire(card), known)
            or self.replica.offered_elsewhere(model_id)
        ):
            return False
        return not any(is_card(given, model_id) for given in self.worker.given)

    def want_instance(self, model_id: str, model: Servable, card: ModelCard) -> None:
        if self.worker.placement != "own" or model_id in self.worker.withdrawn or model.state == "failed":
            return
        if any(instance.model_id == model_id and not self._refused(instance) for instance in self.replica.mine()):
            return
        if any(creates(given, model_id) for given in self.worker.given):
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
        kept = tuple(given for given in self.worker.given if not done(given, self.replica))
        if kept != self.worker.given:
            self.change(given=kept)
        gone = self.worker.deleting - self.replica.instances.keys()
        if gone:
            pending = {given.command.instance_id for given in kept if isinstance(given.command, DeleteInstance)}
            self.change(deleting=self.worker.deleting - (gone - pending))

    def leave_instance(self, seat: LocalInstance) -> None:
        """It was deleted, by whomever."""
        for job in [job for job in self.worker.jobs.values() if job.task.instance_id == seat.instance_id]:
            self.halt(job)
        self.effects.append(SetRunnerStatus(seat.runner_id, RunnerShuttingDown()))
        self.effects.append(SetRunnerStatus(seat.runner_id, RunnerShutdown()))
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
            LogLineEffect(
                "info", f"{seat.model_id} was taken out of the exo cluster by a user; it stays out of this session."
            )
        )

    def meet(self, instance: Instance) -> None:
        runner_id = instance.node_to_runner[self.worker.me]
        problem = objection(self.worker, instance)
        if problem:
            self.effects.append(SetRunnerStatus(runner_id, RunnerFailed(problem)))
            self.effects.append(LogLineEffect("warning", f"Refused an instance of {instance.model_id}: {problem}"))
            self.seat(LocalInstance(instance.id, runner_id, instance.model_id, RunnerFailed(problem), refused=True))
            self.delete(instance.id)
            return
        self.seat(LocalInstance(instance.id, runner_id, instance.model_id))
        self.change(withdrawn=self.worker.withdrawn - {instance.model_id})
        model = self.worker.models[instance.model_id]
        self.report(instance.model_id, model)
        if self.worker.placement == "dashboard" and model.state == "cold":
            self.effects.append(LoadModel(model.id))

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

    def take(self, task: Task, seat: LocalInstance) -> None:
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
            self.job(WorkerTask(task, seat.model_id))
            self.effects.append(BeginTask(task, model.id))

    def _answer(self, task: Task, chunk: Chunk) -> None:
        self.effects += [SendChunk(task.command_id, chunk), SetTaskStatus(task.id, "Failed")]
        self.job(WorkerTask(task, chunk.model, "over"))

    def drop_jobs(self) -> None:
        for job in [job for key, job in self.worker.jobs.items() if key not in self.replica.tasks]:
            self.halt(job)

    def halt(self, job: WorkerTask) -> None:
        if job.phase != "over":
            self.effects.append(CancelTask(job.task.id, job.task.command_id))
        self.forget(job.task.id)

    def show(self) -> None:
        """Runner statuses follow what the board does."""
        for seat in list(self.worker.seats.values()):
            model = self.worker.models.get(seat.model_id)
            if seat.refused or model is None:
                continue
            self.status(seat, status_of(model, busy=self.worker.busy(seat.instance_id)))

    # ── the engine's side ──

    def started(self, job: WorkerTask) -> WorkerTask:
        if job.phase != "queued":
            return job
        job = replace(job, phase="running")
        self.job(job)
        self.effects.append(SetTaskStatus(job.task.id, "Running"))
        self.show()
        return job

    def ended(self, job: WorkerTask, chunk: Chunk) -> None:
        job = self.started(job)
        self.effects += [SendChunk(job.task.command_id, chunk), SetTaskStatus(job.task.id, "Complete")]
        self.job(replace(job, phase="over"))
        self.show()

    def engine(self, task_id: str, event: base.GenerationEvent | ExoRkllmError) -> None:
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
                    self.effects.append(SendChunk(job.task.command_id, chunk))
            case base.Progress(stage="prefill", done=done, total=total):
                job = self.started(job)
                self.effects.append(SendChunk(job.task.command_id, PrefillProgressChunk(job.model_id, done, total)))
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
            for job in [job for job in self.worker.busy_jobs() if job.task.instance_id == seat.instance_id]:
                self.effects.append(CancelTask(job.task.id, job.task.command_id))
                self.ended(job, ErrorChunk(model_id, clean.text(problem)))
            self.effects.append(SetRunnerStatus(seat.runner_id, RunnerFailed(clean.text(problem))))
            self.seat(replace(seat, said=RunnerFailed(clean.text(problem)), refused=True))
            self.delete(seat.instance_id)
        if show is None and model_id in self.worker.reported:
            model = self.worker.models[model_id]
            self.change(reported=self.worker.reported - {model_id})
            self.effects.append(SetDownloadProgress(pending(self.worker.me, model, self.card_of(model))))

    def asked(self, command: reading.DownloadCommand) -> None:
        """Nobody in the cluster loads files onto this board or deletes them from it."""
        if command.target != self.worker.me:
            return
        model = self.worker.models.get(command.model_id)
        if model is not None:
            self.effects.append(SetDownloadProgress(completed(self.worker.me, model, self.card_of(model))))
        elif command.kind == "StartDownload":
            problem = f"{self.worker.name} runs .rkllm models only; add models on the board with: exo-rkllm pull"
            self.effects.append(
                SetDownloadProgress(messages.DownloadFailed(self.worker.me, command.shard, "", problem))
            )

    def leave(self) -> None:
        problem = f"{self.worker.name} is shutting down."
        for job in self.worker.busy_jobs():
            self.effects.append(CancelTask(job.task.id, job.task.command_id))
            self.effects.append(SendChunk(job.task.command_id, ErrorChunk(job.model_id, problem)))
        for seat in self.worker.seats.values():
            self.effects.append(SetRunnerStatus(seat.runner_id, RunnerShuttingDown()))
            self.effects.append(SetRunnerStatus(seat.runner_id, RunnerShutdown()))
            self.delete(seat.instance_id)
        self.change(serving=False, jobs={}, seats={})

    def repeat(self) -> None:
        again = tuple(replace(given, at=self.now) if self.now >= given.due else given for given in self.worker.given)
        self.effects += [
            SendCommand(new.command) for old, new in zip(self.worker.given, again, strict=True) if old != new
        ]
        self.change(given=again)
