"""The master of one session: orders events, carries out commands, forgets nodes. Returns what it wants published."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone

from tests.exo_cluster.standin.placement import NoPlacement, place
from tests.exo_cluster.standin.state import Json, State, unwrap

PAGE = 1000


class Poisoned(Exception):
    """What ends an exo process."""


def new_id() -> str:
    return str(uuid.uuid4())


def event(kind: str, **fields: Json) -> Json:
    return {kind: {"event_id": new_id(), **fields}}


class Master:
    """`publish` takes (index, event) for everybody, `order` a download command for one node."""

    def __init__(
        self,
        publish: Callable[[int, Json], None],
        order: Callable[[Json], None],
        *,
        patience: float = 30.0,
    ) -> None:
        self.state = State()
        self.log: list[Json] = []
        self._publish = publish
        self._order = order
        self._patience = timedelta(seconds=patience)
        self._next: dict[str, int] = {}
        self._waiting: dict[str, dict[int, Json]] = {}
        self._task_of: dict[str, str] = {}
        self._origin = new_id()
        self._own = 0

    # ── events ──

    def receive(self, origin: str, index: int, what: Json) -> None:
        """Release each origin's events in the order of their indices, and no two with the same one."""
        expected = self._next.get(origin, 0)
        waiting = self._waiting.setdefault(origin, {})
        if index < expected:
            return
        if index in waiting and waiting[index] != what:
            raise Poisoned("Received different messages with identical indices")
        waiting[index] = what
        while expected in waiting:
            self._index(waiting.pop(expected))
            expected += 1
        self._next[origin] = expected

    def tell(self, what: Json) -> None:
        """An event of the master's own."""
        self.receive(self._origin, self._own, what)
        self._own += 1

    def _index(self, what: Json) -> None:
        kind, body = unwrap(what)
        if kind == "NodeGatheredInfo":
            what = {kind: {**body, "when": str(datetime.now(timezone.utc))}}
        index = len(self.log)
        self.state.apply(index, what)
        self.log.append(what)
        self._publish(index, what)

    # ── commands; one that fails is dropped without a word ──

    def command(self, what: Json) -> None:
        kind, body = unwrap(what)
        getattr(self, f"_{kind}", lambda _: None)(body)

    def _RequestEventLog(self, body: Json) -> None:  # noqa: N802  named as the command
        start = body["since_idx"]
        for index in range(start, min(start + PAGE, len(self.log))):
            self._publish(index, self.log[index])

    def _TextGeneration(self, body: Json) -> None:  # noqa: N802
        self._task("TextGeneration", body, {**body["task_params"], "prefill_endpoint": None})

    def _ImageGeneration(self, body: Json) -> None:  # noqa: N802
        self._task("ImageGeneration", body, body["task_params"])

    def _task(self, kind: str, body: Json, params: Json) -> None:
        instances = self.state.instances_of(params["model"])
        if not instances:
            return
        task_id = new_id()
        self._task_of[body["command_id"]] = task_id
        task = {
            "task_id": task_id,
            "task_status": "Pending",
            "instance_id": instances[0],
            "command_id": body["command_id"],
            "task_params": params,
            "error_type": None,
            "error_message": None,
        }
        self.tell(event("TaskCreated", task_id=task_id, task={kind: task}))

    def _TaskCancelled(self, body: Json) -> None:  # noqa: N802
        task = self._task_of.get(body["cancelled_command_id"])
        if task is not None:
            self.tell(event("TaskStatusUpdated", task_id=task, task_status="Cancelled"))

    def _TaskFinished(self, body: Json) -> None:  # noqa: N802
        task = self._task_of.pop(body["finished_command_id"], None)
        if task is not None:
            self.tell(event("TaskDeleted", task_id=task))

    def _CreateInstance(self, body: Json) -> None:  # noqa: N802
        if unwrap(body["instance"])[1]["instance_id"] not in self.state.instances:
            self.tell(event("InstanceCreated", instance=body["instance"]))

    def _DeleteInstance(self, body: Json) -> None:  # noqa: N802
        instance = body["instance_id"]
        if instance not in self.state.instances:
            return
        for task_id, task in list(self.state.tasks.items()):
            fields = unwrap(task)[1]
            if fields["instance_id"] == instance and fields["task_status"] in ("Pending", "Running"):
                self.tell(event("TaskStatusUpdated", task_id=task_id, task_status="Cancelled"))
        self.tell(event("InstanceDeleted", instance_id=instance))

    def _PlaceInstance(self, body: Json) -> None:  # noqa: N802
        wanted = {"min_nodes": body["min_nodes"], "sharding": body["sharding"], "meta": body["instance_meta"]}
        with suppress(NoPlacement):
            nodes = place(self.state, body["model_card"], **wanted)
            self.tell(event("InstanceCreated", instance=ring(body["model_card"], list(nodes))))

    def _AddCustomModelCard(self, body: Json) -> None:  # noqa: N802
        self.tell(event("CustomModelCardAdded", model_card=body["model_card"]))

    def _DeleteCustomModelCard(self, body: Json) -> None:  # noqa: N802
        self.tell(event("CustomModelCardDeleted", model_id=body["model_id"]))

    def _SendInputChunk(self, body: Json) -> None:  # noqa: N802
        chunk = body["chunk"]
        self.tell(event("InputChunkReceived", command_id=unwrap(chunk)[1]["command_id"], chunk=chunk))

    # ── the plan, every ten seconds ──

    def plan(self) -> None:
        for instance, value in list(self.state.instances.items()):
            nodes = unwrap(value)[1]["shard_assignments"]["node_to_runner"]
            if any(node not in self.state.topology for node in nodes):
                self.tell(event("InstanceDeleted", instance_id=instance))
        now = datetime.now(timezone.utc)
        for node, seen in list(self.state.last_seen.items()):
            if now - datetime.fromisoformat(seen) > self._patience:
                self.tell(event("NodeTimedOut", node_id=node))


def ring(card: Json, nodes: list[str]) -> Json:
    """An instance of a whole model on each of the nodes' share of layers."""
    runners = {node: new_id() for node in nodes}
    shards = {
        runner: {
            "PipelineShardMetadata": {
                "model_card": card,
                "device_rank": rank,
                "world_size": len(nodes),
                "immediate_exception": False,
                "should_timeout": None,
                "start_layer": 0,
                "end_layer": card["n_layers"],
                "n_layers": card["n_layers"],
            }
        }
        for rank, runner in enumerate(runners.values())
    }
    return {
        "MlxRingInstance": {
            "instance_id": new_id(),
            "shard_assignments": {
                "model_id": card["model_id"],
                "runner_to_shard": shards,
                "node_to_runner": runners,
            },
            "hosts_by_node": {node: [{"ip": "0.0.0.0", "port": 0}] for node in nodes},
            "ephemeral_port": 0,
        }
    }
