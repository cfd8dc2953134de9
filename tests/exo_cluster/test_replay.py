"""Captured scenarios drive this node to what the prototype sent, ids aside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.exo_cluster.captured import Record, scenarios
from tests.exo_cluster.replaying import Replay

ME = "c0ffee00c0ffee00c0ffee00c0ffee01"
ONE_SESSION = (
    "01_join_client_create_instance",
    "02_chat_stream",
    "03_chat_collect",
    "03b_thinking",
    "03c_tool_call",
    "03d_multi_turn_tool_result",
    "03e_error_chunk",
    "03f_other_apis",
    "03g_image_input",
    "04_cancel_stream_disconnect",
    "04b_cancel_collect_disconnect",
    "04c_cancel_by_api",
    "05_parallel_requests",
)


def test_one_session_from_joining_to_parallel_requests() -> None:
    replay = Replay(ME)
    replay.start(0.0)
    for name in ONE_SESSION:
        replay.play(scenarios()[name])
        assert replay.rest() == [], name


def one_session() -> Replay:
    replay = Replay(ME)
    replay.start(0.0)
    for name in ONE_SESSION:
        replay.play(scenarios()[name])
    return replay


def test_a_restart_under_the_same_id_and_what_follows() -> None:
    first = one_session()
    records = scenarios()["06_restart_same_id_mid_stream"]
    first.play(records[:70])
    second = Replay(ME)
    second.start(first.now)
    second.play(records[70:])
    assert second.rest() == []
    second.play(scenarios()["07_delete_instance_mid_stream"])
    assert len(second.halted) == 1
    second.invite()
    second.play(scenarios()["08_create_instance_again"])
    second.play_until_leaving(scenarios()["09_graceful_leave_mid_stream"])
    assert second.rest() == []


def joined(scenario: str, me: str, **options: Any) -> Replay:
    """A scenario that begins with joining."""
    replay = Replay(me, **options)
    replay.start(0.0)
    replay.play(scenarios()[scenario])
    return replay


def test_a_worker_without_bookkeeping() -> None:
    """Transcript 12 is what this node does: no task of its own in the cluster's state."""
    replay = Replay("a14a7a3dc20d0df3bc8b589dca30f30")
    replay.start(0.0)
    replay.play_until_leaving(scenarios()["12_minimal_worker"])
    assert replay.rest() == []


def test_a_load_that_fails() -> None:
    """The prototype let the model's card and files stay, as if the board could answer with it."""
    ends = ["NodeDownloadProgress/DownloadPending", "DeleteCustomModelCard"]
    replay = joined("13_load_fails", "14907297e8ad46d8ff2ebf8249e87c76", more=ends)
    assert replay.rest() == []
    assert replay.extra == ends


def test_launched_from_the_dashboard() -> None:
    replay = Replay("58371f3fd788cd9d1126d395312d83b8", placement="dashboard", kinds_only=True)
    replay.start(0.0)
    replay.play_until_leaving(scenarios()["15_place_instance_by_api"])
    assert replay.rest() == []
    assert replay.loads == ["Qwen3-1.7B-w8a8-rk3588"]


def test_an_mlx_model_placed_on_us_is_refused() -> None:
    """The prototype let the failed runner's entry stay; this node ends it too."""
    ends = ["RunnerStatusUpdated/RunnerShuttingDown", "RunnerStatusUpdated/RunnerShutdown"]
    replay = Replay("38f0dfe0f5133d5afa56fd9842e7e3da", kinds_only=True, more=ends)
    replay.models.clear()
    replay.start(0.0)
    replay.play(scenarios()["16_mlx_instance_rejected"])
    assert replay.rest() == []
    assert replay.extra == ends


def split(scenario: str, master: str) -> tuple[Sequence[Record], Sequence[Record]]:
    """Before and after the first event of a master's is heard."""
    records = scenarios()[scenario]
    first = next(
        index
        for index, record in enumerate(records)
        if record.topic == "global_events" and record.message["session"]["master_node_id"].startswith(master)
    )
    return records[:first], records[first:]


def test_masters_that_die_and_links_that_are_cut() -> None:
    """One story: the parts in which the prototype talked to nobody are listened to, the others compared.

    When the first session comes back, a task of it is still running there; the prototype left it so, we end it.
    """
    ends = ["ChunkGenerated/ErrorChunk", "TaskStatusUpdated/Failed"]
    replay = Replay(ME, more=ends)
    replay.start(0.0)
    before, after = split("17_master_killed", "7cecec6a")
    replay.watch(before)
    replay.play(after, pause=after[0].at - before[-1].at)
    replay.play(scenarios()["18_second_exo_joins_again"])
    assert replay.rest() == []
    assert replay.membership.master.startswith("7cecec6a")

    before, after = split("19_master_link_down", "a574a599")
    replay.watch(before)
    replay.play(after, pause=after[0].at - before[-1].at)
    assert replay.rest() == replay.extra == []
    assert replay.membership.master.startswith("a574a599")
    replay.play(scenarios()["20_partition_heals"])
    assert replay.rest() == []
    assert replay.extra == ends
    assert replay.membership.master.startswith("7cecec6a")
