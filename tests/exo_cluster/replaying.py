"""Plays a captured scenario to a `Membership` and holds what it sends against what the prototype sent.

Ids differ between the two lives, so each id of the capture is paired with ours when a message of ours takes the place
of a captured one, and later messages of the capture are rewritten with the pairs. The engine is played from the
capture: what the prototype said of it is what ours is told.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from exo_rkllm.backends.base import Finish, GenerationEvent, Piece, Progress, Sampling, Timings, Usage
from exo_rkllm.cluster.effects import (
    BeginTaskEffect,
    CancelTaskEffect,
    ClusterEffect,
    LoadModelEffect,
    QueryNodesEffect,
    SendEffect,
)
from exo_rkllm.cluster.serving import NodeDescription
from exo_rkllm.cluster.session.crash_watch import kind_of
from exo_rkllm.cluster.session.membership import Membership
from exo_rkllm.cluster.session.node_query import NodeAnswer
from exo_rkllm.cluster.session.publishing import MembershipSources
from exo_rkllm.cluster.wire.revisions import supported
from exo_rkllm.config.table import Placement
from exo_rkllm.errors import ExoRkllmError, RunError
from tests.exo_cluster.captured import Record
from tests.exo_cluster.desk import MODEL

ETH = {"name": "eth0", "ip_address": "10.77.0.3", "interface_type": "ethernet"}
FACTS = NodeDescription("opi5", "Orange Pi 5 Plus", "RK3588", "Linux", "6.1")
CAPTURED_MODEL = replace(MODEL, sampling=Sampling(temperature=0.8), folder="/models/x")
BOOKKEEPING = {"CreateRunner", "LoadModel", "StartWarmup", "Shutdown", "DownloadModel", "CancelTask"}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Numbers of an envelope, times, the words in which each life reports its own troubles, and what only we count.
NOT_COMPARED = {"origin_idx", "when", "error_message", "model_directory", "reasoning_tokens"}


class Replay:
    """`kinds_only` where the prototype was made to offer what this node does not, such as backends of MLX.

    `more` names kinds of message that we send beyond what the prototype did; they are collected in `extra`.
    """

    def __init__(
        self, me: str, *, placement: Placement = "own", kinds_only: bool = False, more: Sequence[str] = ()
    ) -> None:
        self.me = me
        self._more = more
        self.extra: list[str] = []
        self._kinds_only = kinds_only
        self._memory_told = placement == "dashboard"
        self._ids = 0
        sources = MembershipSources(
            new_id=self._new_id,
            time_of_day=lambda: "2026-11-21 00:11:03.859397+00:00",
            disk=lambda: (100_000_000_000, 50_000_000_000),
        )
        self.membership = Membership(me, supported()[0], FACTS, sources=sources, placement=placement, errors="error")
        self.models = {CAPTURED_MODEL.id: replace(CAPTURED_MODEL, state="cold")}
        self.halted: list[str] = []
        self.loads: list[str] = []
        self.unmatched: list[str] = []
        self._ours: deque[Any] = deque()
        self._signs: deque[str] = deque()  # signs of life of ours that the capture has to echo
        self._last_sign = ""
        self._pairs: dict[str, str] = {}
        self._tasks: dict[str, str] = {}  # command to task
        self._own_tasks: set[str] = set()
        self._seen: set[tuple[str, str, int]] = set()
        self._ended: set[tuple[str, str]] = set()
        self._snapshot: NodeAnswer | None = None
        self.now = 0.0

    def _new_id(self) -> str:
        self._ids += 1
        return f"00000000-0000-4000-8000-{self._ids:012x}"

    # ── our side ──

    def start(self, now: float) -> None:
        self.now = now
        self._take(self.membership.models_changed(tuple(self.models.values()), now))
        self._take(self.membership.interfaces_changed((ETH,), now))
        self._take(self.membership.link_up(now))

    def snapshot(self, state: Any) -> None:
        """What `GET /state` will answer."""
        self._snapshot = NodeAnswer("", state)

    def _take(self, effects: list[ClusterEffect]) -> None:
        for effect in effects:
            match effect:
                case SendEffect(topic, payload):
                    message = json.loads(payload)
                    if self._first_time("ours", message) and not self._ready_when_cold(message):
                        self._ours.append((topic, message))
                case BeginTaskEffect(task):
                    self._tasks[task.command_id] = task.id
                case CancelTaskEffect(task_id, _):
                    self.halted.append(task_id)
                case LoadModelEffect(model):
                    self.loads.append(model)
                case QueryNodesEffect():
                    self._take(self.membership.node_answered(self._snapshot, self.now))

    def _ready_when_cold(self, message: Any) -> bool:
        """The prototype's cold models stayed idle; ours are ready, since their first task loads them."""
        cold = all(model.state == "cold" for model in self.models.values())
        return cold and kind_of(message) == "RunnerStatusUpdated/RunnerReady"

    def _first_time(self, whose: str, message: Any) -> bool:
        """Not an event that is sent again because its echo was lost."""
        if "origin_idx" not in message:
            return True
        key = (whose, message["origin"], message["origin_idx"])
        fresh = key not in self._seen
        self._seen.add(key)
        return fresh

    def tick(self, now: float) -> None:
        while (deadline := self.membership.deadline) is not None and deadline <= now:
            self.now = max(self.now, deadline)
            self._take(self.membership.tick(self.now))
        self.now = now

    def model(self, **changes: Any) -> None:
        self.models = {key: replace(model, **changes) for key, model in self.models.items()}
        self._take(self.membership.models_changed(tuple(self.models.values()), self.now))

    # ── the capture ──

    def watch(self, records: Sequence[Record], pause: float = 0.5) -> None:
        """Only listen: the prototype's life in this part began before the capture."""
        self.play([record for record in records if record.direction != "out"], pause)
        self._ours.clear()

    def play(self, records: Sequence[Record], pause: float = 0.5) -> None:
        """The next scenario follows the one before after a pause."""
        offset = self.now + pause - records[0].at
        for index, record in enumerate(records):
            self.tick(offset + record.at)
            match record.direction:
                case "in":
                    payload = json.dumps(self._translated(record.message)).encode()
                    self._take(self.membership.receive(record.topic, payload, self.now))
                case "live":
                    node = record.topic.removeprefix("live/")
                    self._take(self.membership.liveliness(node, self.now, alive=record.message["up"]))
                case "note":
                    self.model(state="cold")  # the prototype loaded anew in each session
                case "out":
                    self._expect(record, records[index:])

    def invite(self) -> None:
        """The prototype was told by hand to create its instance again, and loads anew for each instance."""
        self.model(state="cold")
        self._take(self.membership.invite(self.now))

    def play_until_leaving(self, records: Sequence[Record]) -> None:
        """The prototype left before its first message about that, an error to whoever waits."""
        leaves = next(
            index
            for index, record in enumerate(records)
            if record.direction == "out"
            and kind_of(record.message) in ("ChunkGenerated/ErrorChunk", "RunnerStatusUpdated/RunnerShuttingDown")
        )
        self.play(records[:leaves])
        self._take(self.membership.leave(self.now))
        self.play(records[leaves:], pause=0.0)

    def rest(self) -> list[str]:
        """What we have sent and the prototype has not."""
        self._sort_out_signs()
        left = [kind_of(message) for _, message in self._ours]
        self._ours.clear()
        return left

    def _translated(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._pairs.get(value, value)
        if isinstance(value, list):
            return [self._translated(entry) for entry in value]
        if isinstance(value, dict):
            return {self._pairs.get(key, key): self._translated(entry) for key, entry in value.items()}
        return value

    def _expect(self, record: Record, following: Sequence[Record]) -> None:
        kind = kind_of(record.message)
        if self._left_out(kind, record.message):
            return
        wanted = next((at for at, (_, ours) in enumerate(self._ours) if kind_of(ours) == kind), None)
        if wanted is None and kind == "RequestEventLog":
            return  # we have lost nothing there, or asked already
        if wanted is None:
            self._stimulate(kind, record.message, following)
            wanted = next((at for at, (_, ours) in enumerate(self._ours) if kind_of(ours) == kind), None)
        self._sort_out_signs()
        while self._ours and kind_of(self._ours[0][1]) != kind and kind_of(self._ours[0][1]) in self._more:
            self.extra.append(kind_of(self._ours.popleft()[1]))
        assert self._ours, f"the prototype sent {kind} at {record.at}, we nothing"
        topic, ours = self._ours.popleft()
        assert (topic, kind_of(ours)) == (record.topic, kind), f"{kind_of(ours)} instead of {kind} at {record.at}"
        self._compare(record.message, ours, kind)

    def _left_out(self, kind: str, message: Any) -> bool:
        """Bookkeeping of the prototype that this node spares the cluster, its other signs of life, and what it went on
        to tell a master that we had left by then."""
        session = message.get("session")
        if session is not None and session["master_node_id"] != self.membership.master:
            return True
        if not self._first_time("theirs", message):
            return True
        if kind.startswith("TaskCreated/"):
            self._own_tasks.add(message["event"]["TaskCreated"]["task_id"])
            return True
        if kind.startswith("TaskStatusUpdated"):
            return message["event"]["TaskStatusUpdated"]["task_id"] in self._own_tasks
        if kind in ("RunnerStatusUpdated/RunnerShuttingDown", "RunnerStatusUpdated/RunnerShutdown"):
            end = (kind, message["event"]["RunnerStatusUpdated"]["runner_id"])
            repeated = end in self._ended  # the prototype says it again when its deleted instance shows in the log
            self._ended.add(end)
            return repeated
        joining = self.membership.phase != "serving"
        if kind == "NodeGatheredInfo/MemoryUsage" and joining and self._memory_told:
            return False
        if kind == "NodeGatheredInfo/MemoryUsage" or (kind.startswith("NodeGatheredInfo") and not joining):
            self._sort_out_signs()
            event_id = message["event"]["NodeGatheredInfo"]["event_id"]
            self._pairs[event_id] = self._signs.popleft() if self._signs else self._last_sign
            return True
        return False

    def _sort_out_signs(self) -> None:
        """The prototype told of no edges, and signs of life of ours while serving come at other times than its own."""
        for entry in [entry for entry in self._ours if kind_of(entry[1]) == "TopologyEdgeCreated"]:
            self._ours.remove(entry)
        if self.membership.phase != "serving":
            return
        for entry in [entry for entry in self._ours if kind_of(entry[1]) == "RequestEventLog"]:
            self._ours.remove(entry)
        for entry in [entry for entry in self._ours if kind_of(entry[1]).startswith("NodeGatheredInfo")]:
            self._ours.remove(entry)
            self._signs.append(entry[1]["event"]["NodeGatheredInfo"]["event_id"])

    def _compare(self, captured: Any, ours: Any, where: str) -> None:
        if isinstance(captured, dict):
            assert isinstance(ours, dict), where
            if all(UUID.fullmatch(key) for key in captured) and captured:
                for (key, value), (our_key, our_value) in zip(captured.items(), ours.items(), strict=True):
                    self._pair(key, our_key, where)
                    self._compare(value, our_value, f"{where}.{key}")
                return
            assert captured.keys() == ours.keys(), f"{where}: {captured.keys() ^ ours.keys()}"
            for key, value in captured.items():
                if key == "stats" and value is None:
                    continue  # the prototype gave none with a tool call
                if key not in NOT_COMPARED:
                    self._compare(value, ours[key], f"{where}.{key}")
                elif key == "when" and "event_id" in captured:
                    self._last_sign = ours["event_id"]
        elif isinstance(captured, list) and not self._kinds_only:
            assert len(captured) == len(ours), where
            for one, other in zip(captured, ours, strict=True):
                self._compare(one, other, where)
        elif isinstance(captured, str) and UUID.fullmatch(captured):
            self._pair(captured, ours, where)
        elif isinstance(captured, float) and not self._kinds_only:
            assert abs(captured - ours) <= 1e-6 * max(1.0, abs(captured)), f"{where}: {ours} instead of {captured}"
        elif not self._kinds_only:
            assert captured == ours, f"{where}: {ours!r} instead of {captured!r}"

    def _pair(self, captured: str, ours: str, where: str) -> None:
        known = self._pairs.setdefault(captured, ours)
        assert known == ours, f"{where}: {ours} instead of {known}"

    # ── the engine, played from the capture ──

    def _stimulate(self, kind: str, message: Any, following: Sequence[Record]) -> None:
        match kind.split("/"):
            case ["RunnerStatusUpdated", "RunnerLoading"]:
                status = message["event"]["RunnerStatusUpdated"]["runner_status"]["RunnerLoading"]
                self.model(state="loading", progress=status["layers_loaded"] / status["total_layers"])
            case ["RunnerStatusUpdated", "RunnerLoaded" | "RunnerWarmingUp"]:
                self.model(state="warming")
            case ["RunnerStatusUpdated", "RunnerReady"]:
                self.model(state="ready")
            case ["RunnerStatusUpdated", "RunnerFailed"]:
                self.model(state="failed", problem="out of NPU memory (simulated)")
            case ["TaskStatusUpdated" | "ChunkGenerated", *_]:
                self._answer(self._next_chunk(message, following))

    def _next_chunk(self, message: Any, following: Sequence[Record]) -> Any:
        """The chunk that makes the task run: the first one of this task that the prototype sent."""
        task = message["event"].get("TaskStatusUpdated", {}).get("task_id")
        for record in following:
            if record.direction == "out" and "ChunkGenerated" in record.message.get("event", {}):
                generated = record.message["event"]["ChunkGenerated"]
                if task is None or self._tasks.get(generated["command_id"]) == task:
                    return generated
        raise AssertionError(f"no chunk follows {message}")

    def _answer(self, generated: Any) -> None:
        task = self._tasks[generated["command_id"]]
        said = [(task, event) for event in events_of(generated["chunk"])]
        self._take(self.membership.engine_answered(said, self.now))


def events_of(wrapped: Any) -> Iterator[GenerationEvent | ExoRkllmError]:
    """What an engine would have said to make a worker send this chunk."""
    ((kind, chunk),) = wrapped.items()
    match kind:
        case "PrefillProgressChunk":
            yield Progress("prefill", chunk["processed_tokens"], chunk["total_tokens"])
        case "ErrorChunk":
            yield RunError(chunk["error_message"])
        case "ToolCallChunk":
            for call in chunk["tool_calls"]:
                yield Piece(json.dumps(call), kind="tool_call")
        case "TokenChunk":
            yield Piece(chunk["text"], chunk["token_id"], "thinking" if chunk["is_thinking"] else "answer")
    if chunk.get("usage") is not None:
        yield finish_of(chunk)


def finish_of(chunk: Any) -> Finish:
    usage, stats = chunk["usage"], chunk["stats"] or {"prompt_tps": 0.0, "generation_tps": 0.0}
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    return Finish(
        chunk["finish_reason"],
        Usage(prompt, usage["prompt_tokens_details"]["cached_tokens"], completion),
        Timings(
            prefill=prompt / stats["prompt_tps"] if stats["prompt_tps"] else 0.0,
            decode=(completion - 1) / stats["generation_tps"] if stats["generation_tps"] else 0.0,
        ),
    )
