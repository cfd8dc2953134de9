"""What a worker does, decided without a network."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

from exo_rkllm.backends.base import Finish, Piece, Progress, Timings, Usage
from exo_rkllm.cluster.effects import (
    BeginTaskEffect,
    CancelTaskEffect,
    ClusterEffect,
    LoadModelEffect,
    LogEffect,
    PublishCommandEffect,
    PublishEventEffect,
    PublishNodeInfoEffect,
    chunk_generated,
    runner_status,
    task_status,
)
from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.wire import chunks
from exo_rkllm.cluster.wire.events import (
    CustomModelCardAdded,
    DownloadCommand,
    Event,
    Instance,
    InstanceCreated,
    InstanceDeleted,
    NodeFacts,
    NodeGatheredInfo,
    NodeTimedOut,
    Tagged,
    Task,
    TaskCreated,
    TaskDeleted,
    TaskStatusUpdated,
)
from exo_rkllm.cluster.worker import offers
from exo_rkllm.cluster.worker.decide import decide
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
from exo_rkllm.config.table import ErrorForm, Placement
from exo_rkllm.errors import RunError
from tests.exo_cluster.desk import MODEL

ME = "c0ffee"
ID = offers.model_id(MODEL.id)
CARD = offers.card(MODEL)


@dataclass
class Play:
    """A worker, its replica, and what it wanted."""

    models: dict[str, Servable] = field(default_factory=lambda: {ID: MODEL})
    placement: Placement = "own"
    errors: ErrorForm = "answer"
    now: float = 0.0
    effects: list[ClusterEffect] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = itertools.count()
        self.new_id = lambda: f"id{next(numbers)}"
        self.replica = Replica(ME)
        self.replica.apply(NodeGatheredInfo(ME, NodeFacts()))
        self.worker = Worker(ME, "opi5", self.placement, self.models, errors=self.errors)

    def on(self, happening: WorkerEvent) -> list[ClusterEffect]:
        self.worker, self.effects = decide(self.worker, happening, self.replica, self.now, self.new_id)
        return self.effects

    def log(self, *events: Event, fresh: bool = True) -> list[ClusterEffect]:
        found: list[ClusterEffect] = []
        for event in events:
            self.replica.apply(event)
            found += self.on(AppliedEvent(event, fresh))
        return found

    def model(self, **changes: Any) -> list[ClusterEffect]:
        return self.on(ModelsChangedEvent({ID: replace(self.worker.models[ID], **changes)}))

    def serve(self, instance: str = "i") -> list[ClusterEffect]:
        """Caught up, and the instance that was asked for is there."""
        self.replica.apply(CustomModelCardAdded(ID, CARD))
        self.on(CaughtUpEvent())
        return self.log(created(instance))

    def ask(self, task: str = "t", kind: str = "TextGeneration", status: str = "Pending", instance: str = "i") -> Any:
        return self.log(TaskCreated(Task(task, kind, instance, status, f"c-{task}", {"model": ID})))


def created(instance: str, model: str = ID, nodes: tuple[str, ...] = (ME,)) -> InstanceCreated:
    runners = {node: f"r-{instance}-{node}" for node in nodes}
    return InstanceCreated(Instance(instance, model, tuple(runners.values()), runners))


RUNNER = f"r-i-{ME}"
READY: Tagged = {"RunnerReady": {}}
END = Finish("stop", Usage(7, 2, 3), Timings(prefill=0.5, decode=0.25))


def kinds(effects: list[ClusterEffect]) -> list[str]:
    """The tags of what is published, the names of other effects."""
    published = (PublishEventEffect, PublishCommandEffect)
    return [effect.tag if isinstance(effect, published) else type(effect).__name__ for effect in effects]


def commands(effects: list[ClusterEffect]) -> list[PublishCommandEffect]:
    return [effect for effect in effects if isinstance(effect, PublishCommandEffect)]


def published(effects: list[ClusterEffect], tag: str) -> list[Any]:
    """The fields of all events of this kind."""
    return [effect.fields for effect in effects if isinstance(effect, PublishEventEffect) and effect.tag == tag]


def only_chunk(effects: list[ClusterEffect], tag: str) -> Any:
    (fields,) = published(effects, "ChunkGenerated")
    return fields["chunk"][tag]


# ── joining ──


def test_a_caught_up_worker_makes_its_models_known_and_creates_an_instance() -> None:
    play = Play()
    effects = play.on(CaughtUpEvent())
    assert kinds(effects) == ["AddCustomModelCard", "NodeDownloadProgress", "CreateInstance"]
    card, create = commands(effects)
    assert card == PublishCommandEffect("AddCustomModelCard", {"model_card": CARD})
    assert "DownloadCompleted" in published(effects, "NodeDownloadProgress")[0]["download_progress"]
    assignments = create.fields["instance"]["MlxRingInstance"]["shard_assignments"]
    assert assignments["model_id"] == ID
    assert list(assignments["node_to_runner"]) == [ME]
    assert CARD["backends"] == []


def test_existing_card_and_instance_are_kept() -> None:
    play = Play()
    play.replica.apply(CustomModelCardAdded(ID, CARD))
    play.replica.apply(created("old"))
    effects = play.on(CaughtUpEvent())
    assert kinds(effects) == ["NodeDownloadProgress", "RunnerStatusUpdated", "RunnerStatusUpdated"]
    assert effects[1:] == [runner_status(f"r-old-{ME}", {"RunnerIdle": {}}), runner_status(f"r-old-{ME}", READY)]


def test_commands_are_repeated_until_their_result_shows() -> None:
    play = Play()
    first = play.on(CaughtUpEvent())
    play.now = 4.9
    assert play.on(TickedEvent()) == []
    play.now = 5.0
    assert play.on(TickedEvent()) == commands(first)
    (create,) = [command for command in commands(first) if command.tag == "CreateInstance"]
    instance = create.fields["instance"]["MlxRingInstance"]["instance_id"]
    play.log(CustomModelCardAdded(ID, {"another": "card"}), created(instance))
    play.now = 99.0
    assert play.on(TickedEvent()) == []


def test_of_two_instances_the_older_one_stays() -> None:
    play = Play()
    play.serve("first")
    effects = play.log(created("second"))
    assert effects[-1] == runner_status(f"r-second-{ME}", READY)
    assert delete_of("second") in effects
    assert play.log(InstanceDeleted("second"))[-1] == runner_status(f"r-second-{ME}", {"RunnerShutdown": {}})
    assert list(play.worker.instances) == ["first"]


def delete_of(instance: str) -> PublishCommandEffect:
    return PublishCommandEffect("DeleteInstance", {"instance_id": instance})


def created_models(effects: list[ClusterEffect]) -> list[str]:
    """Models of the instances that are to be created."""
    fields = [command.fields for command in commands(effects) if command.tag == "CreateInstance"]
    return [one["instance"]["MlxRingInstance"]["shard_assignments"]["model_id"] for one in fields]


def test_cards_of_boards_with_the_same_model_do_not_take_turns() -> None:
    play = Play()
    play.replica.apply(CustomModelCardAdded(ID, {**CARD, "family": "other"}))
    play.replica.apply(created("theirs", nodes=("another-board",)))
    assert "AddCustomModelCard" not in kinds(play.on(CaughtUpEvent()))
    alone = Play()
    alone.replica.apply(CustomModelCardAdded(ID, {**CARD, "family": "other"}))
    assert "AddCustomModelCard" in kinds(alone.on(CaughtUpEvent()))
    # somebody puts theirs back: we said ours once
    assert commands(alone.log(CustomModelCardAdded(ID, {"x": 1}))) == []
    assert "AddCustomModelCard" not in kinds(alone.model(state="cold"))


# ── instances ──


def test_a_model_that_is_loaded_on_demand_is_shown_step_by_step() -> None:
    play = Play(models={ID: replace(MODEL, state="cold")})
    assert play.serve()[-2:] == [runner_status(RUNNER, {"RunnerIdle": {}}), runner_status(RUNNER, READY)]
    assert play.model(state="loading", progress=0.5) == [
        runner_status(RUNNER, {"RunnerLoading": {"layers_loaded": 14, "total_layers": 28}})
    ]
    assert play.model(state="warming") == [
        runner_status(RUNNER, {"RunnerLoaded": {}}),
        runner_status(RUNNER, {"RunnerWarmingUp": {}}),
    ]
    assert play.model(state="ready") == [runner_status(RUNNER, READY)]
    assert play.model(state="ready") == []
    assert play.model(state="cold") == [], "exo's dashboard sends nothing to a model that is not ready"
    assert play.model(state="loading", progress=9.0) == [
        runner_status(RUNNER, {"RunnerLoading": {"layers_loaded": 28, "total_layers": 28}})
    ]
    assert play.model(state="ready") == [
        runner_status(RUNNER, {"RunnerLoaded": {}}),
        runner_status(RUNNER, READY),
    ]


def test_foreign_instance_is_refused_and_deleted() -> None:
    for instance in (created("x", "mlx-community/Qwen3-0.6B-8bit"), created("x", ID, (ME, "mac"))):
        play = Play()
        play.serve()
        effects = play.log(instance)
        assert kinds(effects) == ["RunnerStatusUpdated", "LogEffect", "DeleteInstance"]
        assert "RunnerFailed" in published(effects, "RunnerStatusUpdated")[0]["runner_status"]
        assert play.ask(instance="x") == []
        gone = play.log(InstanceDeleted("x"))
        assert gone[-1] == runner_status(f"r-x-{ME}", {"RunnerShutdown": {}})
        assert list(play.worker.instances) == ["i"]


def test_instances_of_other_nodes_are_ignored() -> None:
    play = Play()
    play.serve()
    assert play.log(created("theirs", nodes=("mac",))) == []
    assert play.log(TaskCreated(Task("t", "TextGeneration", "theirs", "Pending", "c"))) == []


def test_deleted_instance_stays_withdrawn_until_joined_again() -> None:
    play = Play()
    play.serve()
    effects = play.log(InstanceDeleted("i"))
    assert effects[0] == LogEffect(
        "info", f"{ID} was taken out of the exo cluster by a user; it stays out of this session."
    )
    assert effects[1:] == [
        runner_status(RUNNER, {"RunnerShuttingDown": {}}),
        runner_status(RUNNER, {"RunnerShutdown": {}}),
    ]
    assert commands(play.model(state="cold")) == []
    assert created_models(play.on(JoinedEvent())) == [ID]


def test_created_instance_ends_its_withdrawal() -> None:
    play = Play()
    play.serve()
    play.log(InstanceDeleted("i"))
    assert play.log(created("again"))[-1] == runner_status(f"r-again-{ME}", READY)
    assert play.worker.withdrawn == frozenset()


def test_timed_out_node_introduces_itself_again() -> None:
    play = Play()
    play.serve()
    tell, introduce, *_ = play.log(NodeTimedOut(ME))
    assert isinstance(tell, LogEffect)
    assert introduce == PublishNodeInfoEffect()
    assert created_models(play.log(InstanceDeleted("i"))) == [ID]


def test_nothing_is_decided_on_an_outdated_replica() -> None:
    """Our link was out until we were forgotten: the log is read to its end before anything is created."""
    play = Play()
    play.serve()
    assert kinds(play.log(NodeTimedOut(ME), InstanceDeleted("i"), fresh=False)) == [
        "LogEffect",
        "PublishNodeInfoEffect",
    ]
    assert created_models(play.log(NodeGatheredInfo("mac", NodeFacts()))) == [ID]


# ── tasks ──


def test_an_answer_from_its_first_piece_to_its_last() -> None:
    play = Play()
    play.serve()
    assert play.ask() == [BeginTaskEffect(play.replica.tasks["t"], MODEL.id)]
    assert play.on(AnswerEvent("t", Progress("queued", 1))) == []
    assert play.on(AnswerEvent("t", Progress("loading"))) == []
    assert play.on(AnswerEvent("t", Progress("prefill", 3, 7))) == [
        task_status("t", "Running"),
        runner_status(RUNNER, {"RunnerRunning": {}}),
        chunk_generated("c-t", chunks.prefill_progress(ID, 3, 7)),
    ]
    assert play.on(AnswerEvent("t", Piece("so", 5, "thinking"))) == [
        chunk_generated("c-t", chunks.token(ID, "so", 5, thinking=True))
    ]
    assert play.on(AnswerEvent("t", Piece("yes", 6))) == [chunk_generated("c-t", chunks.token(ID, "yes", 6))]
    assert play.on(AnswerEvent("t", Piece("", 7))) == []
    effects = play.on(AnswerEvent("t", END))
    chunk = only_chunk(effects, "TokenChunk")
    assert (chunk["text"], chunk["finish_reason"]) == ("", "stop")
    assert chunk["usage"]["total_tokens"] == 10
    assert chunk["usage"]["prompt_tokens_details"]["cached_tokens"] == 2
    assert chunk["usage"]["completion_tokens_details"]["reasoning_tokens"] == 1
    assert (chunk["stats"]["prompt_tps"], chunk["stats"]["generation_tps"]) == (10.0, 8.0)
    assert chunk["stats"]["prefix_cache_hit"] == "partial"
    assert effects[1:] == [task_status("t", "Complete"), runner_status(RUNNER, READY)]
    assert play.on(AnswerEvent("t", Piece("late"))) == []
    assert play.log(TaskStatusUpdated("t", "Complete"), TaskDeleted("t")) == []
    assert play.worker.tasks == {}


def test_a_runner_is_ready_when_its_last_answer_is_over() -> None:
    play = Play()
    play.serve()
    for task in ("a", "b"):
        play.ask(task)
        play.on(AnswerEvent(task, Piece("x")))
    assert published(play.on(AnswerEvent("a", END)), "RunnerStatusUpdated") == []
    assert play.on(AnswerEvent("b", END))[-1] == runner_status(RUNNER, READY)


def test_tool_calls_end_an_answer() -> None:
    play = Play()
    play.serve()
    play.ask()
    play.on(AnswerEvent("t", Piece('{"name": "f", "argum', kind="tool_call")))
    assert play.on(AnswerEvent("t", Piece('ents": {"a": 1}}', kind="tool_call"))) == []
    (call,) = only_chunk(play.on(AnswerEvent("t", Finish("tool_calls"))), "ToolCallChunk")["tool_calls"]
    assert (call["name"], call["arguments"]) == ("f", '{"a": 1}')


def test_engine_failure_completes_the_task() -> None:
    play = Play()
    play.serve()
    play.ask()
    assert play.on(AnswerEvent("t", RunError("It broke.", "Look at the log."))) == [
        task_status("t", "Running"),
        runner_status(RUNNER, {"RunnerRunning": {}}),
        chunk_generated("c-t", chunks.notice(ID, "[opi5 did not answer] It broke. Look at the log.")),
        task_status("t", "Complete"),
        runner_status(RUNNER, READY),
    ]


def failure_after(*, stream: bool, errors: ErrorForm, piece: bool = True) -> Tagged:
    play = Play(errors=errors)
    play.serve()
    play.log(TaskCreated(Task("t", "TextGeneration", "i", "Pending", "c-t", {"model": ID, "stream": stream})))
    if piece:
        play.on(AnswerEvent("t", Piece("half")))
    (fields,) = published(play.on(AnswerEvent("t", RunError("It broke."))), "ChunkGenerated")
    chunk: Tagged = fields["chunk"]
    return chunk


def test_failure_is_told_in_the_form_that_its_client_sees() -> None:
    """exo makes an empty body of an error where nothing is streamed, and its dashboard shows nothing of one."""
    error = chunks.error(ID, "It broke.")
    assert failure_after(stream=True, errors="answer") == error, "a client that reads along must not take half for all"
    broken = failure_after(stream=False, errors="answer")
    assert broken == chunks.notice(ID, "\n\n[opi5 broke off] It broke.", broke_off=True)
    assert broken["TokenChunk"]["finish_reason"] == "length"
    for stream in (True, False):
        refused = failure_after(stream=stream, errors="answer", piece=False)
        assert refused == chunks.notice(ID, "[opi5 did not answer] It broke.")
        assert refused["TokenChunk"]["finish_reason"] == "stop"
        for piece in (True, False):
            assert failure_after(stream=stream, errors="error", piece=piece) == error


def test_cancelled_task_publishes_nothing_more() -> None:
    play = Play()
    play.serve()
    play.ask()
    play.on(AnswerEvent("t", Piece("x")))
    assert play.log(TaskStatusUpdated("t", "Cancelled")) == [
        CancelTaskEffect("t", "c-t"),
        runner_status(RUNNER, READY),
    ]
    assert play.on(AnswerEvent("t", Piece("y"))) == []
    assert play.worker.tasks == {}


def test_a_deleted_task_is_stopped_as_well() -> None:
    play = Play()
    play.serve()
    play.ask()
    assert play.log(TaskDeleted("t")) == [CancelTaskEffect("t", "c-t")]


def test_task_running_before_our_start_fails() -> None:
    play = Play()
    play.replica.apply(created("i"))
    play.replica.apply(TaskCreated(Task("t", "TextGeneration", "i", "Running", "c-t")))
    effects = play.on(CaughtUpEvent())
    assert "was restarted" in only_chunk(effects, "TokenChunk")["text"]
    assert task_status("t", "Failed") in effects
    assert not [effect for effect in effects if isinstance(effect, BeginTaskEffect)]
    assert play.log(NodeTimedOut("mac")) == []


def test_an_image_request_gets_an_image_error_and_nothing_else() -> None:
    """Any other chunk for it would end the exo node that asked."""
    play = Play()
    play.serve()
    for kind in ("ImageGeneration", "ImageEdits"):
        effects = play.ask(kind, kind=kind)
        assert only_chunk(effects, "ImageChunk")["finish_reason"] == "error"
        assert effects[1:] == [task_status(kind, "Failed")]
    assert "knows no task" in only_chunk(play.ask("v", kind="VideoGeneration"), "TokenChunk")["text"]


def test_an_instance_that_goes_takes_its_answers_with_it() -> None:
    play = Play()
    play.serve()
    play.ask()
    play.on(AnswerEvent("t", Piece("x")))
    effects = play.log(InstanceDeleted("i"))
    assert [effect for effect in effects if isinstance(effect, CancelTaskEffect)] == [CancelTaskEffect("t", "c-t")]


# ── models that change ──


def test_a_model_that_cannot_be_loaded_leaves_and_comes_back() -> None:
    play = Play()
    play.serve()
    play.ask()
    effects = play.model(state="failed", problem="out of memory")
    assert kinds(effects) == [
        "CancelTaskEffect",
        "TaskStatusUpdated",
        "RunnerStatusUpdated",
        "ChunkGenerated",
        "TaskStatusUpdated",
        "RunnerStatusUpdated",
        "NodeDownloadProgress",
        "DeleteCustomModelCard",
    ]
    assert chunk_generated("c-t", chunks.notice(ID, "[opi5 did not answer] out of memory")) in effects
    assert runner_status(RUNNER, offers.runner_failed("out of memory")) in effects
    late = play.ask("late")
    assert "out of memory" in only_chunk(late, "TokenChunk")["text"]
    assert commands(late) == [], "a command overtakes events: exo would end the streams before their last word"
    assert commands(play.log(TaskStatusUpdated("t", "Complete"))) == []
    assert commands(play.log(TaskStatusUpdated("late", "Failed"))) == [delete_of("i")]
    assert play.log(InstanceDeleted("i"))[-1] == runner_status(RUNNER, {"RunnerShutdown": {}})
    assert play.log(created("pushy"))[0] == runner_status(f"r-pushy-{ME}", offers.runner_failed("out of memory"))
    play.log(InstanceDeleted("pushy"))
    assert created_models(play.model(state="cold")) == [ID]


def test_a_model_that_is_removed_from_the_board_leaves_the_cluster() -> None:
    play = Play()
    play.serve()
    effects = play.on(ModelsChangedEvent({}))
    card = PublishCommandEffect("DeleteCustomModelCard", {"model_id": ID})
    assert commands(effects) == [delete_of("i"), card]
    assert "DownloadPending" in published(effects, "NodeDownloadProgress")[0]["download_progress"]


def test_card_that_another_board_needs_stays_when_ours_is_removed() -> None:
    play = Play()
    play.serve()
    play.log(created("theirs", nodes=("another-board",)))
    assert commands(play.on(ModelsChangedEvent({}))) == [delete_of("i")]


def test_model_that_comes_back_before_its_card_is_gone_keeps_its_card() -> None:
    """The deletion was repeated after the new card, if the log had not shown the first one by then."""
    play = Play()
    play.serve()
    play.on(ModelsChangedEvent({}))
    effects = play.on(ModelsChangedEvent({ID: MODEL}))
    assert [one.tag for one in commands(effects)] == ["AddCustomModelCard", "CreateInstance"]
    play.now = 100.0
    assert "DeleteCustomModelCard" not in kinds(play.on(TickedEvent()))


def test_model_that_goes_before_its_instance_is_created_is_not_asked_for_again() -> None:
    play = Play()
    play.on(CaughtUpEvent())
    play.on(ModelsChangedEvent({}))
    play.now = 100.0
    assert play.on(TickedEvent()) == []


def test_model_that_cannot_answer_is_made_known_to_nobody() -> None:
    play = Play(models={ID: replace(MODEL, state="failed", problem="It is for another SoC.")})
    assert play.on(CaughtUpEvent()) == []
    assert created_models(play.model(state="cold")) == [ID]


def test_several_models_have_an_instance_each() -> None:
    other = replace(MODEL, id="other", state="cold")
    play = Play(models={ID: MODEL, offers.model_id("other"): other})
    assert created_models(play.on(CaughtUpEvent())) == [ID, offers.model_id("other")]


def test_models_that_come_while_we_are_not_in_are_kept_for_later() -> None:
    play = Play(models={})
    assert play.on(ModelsChangedEvent({ID: MODEL})) == []
    assert len(commands(play.on(CaughtUpEvent()))) == 2


# ── downloads, the dashboard, leaving ──


def test_download_commands_report_what_is_here() -> None:
    play = Play()
    play.serve()

    def asked(kind: str, target: str, model: str) -> Any:
        command = DownloadCommand(kind, target, model, {"PipelineShardMetadata": {}})
        return [one["download_progress"] for one in published(play.on(CommandEvent(command)), "NodeDownloadProgress")]

    assert asked("StartDownload", "mac", ID) == []
    for kind in ("StartDownload", "DeleteDownload"):
        (progress,) = asked(kind, ME, ID)
        assert "DownloadCompleted" in progress
    (progress,) = asked("StartDownload", ME, "mlx-community/X")
    assert progress["DownloadFailed"]["shard_metadata"] == {"PipelineShardMetadata": {}}
    assert asked("CancelDownload", ME, "mlx-community/X") == []


def test_launched_from_the_dashboard() -> None:
    play = Play(models={ID: replace(MODEL, state="cold")}, placement="dashboard")
    effects = play.on(CaughtUpEvent())
    (card,) = commands(effects)
    assert card.fields["model_card"]["backends"] == ["MlxCuda"]
    assert card.fields["model_card"]["storage_size"] == {"in_bytes": offers.TOKEN_SIZE}
    assert LoadModelEffect(MODEL.id) in play.log(created("i"))
    assert not [
        effect for effect in play.log(InstanceDeleted("i")) if isinstance(effect, LogEffect | PublishCommandEffect)
    ]


def test_beside_cuda_nodes_the_dashboard_needs_another_backend() -> None:
    play = Play(placement="dashboard")
    play.replica.apply(NodeGatheredInfo("gpu", NodeFacts(backends=("MlxCpu", "MlxCuda"))))
    (card,) = commands(play.on(CaughtUpEvent()))
    assert card.fields["model_card"]["backends"] == ["MlxCpu"]


def test_leaving_tells_everybody() -> None:
    play = Play()
    play.serve()
    play.ask()
    play.on(AnswerEvent("t", Piece("x")))
    effects = play.on(LeavingEvent())
    assert effects[0] == CancelTaskEffect("t", "c-t")
    assert "shutting down" in only_chunk(effects, "TokenChunk")["text"]
    assert effects[2:] == [
        runner_status(RUNNER, {"RunnerShuttingDown": {}}),
        runner_status(RUNNER, {"RunnerShutdown": {}}),
        delete_of("i"),
    ]
    assert play.log(InstanceDeleted("i")) == []
    assert play.on(LeavingEvent()) == []
