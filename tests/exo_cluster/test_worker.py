"""What a worker does, decided without a network."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

from exo_rkllm.backends.base import Finish, Piece, Progress, Timings, Usage
from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.wire import reading
from exo_rkllm.cluster.wire.messages import (
    AddCustomModelCard,
    CreateInstance,
    DeleteInstance,
    DownloadCompleted,
    DownloadFailed,
    DownloadPending,
    ErrorChunk,
    ImageChunk,
    PrefillProgressChunk,
    RunnerFailed,
    RunnerIdle,
    RunnerLoaded,
    RunnerLoading,
    RunnerReady,
    RunnerRunning,
    RunnerShutdown,
    RunnerShuttingDown,
    RunnerWarmingUp,
    TokenChunk,
    ToolCallChunk,
    wire,
)
from exo_rkllm.cluster.wire.reading import Instance, NodeFacts, Task
from exo_rkllm.cluster.worker import offers
from exo_rkllm.cluster.worker.decide import decide
from exo_rkllm.cluster.worker.effects import (
    BeginTask,
    CancelTask,
    LoadModel,
    LogLineEffect,
    PublishNodeInfo,
    SendChunk,
    SendCommand,
    SetDownloadProgress,
    SetRunnerStatus,
    SetTaskStatus,
    WorkerEffect,
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
from exo_rkllm.cluster.worker.rules import backends
from exo_rkllm.cluster.worker.state import Worker
from exo_rkllm.config.table import Placement
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
    now: float = 0.0
    effects: list[WorkerEffect] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = itertools.count()
        self.new_id = lambda: f"id{next(numbers)}"
        self.replica = Replica(ME)
        self.replica.apply(reading.NodeHeard(ME, NodeFacts()))
        self.worker = Worker(ME, "opi5", self.placement, self.models)

    def on(self, happening: WorkerEvent) -> list[WorkerEffect]:
        self.worker, self.effects = decide(self.worker, happening, self.replica, self.now, self.new_id)
        return self.effects

    def log(self, *events: reading.Event, fresh: bool = True) -> list[WorkerEffect]:
        found: list[WorkerEffect] = []
        for event in events:
            self.replica.apply(event)
            found += self.on(AppliedEvent(event, fresh))
        return found

    def model(self, **changes: Any) -> list[WorkerEffect]:
        return self.on(ModelsChangedEvent({ID: replace(self.worker.models[ID], **changes)}))

    def serve(self, instance: str = "i") -> list[WorkerEffect]:
        """Caught up, and the instance that was asked for is there."""
        self.replica.apply(reading.CardAdded(ID, wire(CARD)))
        self.on(CaughtUpEvent())
        return self.log(created(instance))

    def ask(self, task: str = "t", kind: str = "TextGeneration", status: str = "Pending", instance: str = "i") -> Any:
        return self.log(reading.TaskCreated(Task(task, kind, instance, status, f"c-{task}", {"model": ID})))


def created(instance: str, model: str = ID, nodes: tuple[str, ...] = (ME,)) -> reading.InstanceCreated:
    runners = {node: f"r-{instance}-{node}" for node in nodes}
    return reading.InstanceCreated(Instance(instance, model, tuple(runners.values()), runners))


RUNNER = f"r-i-{ME}"
END = Finish("stop", Usage(7, 2, 3), Timings(prefill=0.5, decode=0.25))


def kinds(effects: list[WorkerEffect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


# ── joining ──


def test_a_caught_up_worker_makes_its_models_known_and_creates_an_instance() -> None:
    play = Play()
    card, report, create = play.on(CaughtUpEvent())
    assert card == SendCommand(AddCustomModelCard("id0", CARD))
    assert isinstance(report, SetDownloadProgress)
    assert isinstance(report.progress, DownloadCompleted)
    assert isinstance(create, SendCommand)
    assert isinstance(create.command, CreateInstance)
    assignments = create.command.instance.shard_assignments
    assert assignments.model_id == ID
    assert list(assignments.node_to_runner) == [ME]
    assert CARD.backends == ()


def test_what_is_there_already_is_not_made_again() -> None:
    play = Play()
    play.replica.apply(reading.CardAdded(ID, wire(CARD)))
    play.replica.apply(created("old"))
    effects = play.on(CaughtUpEvent())
    assert kinds(effects) == ["SetDownloadProgress", "SetRunnerStatus", "SetRunnerStatus"]
    assert effects[1:] == [SetRunnerStatus(f"r-old-{ME}", RunnerIdle()), SetRunnerStatus(f"r-old-{ME}", RunnerReady())]


def test_commands_are_repeated_until_their_result_shows() -> None:
    play = Play()
    first = play.on(CaughtUpEvent())
    play.now = 4.9
    assert play.on(TickedEvent()) == []
    play.now = 5.0
    again = play.on(TickedEvent())
    assert again == [effect for effect in first if isinstance(effect, SendCommand)]
    create = again[1]
    assert isinstance(create, SendCommand)
    assert isinstance(create.command, CreateInstance)
    play.log(reading.CardAdded(ID, {"another": "card"}), created(create.command.instance.instance_id))
    play.now = 99.0
    assert play.on(TickedEvent()) == []


def test_of_two_instances_the_older_one_stays() -> None:
    play = Play()
    play.serve("first")
    effects = play.log(created("second"))
    assert effects[-1] == SetRunnerStatus(f"r-second-{ME}", RunnerReady())
    assert SendCommand(DeleteInstance("id6", "second")) in [replace_id(effect) for effect in effects]
    assert play.log(reading.InstanceDeleted("second"))[-1] == SetRunnerStatus(f"r-second-{ME}", RunnerShutdown())
    assert list(play.worker.seats) == ["first"]


def replace_id(effect: WorkerEffect) -> WorkerEffect:
    if isinstance(effect, SendCommand) and isinstance(effect.command, DeleteInstance):
        return SendCommand(replace(effect.command, command_id="id6"))
    return effect


def test_cards_of_boards_with_the_same_model_do_not_take_turns() -> None:
    play = Play()
    play.replica.apply(reading.CardAdded(ID, {**wire(CARD), "family": "other"}))
    play.replica.apply(created("theirs", nodes=("another-board",)))
    assert not [effect for effect in play.on(CaughtUpEvent()) if isinstance(effect, SendCommand) and _card(effect)]
    alone = Play()
    alone.replica.apply(reading.CardAdded(ID, {**wire(CARD), "family": "other"}))
    assert [effect for effect in alone.on(CaughtUpEvent()) if isinstance(effect, SendCommand) and _card(effect)]
    # somebody puts theirs back: we said ours once
    assert not [effect for effect in alone.log(reading.CardAdded(ID, {"x": 1})) if isinstance(effect, SendCommand)]
    assert not [effect for effect in alone.model(state="cold") if isinstance(effect, SendCommand) and _card(effect)]


def _card(effect: SendCommand) -> bool:
    return isinstance(effect.command, AddCustomModelCard)


# ── instances ──


def test_a_model_that_is_loaded_on_demand_is_shown_step_by_step() -> None:
    play = Play(models={ID: replace(MODEL, state="cold")})
    assert play.serve()[-1] == SetRunnerStatus(RUNNER, RunnerIdle())
    assert play.model(state="loading", progress=0.5) == [SetRunnerStatus(RUNNER, RunnerLoading(14, 28))]
    assert play.model(state="warming") == [
        SetRunnerStatus(RUNNER, RunnerLoaded()),
        SetRunnerStatus(RUNNER, RunnerWarmingUp()),
    ]
    assert play.model(state="ready") == [SetRunnerStatus(RUNNER, RunnerReady())]
    assert play.model(state="ready") == []
    assert play.model(state="cold") == [SetRunnerStatus(RUNNER, RunnerIdle())]
    assert play.model(state="loading", progress=9.0) == [SetRunnerStatus(RUNNER, RunnerLoading(28, 28))]
    assert play.model(state="ready") == [
        SetRunnerStatus(RUNNER, RunnerLoaded()),
        SetRunnerStatus(RUNNER, RunnerReady()),
    ]


def test_what_is_not_for_us_is_refused_and_cleared_away() -> None:
    for instance in (created("x", "mlx-community/Qwen3-0.6B-8bit"), created("x", ID, (ME, "mac"))):
        play = Play()
        play.serve()
        failed, tell, delete = play.log(instance)
        assert isinstance(failed, SetRunnerStatus)
        assert isinstance(failed.status, RunnerFailed)
        assert isinstance(tell, LogLineEffect)
        assert isinstance(delete, SendCommand)
        assert isinstance(delete.command, DeleteInstance)
        assert play.ask(instance="x") == []
        gone = play.log(reading.InstanceDeleted("x"))
        assert gone[-1] == SetRunnerStatus(f"r-x-{ME}", RunnerShutdown())
        assert list(play.worker.seats) == ["i"]


def test_instances_of_others_are_none_of_our_business() -> None:
    play = Play()
    play.serve()
    assert play.log(created("theirs", nodes=("mac",))) == []
    assert play.log(reading.TaskCreated(Task("t", "TextGeneration", "theirs", "Pending", "c"))) == []


def test_what_a_user_deletes_stays_deleted_until_it_is_wanted() -> None:
    play = Play()
    play.serve()
    effects = play.log(reading.InstanceDeleted("i"))
    assert effects[0] == LogLineEffect(
        "info", f"{ID} was taken out of the exo cluster by a user; it stays out of this session."
    )
    assert effects[1:] == [SetRunnerStatus(RUNNER, RunnerShuttingDown()), SetRunnerStatus(RUNNER, RunnerShutdown())]
    assert not [effect for effect in play.model(state="cold") if isinstance(effect, SendCommand)]
    (create,) = [effect for effect in play.on(JoinedEvent()) if isinstance(effect, SendCommand)]
    assert isinstance(create.command, CreateInstance)


def test_a_user_may_also_create_it_again() -> None:
    play = Play()
    play.serve()
    play.log(reading.InstanceDeleted("i"))
    assert play.log(created("again"))[-1] == SetRunnerStatus(f"r-again-{ME}", RunnerReady())
    assert play.worker.withdrawn == frozenset()


def test_a_cluster_that_took_us_for_dead_gets_us_back() -> None:
    play = Play()
    play.serve()
    tell, introduce, *_ = play.log(reading.NodeTimedOut(ME))
    assert isinstance(tell, LogLineEffect)
    assert introduce == PublishNodeInfo()
    effects = play.log(reading.InstanceDeleted("i"))
    assert next(effect.command for effect in effects if isinstance(effect, SendCommand)).__class__ is CreateInstance


def test_nothing_is_decided_on_a_picture_known_to_be_old() -> None:
    """Our link was out until we were forgotten: the log is read to its end before anything is created."""
    play = Play()
    play.serve()
    assert kinds(play.log(reading.NodeTimedOut(ME), reading.InstanceDeleted("i"), fresh=False)) == [
        "LogLineEffect",
        "PublishNodeInfo",
    ]
    effects = play.log(reading.NodeHeard("mac", NodeFacts()))
    assert [type(effect.command) for effect in effects if isinstance(effect, SendCommand)] == [CreateInstance]


# ── tasks ──


def test_an_answer_from_its_first_piece_to_its_last() -> None:
    play = Play()
    play.serve()
    assert play.ask() == [BeginTask(play.replica.tasks["t"], MODEL.id)]
    assert play.on(AnswerEvent("t", Progress("queued", 1))) == []
    assert play.on(AnswerEvent("t", Progress("loading"))) == []
    assert play.on(AnswerEvent("t", Progress("prefill", 3, 7))) == [
        SetTaskStatus("t", "Running"),
        SetRunnerStatus(RUNNER, RunnerRunning()),
        SendChunk("c-t", PrefillProgressChunk(ID, 3, 7)),
    ]
    assert play.on(AnswerEvent("t", Piece("so", 5, "thinking"))) == [
        SendChunk("c-t", TokenChunk(ID, "so", 5, is_thinking=True))
    ]
    assert play.on(AnswerEvent("t", Piece("yes", 6))) == [SendChunk("c-t", TokenChunk(ID, "yes", 6))]
    assert play.on(AnswerEvent("t", Piece("", 7))) == []
    say, moved, status = play.on(AnswerEvent("t", END))
    assert isinstance(say, SendChunk)
    assert isinstance(say.chunk, TokenChunk)
    assert (say.chunk.text, say.chunk.finish_reason) == ("", "stop")
    assert say.chunk.usage is not None
    assert say.chunk.usage.total_tokens == 10
    assert say.chunk.usage.prompt_tokens_details.cached_tokens == 2
    assert say.chunk.usage.completion_tokens_details.reasoning_tokens == 1
    assert say.chunk.stats is not None
    assert (say.chunk.stats.prompt_tps, say.chunk.stats.generation_tps) == (10.0, 8.0)
    assert say.chunk.stats.prefix_cache_hit == "partial"
    assert (moved, status) == (SetTaskStatus("t", "Complete"), SetRunnerStatus(RUNNER, RunnerReady()))
    assert play.on(AnswerEvent("t", Piece("late"))) == []
    assert play.log(reading.TaskMoved("t", "Complete"), reading.TaskDeleted("t")) == []
    assert play.worker.jobs == {}


def test_a_runner_is_ready_when_its_last_answer_is_over() -> None:
    play = Play()
    play.serve()
    for task in ("a", "b"):
        play.ask(task)
        play.on(AnswerEvent(task, Piece("x")))
    assert not [effect for effect in play.on(AnswerEvent("a", END)) if isinstance(effect, SetRunnerStatus)]
    assert play.on(AnswerEvent("b", END))[-1] == SetRunnerStatus(RUNNER, RunnerReady())


def test_tool_calls_end_an_answer() -> None:
    play = Play()
    play.serve()
    play.ask()
    play.on(AnswerEvent("t", Piece('{"name": "f", "argum', kind="tool_call")))
    assert play.on(AnswerEvent("t", Piece('ents": {"a": 1}}', kind="tool_call"))) == []
    say = play.on(AnswerEvent("t", Finish("tool_calls")))[0]
    assert isinstance(say, SendChunk)
    assert isinstance(say.chunk, ToolCallChunk)
    assert (say.chunk.tool_calls[0].name, say.chunk.tool_calls[0].arguments) == ("f", '{"a": 1}')


def test_a_failure_is_an_end_too() -> None:
    play = Play()
    play.serve()
    play.ask()
    assert play.on(AnswerEvent("t", RunError("It broke.", "Look at the log."))) == [
        SetTaskStatus("t", "Running"),
        SetRunnerStatus(RUNNER, RunnerRunning()),
        SendChunk("c-t", ErrorChunk(ID, "It broke. Look at the log.")),
        SetTaskStatus("t", "Complete"),
        SetRunnerStatus(RUNNER, RunnerReady()),
    ]


def test_whoever_cancels_hears_nothing_more() -> None:
    play = Play()
    play.serve()
    play.ask()
    play.on(AnswerEvent("t", Piece("x")))
    assert play.log(reading.TaskMoved("t", "Cancelled")) == [
        CancelTask("t", "c-t"),
        SetRunnerStatus(RUNNER, RunnerReady()),
    ]
    assert play.on(AnswerEvent("t", Piece("y"))) == []
    assert play.worker.jobs == {}


def test_a_deleted_task_is_stopped_as_well() -> None:
    play = Play()
    play.serve()
    play.ask()
    assert play.log(reading.TaskDeleted("t")) == [CancelTask("t", "c-t")]


def test_a_task_of_a_former_life_is_ended() -> None:
    play = Play()
    play.replica.apply(created("i"))
    play.replica.apply(reading.TaskCreated(Task("t", "TextGeneration", "i", "Running", "c-t")))
    effects = play.on(CaughtUpEvent())
    say = next(effect for effect in effects if isinstance(effect, SendChunk))
    assert isinstance(say.chunk, ErrorChunk)
    assert SetTaskStatus("t", "Failed") in effects
    assert not [effect for effect in effects if isinstance(effect, BeginTask)]
    assert play.log(reading.NodeTimedOut("mac")) == []


def test_an_image_request_gets_an_image_error_and_nothing_else() -> None:
    """Any other chunk for it would end the exo node that asked."""
    play = Play()
    play.serve()
    for kind in ("ImageGeneration", "ImageEdits"):
        say, moved = play.ask(kind, kind=kind)
        assert isinstance(say.chunk, ImageChunk)
        assert moved == SetTaskStatus(kind, "Failed")
    say, moved = play.ask("v", kind="VideoGeneration")
    assert isinstance(say.chunk, ErrorChunk)


def test_an_instance_that_goes_takes_its_answers_with_it() -> None:
    play = Play()
    play.serve()
    play.ask()
    play.on(AnswerEvent("t", Piece("x")))
    effects = play.log(reading.InstanceDeleted("i"))
    assert [effect for effect in effects if isinstance(effect, CancelTask)] == [CancelTask("t", "c-t")]


# ── models that change ──


def test_a_model_that_cannot_be_loaded_leaves_and_comes_back() -> None:
    play = Play()
    play.serve()
    play.ask()
    effects = play.model(state="failed", problem="out of memory")
    assert kinds(effects) == [
        "CancelTask",
        "SetTaskStatus",
        "SetRunnerStatus",
        "SendChunk",
        "SetTaskStatus",
        "SetRunnerStatus",
        "SendCommand",
    ]
    assert SendChunk("c-t", ErrorChunk(ID, "out of memory")) in effects
    assert SetRunnerStatus(RUNNER, RunnerFailed("out of memory")) in effects
    assert play.log(reading.InstanceDeleted("i"))[-1] == SetRunnerStatus(RUNNER, RunnerShutdown())
    assert play.log(created("pushy"))[0] == SetRunnerStatus(f"r-pushy-{ME}", RunnerFailed("out of memory"))
    play.log(reading.InstanceDeleted("pushy"))
    assert [type(effect.command) for effect in play.model(state="cold") if isinstance(effect, SendCommand)] == [
        CreateInstance
    ]


def test_a_model_that_is_removed_from_the_board_leaves_the_cluster() -> None:
    play = Play()
    play.serve()
    effects = play.on(ModelsChangedEvent({}))
    assert [type(effect.command) for effect in effects if isinstance(effect, SendCommand)] == [DeleteInstance]
    assert [type(effect.progress) for effect in effects if isinstance(effect, SetDownloadProgress)] == [DownloadPending]


def test_several_models_have_an_instance_each() -> None:
    other = replace(MODEL, id="other", state="cold")
    play = Play(models={ID: MODEL, offers.model_id("other"): other})
    commands = [effect.command for effect in play.on(CaughtUpEvent()) if isinstance(effect, SendCommand)]
    assert sum(isinstance(command, CreateInstance) for command in commands) == 2


def test_models_that_come_while_we_are_not_in_are_kept_for_later() -> None:
    play = Play(models={})
    assert play.on(ModelsChangedEvent({ID: MODEL})) == []
    assert len([effect for effect in play.on(CaughtUpEvent()) if isinstance(effect, SendCommand)]) == 2


# ── downloads, the dashboard, leaving ──


def test_downloads_are_answered_truthfully() -> None:
    play = Play()
    play.serve()

    def asked(kind: str, target: str, model: str) -> list[WorkerEffect]:
        return play.on(CommandEvent(reading.DownloadCommand(kind, target, model, {"PipelineShardMetadata": {}})))

    assert asked("StartDownload", "mac", ID) == []
    for kind in ("StartDownload", "DeleteDownload"):
        (report,) = asked(kind, ME, ID)
        assert isinstance(report, SetDownloadProgress)
        assert isinstance(report.progress, DownloadCompleted)
    (report,) = asked("StartDownload", ME, "mlx-community/X")
    assert isinstance(report, SetDownloadProgress)
    assert isinstance(report.progress, DownloadFailed)
    assert report.progress.shard_metadata == {"PipelineShardMetadata": {}}
    assert asked("CancelDownload", ME, "mlx-community/X") == []


def test_launched_from_the_dashboard() -> None:
    play = Play(models={ID: replace(MODEL, state="cold")}, placement="dashboard")
    effects = play.on(CaughtUpEvent())
    (card,) = [effect.command for effect in effects if isinstance(effect, SendCommand)]
    assert isinstance(card, AddCustomModelCard)
    assert card.model_card.backends == ("MlxCuda",)
    assert card.model_card.storage_size.in_bytes == offers.TOKEN_SIZE
    assert LoadModel(MODEL.id) in play.log(created("i"))
    assert not [
        effect for effect in play.log(reading.InstanceDeleted("i")) if isinstance(effect, LogLineEffect | SendCommand)
    ]


def test_beside_cuda_nodes_the_dashboard_needs_another_backend() -> None:
    play = Play(placement="dashboard")
    play.replica.apply(reading.NodeHeard("gpu", NodeFacts(backends=("MlxCpu", "MlxCuda"))))
    assert backends(play.worker, play.replica) == ("MlxCpu",)


def test_leaving_tells_everybody() -> None:
    play = Play()
    play.serve()
    play.ask()
    play.on(AnswerEvent("t", Piece("x")))
    halt, say, ending, ended, delete = play.on(LeavingEvent())
    assert halt == CancelTask("t", "c-t")
    assert isinstance(say, SendChunk)
    assert isinstance(say.chunk, ErrorChunk)
    assert [ending, ended] == [SetRunnerStatus(RUNNER, RunnerShuttingDown()), SetRunnerStatus(RUNNER, RunnerShutdown())]
    assert isinstance(delete, SendCommand)
    assert play.log(reading.InstanceDeleted("i")) == []
    assert play.on(LeavingEvent()) == []
