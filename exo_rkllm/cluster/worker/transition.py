"""One decision of the worker in the making: the worker as it changes, and the effects as they gather."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from exo_rkllm.backends import base
from exo_rkllm.cluster.effects import (
    BeginTaskEffect,
    CancelTaskEffect,
    ClusterEffect,
    LoadModelEffect,
    LogEffect,
    PublishCommandEffect,
    chunk_generated,
    download_progress,
    runner_status,
    task_status,
)
from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.wire import chunks, clean
from exo_rkllm.cluster.wire.decoding import covers
from exo_rkllm.cluster.wire.events import DownloadCommand, Instance, Raw, Tagged, Task, tag_of
from exo_rkllm.cluster.worker import offers
from exo_rkllm.cluster.worker.failures import failure_chunk
from exo_rkllm.cluster.worker.state import LocalInstance, PendingCommand, Worker, WorkerTask
from exo_rkllm.errors import ExoRkllmError

TEXT, IMAGE = "TextGeneration", ("ImageGeneration", "ImageEdits")

NewId: TypeAlias = Callable[[], str]


@dataclass(slots=True)
class Transition:
    worker: Worker
    replica: Replica
    now: float
    new_id: NewId
    effects: list[ClusterEffect] = field(default_factory=list)

    # ── changes to the worker ──

    def change(self, **changes: object) -> None:
        self.worker = replace(self.worker, **changes)  # type: ignore[arg-type]  # the names are checked at run time

    def put_instance(self, local: LocalInstance) -> None:
        self.change(instances={**self.worker.instances, local.instance_id: local})

    def put_task(self, task: WorkerTask) -> None:
        self.change(tasks={**self.worker.tasks, task.task.id: task})

    # ── what goes out ──

    def command(self, tag: str, subject: str, **fields: object) -> None:
        """Give a command, and again until its result shows; see `settle_commands`."""
        effect = PublishCommandEffect(tag, fields)
        self.change(pending=(*self.worker.pending, PendingCommand(effect, subject, self.now)))
        self.effects.append(effect)

    def withdraw_commands(self, *tags: str, subject: str) -> None:
        """Do not repeat these commands about a model any more: the opposite is wanted now."""
        pending = (one for one in self.worker.pending if not any(one.concerns(tag, subject) for tag in tags))
        self.change(pending=tuple(pending))

    def delete_instance(self, instance_id: str) -> None:
        if instance_id not in self.worker.deleting:
            self.change(deleting=self.worker.deleting | {instance_id})
            self.command("DeleteInstance", instance_id, instance_id=instance_id)

    def publish_status(self, local: LocalInstance, status: Tagged) -> None:
        """Publish a runner's status unless it stands; a new runner begins idle, and a load passes exo's own steps."""
        steps: list[Tagged] = []
        before = local.status
        if before is None:
            before = {"RunnerIdle": {}}
            steps.append(before)
        if status != before:
            loaded = "RunnerLoading" in before and tag_of(status) in ("RunnerReady", "RunnerRunning")
            if loaded or "RunnerWarmingUp" in status:
                steps.append({"RunnerLoaded": {}})
            steps.append(status)
        if steps:
            self.effects += [runner_status(local.runner_id, step) for step in steps]
            self.put_instance(replace(local, status=status))

    def end_runner(self, local: LocalInstance) -> None:
        self.effects += [runner_status(local.runner_id, {tag: {}}) for tag in ("RunnerShuttingDown", "RunnerShutdown")]

    def fail_runner(self, local: LocalInstance, problem: str) -> None:
        """exo's API looks only whether an instance exists, so a failed one is deleted as well."""
        status = offers.runner_failed(problem)
        self.effects.append(runner_status(local.runner_id, status))
        self.put_instance(replace(local, status=status, refused=True))

    # ── cards, files, instances of our own ──

    def backends(self) -> tuple[str, ...]:
        others = (facts for node, facts in self.replica.nodes.items() if node != self.worker.me)
        return offers.backends(self.worker.placement, others)

    def card_of(self, model: Servable) -> Raw:
        return offers.card(model, self.worker.placement, self.backends())

    def announce(self, *, first: bool = False) -> None:
        """Make the cluster know our models, and have one instance of each."""
        for model_id, model in self.worker.offered():
            card = self.card_of(model)
            if self.needs_card(model_id, card):
                self.change(cards={**self.worker.cards, model_id: card})
                self.withdraw_commands("DeleteCustomModelCard", subject=model_id)
                self.command("AddCustomModelCard", model_id, model_card=card)
            self.announce_files(model_id, model, again=first)
            if self.needs_instance(model_id):
                instance = offers.instance(card, self.worker.me, self.new_id(), self.new_id())
                self.command("CreateInstance", model_id, instance=instance)

    def announce_files(self, model_id: str, model: Servable, *, again: bool = False) -> None:
        """The model's file is here: published once, and again where the cluster forgot it."""
        if again or model_id not in self.worker.announced:
            self.change(announced=self.worker.announced | {model_id})
            self.effects.append(download_progress(self.download_of(model)))

    def download_of(self, model: Servable) -> Tagged:
        return offers.download_completed(self.worker.me, model, self.card_of(model))

    def needs_card(self, model_id: str, card: Raw) -> bool:
        """Boards with the same model and slightly other cards must not take turns in correcting each other."""
        known = None if self.is_pending("DeleteCustomModelCard", model_id) else self.replica.cards.get(model_id)
        if known is not None and (
            self.worker.cards.get(model_id) == card or covers(known, card) or self.replica.offered_elsewhere(model_id)
        ):
            return False
        return not self.is_pending("AddCustomModelCard", model_id)

    def needs_instance(self, model_id: str) -> bool:
        if self.worker.placement != "own" or model_id in self.worker.withdrawn:
            return False
        if any(one.model_id == model_id and not self.is_unwanted(one.id) for one in self.replica.mine()):
            return False
        return not self.is_pending("CreateInstance", model_id)

    def is_pending(self, tag: str, subject: str) -> bool:
        return any(pending.concerns(tag, subject) for pending in self.worker.pending)

    def is_unwanted(self, instance_id: str) -> bool:
        local = self.worker.instances.get(instance_id)
        return instance_id in self.worker.deleting or (local is not None and local.refused)

    # ── bringing the worker to what the cluster says ──

    def settle(self) -> None:
        """Bring what this board does in line with the replica."""
        if not self.worker.serving:
            return
        self.settle_commands()
        for local in [one for key, one in self.worker.instances.items() if key not in self.replica.instances]:
            self.drop_instance(local)
        for instance in list(self.replica.mine()):
            if instance.id not in self.worker.instances and instance.id not in self.worker.deleting:
                self.take_instance(instance)
        self.delete_doubles()
        for task in [task for key, task in self.worker.tasks.items() if key not in self.replica.tasks]:
            self.drop_task(task)
        for new in list(self.replica.tasks.values()):
            instance_of_task = self.worker.instances.get(new.instance_id)
            if instance_of_task is not None and new.id not in self.worker.tasks:
                self.take_task(new, instance_of_task)
        self.delete_retired()
        self.publish_statuses()

    def settle_commands(self) -> None:
        """Forget commands whose result shows; cards show by their event only, since others may change them at once."""
        models = {instance.model_id for instance in self.replica.mine()}
        pending = tuple(
            command
            for command in self.worker.pending
            if not (command.effect.tag == "CreateInstance" and command.subject in models)
            and not (command.effect.tag == "DeleteInstance" and command.subject not in self.replica.instances)
            and not (command.effect.tag == "DeleteCustomModelCard" and command.subject not in self.replica.cards)
        )
        self.change(pending=pending, deleting=self.worker.deleting & self.replica.instances.keys())

    def take_instance(self, instance: Instance) -> None:
        """An instance was placed on us: serve it, or refuse it and have it deleted."""
        local = LocalInstance(instance.id, instance.node_to_runner[self.worker.me], instance.model_id)
        problem = self.objection(instance)
        if problem:
            self.fail_runner(local, problem)
            self.effects.append(LogEffect("warning", f"Refused an instance of {instance.model_id}: {problem}"))
            self.delete_instance(instance.id)
            return
        self.put_instance(local)
        self.change(withdrawn=self.worker.withdrawn - {instance.model_id})
        model = self.worker.models[instance.model_id]
        self.announce_files(instance.model_id, model)
        if self.worker.placement == "dashboard" and model.state == "cold":
            self.effects.append(LoadModelEffect(model.id))

    def objection(self, instance: Instance) -> str:
        """Why this instance is not for us; empty if it is."""
        if len(instance.runners) > 1 or len(instance.node_to_runner) > 1:
            return f"{self.worker.name} takes whole models only, no share of one."
        model = self.worker.models.get(instance.model_id)
        if model is None:
            return f"{self.worker.name} runs its own .rkllm models only, and {instance.model_id} is none of them."
        return clean.text(model.problem) or f"{instance.model_id} cannot be loaded." if model.state == "failed" else ""

    def drop_instance(self, local: LocalInstance) -> None:
        """An instance of ours was deleted, by whomever."""
        for task in [one for one in self.worker.tasks.values() if one.task.instance_id == local.instance_id]:
            self.drop_task(task)
        self.end_runner(local)
        instances = {key: one for key, one in self.worker.instances.items() if key != local.instance_id}
        self.change(instances=instances)

    def withdraw(self, instance_id: str) -> None:
        """Somebody deleted an instance of ours while we were there: that is a wish, not an accident."""
        local = self.worker.instances.get(instance_id)
        if local is None or self.is_unwanted(instance_id) or self.worker.placement != "own":
            return
        if self.replica.nodes.get(self.worker.me) is None:
            return  # the master took us for dead
        self.change(withdrawn=self.worker.withdrawn | {local.model_id})
        sentence = f"{local.model_id} was taken out of the exo cluster by a user; it stays out of this session."
        self.effects.append(LogEffect("info", sentence))

    def delete_retired(self) -> None:
        """Delete instances of models that are offered no more, once the log has the end of their tasks: a command may
        overtake events, and exo ends the streams of a deleted instance without a word."""
        for local in self.worker.instances.values():
            if local.problem and not self.worker.lingers(local.instance_id, self.replica.tasks):
                self.delete_instance(local.instance_id)

    def delete_doubles(self) -> None:
        """After two sessions became one there may be two instances of one model; the older one stays."""
        models: set[str] = set()
        for instance in list(self.replica.mine()):
            if instance.id not in self.worker.instances or self.is_unwanted(instance.id):
                continue
            if instance.model_id in models:
                self.delete_instance(instance.id)
            models.add(instance.model_id)

    # ── tasks ──

    def take_task(self, task: Task, local: LocalInstance) -> None:
        if local.refused and not local.problem:
            return  # an instance that was never ours
        if local.problem and task.kind == TEXT:
            self.refuse_task(task, local, failure_chunk(self.worker, WorkerTask(task, local.model_id), local.problem))
        elif task.kind in IMAGE:
            problem = f"{local.model_id} answers with text, not with images."
            self.refuse_task(task, local, chunks.image_error(local.model_id, problem))
        elif task.kind != TEXT:
            problem = f"{self.worker.name} knows no task {task.kind}."
            self.refuse_task(task, local, failure_chunk(self.worker, WorkerTask(task, local.model_id), problem))
        elif task.status == "Running":
            problem = f"{self.worker.name} was restarted or cut off while it answered. Ask again."
            former = WorkerTask(task, local.model_id, spoke=True)
            self.refuse_task(task, local, failure_chunk(self.worker, former, problem))
        else:
            self.put_task(WorkerTask(task, local.model_id))
            self.effects.append(BeginTaskEffect(task, self.worker.models[local.model_id].id))

    def refuse_task(self, task: Task, local: LocalInstance, chunk: Tagged) -> None:
        self.effects += [chunk_generated(task.command_id, chunk), task_status(task.id, "Failed")]
        self.put_task(WorkerTask(task, local.model_id, "over"))

    def drop_task(self, task: WorkerTask) -> None:
        """Nobody waits for it any more."""
        if task.phase != "over":
            self.effects.append(CancelTaskEffect(task.task.id, task.task.command_id))
        self.change(tasks={key: one for key, one in self.worker.tasks.items() if key != task.task.id})

    def publish_statuses(self) -> None:
        """Runner statuses follow what the board does."""
        for local in list(self.worker.instances.values()):
            model = self.worker.models.get(local.model_id)
            if model is not None and not local.refused:
                self.publish_status(local, offers.runner_status(model, busy=self.worker.busy(local.instance_id)))

    # ── the engine's side ──

    def start_task(self, task: WorkerTask) -> WorkerTask:
        if task.phase != "queued":
            return task
        task = replace(task, phase="running")
        self.put_task(task)
        self.effects.append(task_status(task.task.id, "Running"))
        self.publish_statuses()
        return task

    def end_task(self, task: WorkerTask, chunk: Tagged) -> None:
        task = self.start_task(task)
        self.effects += [chunk_generated(task.task.command_id, chunk), task_status(task.task.id, "Complete")]
        self.put_task(replace(task, phase="over"))
        self.publish_statuses()

    def take_answer(self, task_id: str, event: base.GenerationEvent | ExoRkllmError) -> None:
        """What the board's engine says on a task."""
        task = self.worker.tasks.get(task_id)
        if task is None or task.phase == "over":
            return
        command_id, model_id = task.task.command_id, task.model_id
        match event:
            case base.Piece(text=text, token=token, kind=kind):
                task = self.start_task(task)
                if kind == "tool_call":
                    self.put_task(replace(task, tool_calls=task.tool_calls + text))
                    return
                if kind == "thinking":
                    self.put_task(replace(task, thinking_tokens=task.thinking_tokens + 1))
                if text:
                    if not task.spoke:
                        self.put_task(replace(self.worker.tasks[task_id], spoke=True))
                    chunk = chunks.token(model_id, text, token, thinking=kind == "thinking")
                    self.effects.append(chunk_generated(command_id, chunk))
            case base.Progress(stage="prefill", done=done, total=total):
                self.start_task(task)
                self.effects.append(chunk_generated(command_id, chunks.prefill_progress(model_id, done, total)))
            case base.Finish(reason="abort"):
                self.end_task(task, failure_chunk(self.worker, task, "The board stopped this answer before its end."))
            case base.Finish():
                memory = model.memory if (model := self.worker.models.get(model_id)) else 0
                calls, thinking = task.tool_calls, task.thinking_tokens
                self.end_task(task, chunks.last(model_id, event, calls=calls, thinking=thinking, memory=memory))
            case ExoRkllmError():
                self.end_task(task, failure_chunk(self.worker, task, str(event)))

    # ── the board's models, downloads, the end ──

    def change_models(self, models: Mapping[str, Servable]) -> None:
        """The board has other models, or one of them is in another state."""
        before = self.worker.models
        if not self.worker.serving:
            self.change(models=models)
            return
        for model_id in before.keys() - models.keys():
            self.retire(model_id, before[model_id], f"{self.worker.name} does not offer {model_id} any more.")
        self.change(models=models)
        for model_id, model in models.items():
            previous = before.get(model_id)
            if model.state == "failed" and (previous is None or previous.state != "failed"):
                self.retire(model_id, model, model.problem or f"{model_id} cannot be loaded.")
        self.announce()
        self.settle()

    def retire(self, model_id: str, model: Servable, problem: str) -> None:
        """Offer the model no more: fail its tasks and runners, have its instances deleted, and take its card back."""
        for local in [one for one in self.worker.instances.values() if one.model_id == model_id and not one.refused]:
            for task in list(self.worker.active_tasks(local.instance_id)):
                self.effects.append(CancelTaskEffect(task.task.id, task.task.command_id))
                self.end_task(task, failure_chunk(self.worker, task, problem))
            self.fail_runner(replace(local, problem=problem), problem)
        self.delete_retired()
        if model_id in self.worker.announced:
            self.change(announced=self.worker.announced - {model_id})
            pending = offers.download_pending(self.worker.me, model, self.card_of(model))
            self.effects.append(download_progress(pending))
        self.withdraw_commands("AddCustomModelCard", "CreateInstance", subject=model_id)
        ours = model_id in self.worker.cards or model_id in self.replica.cards
        if ours and not self.replica.offered_elsewhere(model_id):
            self.change(cards={key: card for key, card in self.worker.cards.items() if key != model_id})
            self.command("DeleteCustomModelCard", model_id, model_id=model_id)

    def answer_download(self, command: DownloadCommand) -> None:
        """Nobody in the cluster loads files onto this board or deletes them from it."""
        if command.target != self.worker.me:
            return
        model = self.worker.models.get(command.model_id)
        if model is not None:
            self.effects.append(download_progress(self.download_of(model)))
        elif command.kind == "StartDownload":
            problem = f"{self.worker.name} runs .rkllm models only; add models on the board with: exo-rkllm pull"
            self.effects.append(download_progress(offers.download_failed(self.worker.me, command.shard, problem)))

    def leave(self) -> None:
        problem = f"{self.worker.name} is shutting down."
        for task in self.worker.active_tasks():
            self.effects.append(CancelTaskEffect(task.task.id, task.task.command_id))
            self.effects.append(chunk_generated(task.task.command_id, failure_chunk(self.worker, task, problem)))
        for local in self.worker.instances.values():
            self.end_runner(local)
            self.delete_instance(local.instance_id)
        self.change(serving=False, tasks={}, instances={})

    def repeat_commands(self) -> None:
        due = [pending for pending in self.worker.pending if self.now >= pending.due]
        if not due:
            return
        self.effects += [pending.effect for pending in due]
        again = (replace(pending, at=self.now) if pending in due else pending for pending in self.worker.pending)
        self.change(pending=tuple(again))
