"""The part of the cluster's state that this node needs, bounded by the cluster's size and never by the log's length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from exo_rkllm.cluster.wire.events import (
    ClusterState,
    CustomModelCardAdded,
    CustomModelCardDeleted,
    Event,
    Instance,
    InstanceCreated,
    InstanceDeleted,
    NodeFacts,
    NodeGatheredInfo,
    NodeTimedOut,
    Raw,
    RunnerStatusUpdated,
    Task,
    TaskCreated,
    TaskDeleted,
    TaskStatusUpdated,
)

IN_FLIGHT = ("Pending", "Running")


class Replica:
    """exo never forgets runners and cancelled tasks; what cannot matter again is dropped here."""

    def __init__(self, me: str) -> None:
        self.me = me
        self.instances: dict[str, Instance] = {}
        self.runners: dict[str, str] = {}  # status by runner
        self.tasks: dict[str, Task] = {}  # requests in flight only; those of other nodes without their parameters
        self.nodes: dict[str, NodeFacts] = {}
        self.cards: dict[str, Raw] = {}

    def load(self, state: ClusterState) -> None:
        """Start from a snapshot."""
        self.instances = {instance.id: instance for instance in state.instances}
        ours = {runner for instance in state.instances for runner in instance.runners}
        self.runners = {one.runner_id: one.status for one in state.runners if one.runner_id in ours}
        self.tasks = {}
        for task in state.tasks:
            self._task(task)
        self.nodes = dict(state.nodes)
        self.cards = dict(state.cards)

    def apply(self, event: Event) -> None:
        match event:
            case NodeGatheredInfo(node, facts):
                self._gathered(node, facts)
            case TaskCreated(task):
                self._task(task)
            case TaskStatusUpdated(task_id, status):
                self._task_status(task_id, status)
            case TaskDeleted(task_id):
                self.tasks.pop(task_id, None)
            case RunnerStatusUpdated(runner_id, status):
                self._runner(runner_id, status)
            case InstanceCreated(instance):
                self.instances[instance.id] = instance
            case InstanceDeleted(instance_id):
                self._delete(instance_id)
            case NodeTimedOut(node):
                self.nodes.pop(node, None)
            case CustomModelCardAdded(model, card):
                self.cards[model] = card
            case CustomModelCardDeleted(model):
                self.cards.pop(model, None)

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """IP addresses of nodes as they tell of themselves in the log."""
        return {node: facts.addresses for node, facts in self.nodes.items() if facts.addresses}

    def mine(self) -> Iterator[Instance]:
        """Instances that have anything to do with this node, oldest first."""
        return (instance for instance in self.instances.values() if self.me in instance.node_to_runner)

    def name(self, node: str) -> str:
        """What people call it, else its id."""
        facts = self.nodes.get(node)
        return (facts.name if facts else None) or node

    def waiting(self, instance_id: str) -> Iterator[Task]:
        return (task for task in self.tasks.values() if task.instance_id == instance_id)

    def offered_elsewhere(self, model_id: str) -> bool:
        """Whether another node serves the same model, so that its card is not ours alone to change."""
        return any(
            instance.model_id == model_id and self.me not in instance.node_to_runner
            for instance in self.instances.values()
        )

    def _gathered(self, node: str, facts: NodeFacts) -> None:
        known = self.nodes.get(node)
        if known is None:
            self.nodes[node] = facts
        elif facts != NodeFacts():
            news = {name: value for name in NodeFacts.__slots__ if (value := getattr(facts, name)) is not None}
            self.nodes[node] = replace(known, **news)

    def _task(self, task: Task) -> None:
        if task.status not in IN_FLIGHT or not task.command_id:
            self.tasks.pop(task.id, None)
            return
        instance = self.instances.get(task.instance_id)
        if instance is None:
            return  # an instance that is gone: exo keeps such tasks for the rest of the session
        self.tasks[task.id] = task if self.me in instance.node_to_runner else replace(task, params={})

    def _task_status(self, task_id: str, status: str) -> None:
        task = self.tasks.get(task_id)
        if task is None:
            return
        if status in IN_FLIGHT:
            self.tasks[task_id] = replace(task, status=status)
        else:
            del self.tasks[task_id]

    def _runner(self, runner_id: str, status: str) -> None:
        if status == "RunnerShutdown":
            self.runners.pop(runner_id, None)
        elif any(runner_id in instance.runners for instance in self.instances.values()):
            self.runners[runner_id] = status

    def _delete(self, instance_id: str) -> None:
        instance = self.instances.pop(instance_id, None)
        if instance is None:
            return
        for runner in instance.runners:
            self.runners.pop(runner, None)
        for task in [task.id for task in self.waiting(instance_id)]:
            del self.tasks[task]
