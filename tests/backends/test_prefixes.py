"""Saved prefixes: what is decided about them, and what happens to their files."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.backends.ledger import CachedRun
from exo_rkllm.backends.prefix_plan import PrefixCosts, PrefixPlan, PrefixSituation, SavedPrefix, plan, superseded
from exo_rkllm.backends.prefix_store import PrefixStore, PrefixTier

# As on an RK3588 with a 1.7B model.
COSTS = PrefixCosts(prefill=1 / 380, token_bytes=114_704.0)
A, B = CachedRun("a" * 4000, 1000, "x" * 400, 100), CachedRun("b" * 4000, 1000, "y" * 400, 100)
SYSTEM = "s" * 3000


def saved(run: CachedRun, used: float = 1000.0, name: str = "f") -> SavedPrefix:
    return SavedPrefix(Path(name), "memory", COSTS.bytes(run.tokens), run, "key", "m", used)


def situation(prompt: str, hot: CachedRun | None = None, *files: SavedPrefix, **more: Any) -> PrefixSituation:
    tokens = len(prompt) // 4
    at = PrefixSituation(prompt, tokens, hot, files, files, now=1000.0, room=4096)
    return replace(at, **more)


# ── decisions ────────────────────────────────────────────────────────────────────────────────────


def test_first_conversation_is_left_alone() -> None:
    assert plan(situation(A.prompt), COSTS) == PrefixPlan()
    following = A.prompt + A.answer + "and?"
    assert plan(situation(following, A), COSTS) == PrefixPlan(), "it continues what is hot"


def test_displaced_conversation_is_stashed_and_the_next_one_saves_itself() -> None:
    assert plan(situation(B.prompt, A), COSTS) == PrefixPlan(stash=True, save=True)
    assert plan(situation(B.prompt, A, may_stash=False), COSTS) == PrefixPlan(save=True)
    assert plan(situation(B.prompt, A, lasting=False), COSTS) == PrefixPlan(stash=True)


def test_what_is_saved_already_is_not_stashed_but_restored() -> None:
    files = saved(A, name="a"), saved(B, name="b")
    again = A.prompt + A.answer + "and?"
    assert plan(situation(again, B, *files), COSTS) == PrefixPlan(restore=files[0], save=True)


def test_file_is_used_for_the_beginning_that_it_shares() -> None:
    home = CachedRun(SYSTEM + "light on", 750)
    chosen = plan(situation(SYSTEM + "light off", A, saved(home)), COSTS)
    assert chosen.restore is not None
    assert chosen.stash


def test_after_an_abort_a_file_waits_for_a_process_that_is_worth_it() -> None:
    again = situation(A.prompt + A.answer, B, saved(A), may_restore=False)
    assert plan(again, COSTS).restore is None
    assert plan(replace(again, reload=5.0), COSTS).restore is None
    chosen = plan(replace(again, reload=0.5), COSTS)
    assert chosen.restore is not None
    assert chosen.fresh


def test_nothing_is_done_where_it_costs_more_than_it_spares() -> None:
    fast = replace(COSTS, prefill=1e-5)
    assert plan(situation(B.prompt, A, saved(B)), fast) == PrefixPlan()
    assert plan(situation(B.prompt, A), PrefixCosts()) == PrefixPlan(), "nothing was measured yet"
    slow = replace(COSTS, load_speed={"memory": 1e9, "disk": 1e6})
    assert plan(situation(B.prompt, None, saved(B)._replace(tier="disk")), slow).restore is None
    assert not plan(situation(B.prompt, A, room=1000), COSTS).stash, "a run of one token needs room for it"
    assert not plan(situation(B.prompt, A), replace(COSTS, stash=10.0)).stash


def test_old_conversations_are_no_reason_to_save_every_answer() -> None:
    assert not plan(situation(B.prompt, None, saved(A, used=0.0)), COSTS).save
    assert plan(situation(B.prompt, None, saved(A)), COSTS).save
    assert plan(situation(B.prompt, None, rivals=True), COSTS).save


def test_run_that_clears_reuses_nothing_of_what_is_hot() -> None:
    assert plan(situation(A.prompt, A, clears=True), COSTS).stash


def test_longer_file_makes_a_shorter_one_useless() -> None:
    longer = CachedRun(A.prompt + A.answer + "more", 1102)
    assert superseded(saved(A), longer, COSTS)
    assert not superseded(saved(B), longer, COSTS)


def test_costs_follow_the_measurements() -> None:
    costs = PrefixCosts().computed(1000, 2.0).computed(1000, 4.0).computed(3, 99.0)
    assert costs.prefill == pytest.approx(0.003)
    costs = costs.saved(100, 1_000_000, 0.01).loaded(1_000_000, "disk", 0.1)
    assert costs.token_bytes == 10_000
    assert costs.save_speed == pytest.approx(300e6)
    assert costs.load_speed["disk"] == pytest.approx(25e6)


# ── files ────────────────────────────────────────────────────────────────────────────────────────


class Shelf:
    """Folders for a store, and what a library would write into them."""

    def __init__(self, folder: Path) -> None:
        self.memory, self.disk = folder / "run" / "prefixes", folder / "state" / "prefixes"
        self.free = 1 << 30

    def store(self, memory: int = 1000, disk: int = 0) -> PrefixStore:
        tiers = PrefixTier("memory", self.memory, memory), PrefixTier("disk", self.disk, disk)
        return PrefixStore(tiers, lambda: self.free)

    async def put(self, store: PrefixStore, text: str, size: int = 300) -> bool:
        part = store.part(size)
        if part is None:
            return False
        part.write_bytes(text[:1].encode() * size)
        return await store.keep(part, "key", "m", CachedRun(text, 10)) == size

    def files(self) -> list[str]:
        return sorted(
            path.suffix for folder in (self.memory, self.disk) if folder.is_dir() for path in folder.iterdir()
        )


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def texts(store: PrefixStore) -> str:
    return "".join(sorted(one.run.prompt for one in store.of("key")))


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_oldest_makes_room_and_only_the_owner_reads_what_is_left(shelf: Shelf) -> None:
    async def work() -> None:
        store = shelf.store()
        for text in "abc":
            assert await shelf.put(store, text)
        store.touch(store.of("key")[0].path)
        assert await shelf.put(store, "d")
        await store.settled()
        assert texts(store) == "acd"
        assert store.tally("m").evicted == 1
        assert (store.tally("m").files, store.tally("m").bytes, store.used("memory")) == (3, 900, 900)
        assert shelf.files() == [".json"] * 3 + [".kv"] * 3
        for path in shelf.memory.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(shelf.memory.stat().st_mode) == 0o700

    run(work)


def test_what_memory_has_no_room_for_goes_to_disk_and_outlives_the_store(shelf: Shelf) -> None:
    async def work() -> None:
        store = shelf.store(disk=700)
        for text in "abcdef":
            assert await shelf.put(store, text)
            await store.settled()
        assert texts(store) == "bcdef"
        assert {one.run.prompt for one in store.of("key") if one.tier == "disk"} == {"b", "c"}
        assert all(one.path.read_bytes()[:1].decode() == one.run.prompt for one in store.of("key"))

    run(work)
    assert texts(shelf.store(disk=700)) == "bcdef"
    assert texts(shelf.store(disk=300)) in {"bdef", "cdef"}
    assert texts(shelf.store(disk=0)) == "def", "a budget of 0 leaves nothing"
    assert not list(shelf.disk.iterdir())


def test_start_clears_what_is_not_whole(shelf: Shelf) -> None:
    async def work() -> None:
        store = shelf.store()
        for text in "abc":
            await shelf.put(store, text)

    run(work)
    first, second, _ = sorted(shelf.memory.glob("*.kv"))
    first.write_bytes(b"cut")
    second.with_suffix(".json").unlink()
    for name in ("9.part", "x.json", "y.json.part", "z.kv", "old"):
        (shelf.memory / name).write_text(json.dumps([]))
    assert len(texts(shelf.store())) == 1
    assert shelf.files() == [".json", ".kv"]


def test_no_file_is_made_without_room_for_it(shelf: Shelf) -> None:
    async def work() -> None:
        store = shelf.store()
        assert store.part(1001) is None
        shelf.free = 100
        assert store.part(300) is None
        assert shelf.store(memory=0).part(1) is None
        assert shelf.store(memory=0, disk=500).part(400) is not None, "without memory, the disk is first"
        await asyncio.to_thread(shelf.memory.rmdir)
        assert store.part(1) is None

    run(work)


def test_file_that_a_run_starts_from_is_not_evicted_for_the_one_that_it_writes(shelf: Shelf) -> None:
    async def work() -> None:
        store = shelf.store()
        for text in "ab":
            assert await shelf.put(store, text, 400)
        [_, reading] = [one.path for one in store.of("key")]
        store.touch(reading)
        assert store.part(700, reading) is None
        assert texts(store) == "ab", "nothing is given up for a file that has no room"
        assert store.part(600, reading) is not None
        await store.settled()
        assert texts(store) == "b" and reading.exists()

    run(work)


def test_closed_store_saves_only_what_outlives_the_daemon(shelf: Shelf) -> None:
    async def work() -> None:
        store, without_disk = shelf.store(disk=700), shelf.store()
        part = without_disk.part(300)
        assert part is not None
        part.write_text("x")
        for one in (store, without_disk):
            one.close()
        assert await shelf.put(store, "a")
        assert [one.tier for one in store.of("key")] == ["disk"]
        assert await without_disk.keep(part, "key", "m", CachedRun("a", 1)) == 0
        assert without_disk.part(300) is None
        await without_disk.settled()
        assert not list(shelf.memory.iterdir())

    run(work)


def test_load_takes_the_memory_first(shelf: Shelf) -> None:
    async def work() -> None:
        store = shelf.store()
        for text in "abc":
            await shelf.put(store, text)
        shelf.free = 500
        store.make_room(400)
        assert texts(store) == "abc"
        store.make_room(900)
        assert texts(store) == "c"
        store.make_room(9000)
        assert texts(store) == ""
        await store.settled()
        assert shelf.files() == []

    run(work)


def test_library_that_wrote_nothing_costs_nothing(shelf: Shelf) -> None:
    async def work() -> None:
        store = shelf.store()
        part = store.part(10)
        assert part is not None
        assert await store.keep(part, "key", "m", CachedRun("a", 1)) == 0
        part.touch()
        assert await store.keep(part, "key", "m", CachedRun("a", 1)) == 0
        store.discard(part)
        store.drop(Path("nowhere"))
        await store.settled()
        assert shelf.files() == []

    run(work)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_that_cannot_be_made_is_told_and_left(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    shelf.memory.parent.mkdir(mode=0o500)
    assert shelf.store().part(1) is None
    assert "No conversation can be kept in" in caplog.text


def test_disk_that_fails_loses_one_conversation(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        store = shelf.store(disk=700)
        for text in "abc":
            await shelf.put(store, text)
        shelf.disk.rmdir()
        assert await shelf.put(store, "d")
        await store.settled()
        assert texts(store) == "bcd"
        assert "could not be moved" in caplog.text

    run(work)
