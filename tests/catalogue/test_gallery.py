"""The gallery: a search of a Hub on loopback for one board, short names, and pulls that can be paused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import pytest

from exo_rkllm.catalogue import gallery
from exo_rkllm.catalogue.choice import BoardRoom
from exo_rkllm.catalogue.downloads import MOST, Downloads, DownloadStatus
from exo_rkllm.catalogue.gallery import SHORT_NAMES, GalleryItem, installed_files, repository_of, search
from exo_rkllm.catalogue.hub import Access, Hub
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.catalogue.pull import PullTarget, pull, stage_key
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.errors import Busy, ModelNotFound, PullError
from exo_rkllm.socs import BY_NAME
from simulator.model_file import SimModel, write
from tests.hub import CHUNK, LocalHub, large

RK3588 = BoardRoom("rk3588", 16_000_000_000, 12_000_000_000)
DOCUMENTED = (Path(__file__).parents[2] / "docs/models.md").read_text()
QWEN, LENS = "maker/Qwen3-4B-rk3588-1.2.2", "maker/Lens-2B-RKLLM"


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub() as one:
        small = large(b"x" * 1000)
        one.add(QWEN, {"Qwen3-4B_w8a8_rk3588.rkllm": small, "Qwen3-4B_w8a8_g128_rk3588.rkllm": small}, downloads=50)
        one.add(
            LENS,
            {
                "Lens-2B_RK3576_w4a16.rkllm": small,
                "Lens-2B_RK3588_w8a8.rkllm": large(b"x" * 5000),
                "lens-2b_vision_rk3588.rknn": large(b"x" * 2000),
            },
            tags=("rkllm",),
            downloads=90,
        )
        one.add("maker/Poet-7B-RK3576-RKLLM", {"Poet_RK3576_w4a16.rkllm": small}, downloads=900)
        one.add("maker/rkllm-datasets", {"README.md": b"nothing to run"}, downloads=9000)
        one.add("untagged/Qwen3-8B", {"Qwen3-8B_w8a8_rk3588.rkllm": small}, tags=("rkllm",))
        yield one


async def found(hub: LocalHub, words: str, room: BoardRoom = RK3588, **installed: str) -> tuple[GalleryItem, ...]:
    async with Hub(Access(hub.endpoint)) as client:
        return await search(client, words, room, installed)


async def test_search_shows_what_fits_first_with_file_size_and_what_it_can_do(hub: LocalHub) -> None:
    items = await found(hub, "")
    assert [item.repo for item in items] == [LENS, QWEN, "untagged/Qwen3-8B", "maker/Poet-7B-RK3576-RKLLM"]
    lens, qwen, _, poet = items
    assert (lens.target, lens.quantization) == (f"{LENS}:Lens-2B_RK3588_w8a8.rkllm", "w8a8")
    assert (lens.size, lens.sees, lens.downloads) == (7000, True, 90)
    assert qwen.file == "Qwen3-4B_w8a8_rk3588.rkllm" and not qwen.sees
    assert poet.unfit == "maker/Poet-7B-RK3576-RKLLM has files for RK3576 only, and this board is an RK3588."


async def test_search_finds_names_with_every_word_by_soc_by_rkllm_and_by_tag(hub: LocalHub) -> None:
    assert [item.repo for item in await found(hub, "qwen3")] == [QWEN, "untagged/Qwen3-8B"]
    assert [item.repo for item in await found(hub, "qwen3 8b")] == ["untagged/Qwen3-8B"]
    assert await found(hub, "nothing-of-the-kind") == ()
    assert all("search=" in one.path for one in hub.asked if "/api/models?" in one.path)


async def test_search_tells_what_is_too_large_for_memory_or_for_now_and_what_is_here(hub: LocalHub) -> None:
    target = f"{LENS}:Lens-2B_RK3588_w8a8.rkllm"
    [item] = await found(hub, "lens", BoardRoom("rk3588", 6000, 5000))
    assert "this board has 0.0 GB of memory" in item.unfit
    [item] = await found(hub, "lens", BoardRoom("rk3588", 9000, 5000), **{target: "lens"})
    assert (item.unfit, item.id) == ("", "lens")
    assert "are free now" in item.note
    assert installed_files({"lens": f"{LENS}@abc:Lens-2B_RK3588_w8a8.rkllm", "mine": "/home/me/m.rkllm"}) == {
        target: "lens"
    }


async def test_search_goes_on_without_the_size_of_a_repository_that_cannot_be_read(hub: LocalHub) -> None:
    hub.repos[LENS].gated = True
    assert [item.size for item in await found(hub, "lens")] == [0]


@pytest.mark.parametrize("listing", [b"<html>", b'{"a": 1}', b'[{"id": 3, "siblings": [7]}, 5]', b"["])
async def test_answer_that_is_no_list_of_models_is_one_sentence(hub: LocalHub, listing: bytes) -> None:
    hub.faults.listing = listing
    with pytest.raises(PullError, match="HF_ENDPOINT"):
        await found(hub, "x")


async def test_hostile_names_in_a_listing_are_left_out(hub: LocalHub) -> None:
    rows = [
        {"id": "../etc", "siblings": [{"rfilename": "a-rk3588.rkllm"}]},
        {"id": "a/b", "downloads": "many", "siblings": [{"rfilename": "../x.rkllm"}, {"rfilename": "m.rkllm"}]},
        {"id": "a/c"},
    ]
    hub.faults.listing = json.dumps(rows).encode()
    assert [(item.target, item.downloads) for item in await found(hub, "x")] == [("a/b:m.rkllm", 0)]


# ── short names ──────────────────────────────────────────────────────────────────────────────────


def test_short_names_are_names_of_repositories_for_known_socs() -> None:
    for (name, soc), repo in SHORT_NAMES.items():
        assert name == name.lower() and "/" not in name and ":" not in name
        assert soc in BY_NAME and BY_NAME[soc].rkllm
        assert PullTarget.parse(repo).repo == repo
        assert f"| `{name}` | {soc.upper()} | `{repo}` |\n" in DOCUMENTED


@pytest.mark.parametrize("name", ["qwen3:1.7b", "qwen3-1.7b", "Qwen3:1.7B", "qwen3-1.7b:latest"])
def test_short_name_means_the_repository_for_this_soc(name: str) -> None:
    assert PullTarget.of(name, "rk3588s").repo == "GatekeeperZA/Qwen3-1.7B-RKLLM-v1.2.3"
    assert gallery.is_short_name(name)
    assert gallery.short_name("GatekeeperZA/Qwen3-1.7B-RKLLM-v1.2.3", "rk3588") == "qwen3-1.7b"


@pytest.mark.parametrize(
    ("name", "soc", "says"),
    [
        ("qwen3:1.7b", "rk3576", "is for RK3588, and this board is an RK3576"),
        ("qwen3:1.7b", "", "--soc says which SoC"),
        ("qwen3:1.8b", "rk3588", "Near it: qwen3-1.7b"),
        ("zzz", "rk3588", "There is no short name 'zzz'."),
    ],
)
def test_short_name_that_means_nothing_here_says_why(name: str, soc: str, says: str) -> None:
    with pytest.raises(ModelNotFound, match=says) as refused:
        repository_of(name, soc)
    assert "exo-rkllm search" in refused.value.hint


# ── pulls that go on by themselves ───────────────────────────────────────────────────────────────


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    return write(tmp_path / "m.rkllm", SimModel(size=40 * CHUNK)).read_bytes()


@pytest.fixture
async def pulls(hub: LocalHub, tmp_path: Path, weights: bytes) -> AsyncIterator[Downloads]:
    hub.add("org/tower", {"Tower_w8a8_rk3588.rkllm": large(weights)})
    catalogue = Catalogue(tmp_path / "models")

    def steps(target: str) -> AsyncGenerator[PullProgress, None]:
        return pull(catalogue, PullTarget.of(target, "rk3588"), Access(hub.endpoint), soc="rk3588")

    def discard(target: str, file: str) -> None:
        catalogue.discard_stage(stage_key(PullTarget.parse(target).repo, file))

    downloads = Downloads(steps, discard)
    yield downloads
    await downloads.close()


async def until(condition: Callable[[], object]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    assert condition()


TARGET = "org/tower"


def row(pulls: Downloads) -> DownloadStatus:
    [one] = pulls.status()
    return one


async def test_paused_pull_keeps_its_part_and_resumes_it(
    pulls: Downloads, hub: LocalHub, tmp_path: Path, weights: bytes
) -> None:
    hub.faults.pause = 0.005
    pulls.start(TARGET)
    await until(lambda: row(pulls).done > 0)
    pulls.start(TARGET)  # it runs already
    await pulls.pause(TARGET)
    assert (row(pulls).state, row(pulls).total) == ("paused", len(weights))
    sent = hub.sent
    await asyncio.sleep(0.05)
    assert hub.sent <= sent + CHUNK
    [part] = (tmp_path / "models").glob(".pull-*/*.part")
    assert 0 < part.stat().st_size < len(weights)
    hub.faults.pause = 0
    kept = part.stat().st_size
    pulls.start(TARGET)
    await until(lambda: row(pulls).state == "done")
    ranges = [one.headers["Range"] for one in hub.asked if one.origin == "cdn" and "Range" in one.headers]
    assert ranges == [f"bytes={kept}-"]
    assert row(pulls).id == "tower"
    assert [entry.id for entry in Catalogue(tmp_path / "models").list()] == ["tower"]
    await pulls.cancel(TARGET)
    assert pulls.status() == ()
    assert [entry.id for entry in Catalogue(tmp_path / "models").list()] == ["tower"]


async def test_cancelled_pull_leaves_nothing(pulls: Downloads, hub: LocalHub, tmp_path: Path) -> None:
    hub.faults.pause = 0.005
    pulls.start(TARGET)
    await until(lambda: row(pulls).done > 0)
    await pulls.cancel(TARGET)
    assert pulls.status() == ()
    assert list((tmp_path / "models").iterdir()) == []
    with pytest.raises(ModelNotFound, match="not being pulled"):
        await pulls.pause(TARGET)


async def test_failed_pull_says_why_and_can_be_started_again(pulls: Downloads, hub: LocalHub) -> None:
    gone = hub.repos.pop("org/tower")
    pulls.start(TARGET)
    await until(lambda: row(pulls).state == "failed")
    assert "org/tower" in row(pulls).error
    hub.repos["org/tower"] = gone
    pulls.start(TARGET)
    assert (row(pulls).state, row(pulls).error) == ("running", "")
    await until(lambda: row(pulls).state == "done")


async def test_pull_that_breaks_off_is_no_longer_under_way(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(target: str) -> AsyncGenerator[PullProgress, None]:
        yield PullProgress("resolving", target)
        raise ZeroDivisionError

    downloads = Downloads(broken, lambda _target, _file: None)
    downloads.start(TARGET)
    await until(lambda: row(downloads).state == "failed")
    assert (row(downloads).error, row(downloads).hint) == ("The pull failed: ZeroDivisionError.", "exo-rkllm logs")
    assert "A pull broke off." in caplog.text


async def test_one_pull_runs_at_a_time_and_the_others_wait_their_turn() -> None:
    ends: dict[str, asyncio.Event] = {}

    async def waits(target: str) -> AsyncGenerator[PullProgress, None]:
        ends[target] = asyncio.Event()
        try:
            yield PullProgress("note", "", target)
            await ends[target].wait()
            yield PullProgress("done", "ready", id=target)
        finally:
            del ends[target]

    def states() -> str:
        assert len(ends) <= 1
        return " ".join(f"{one.target}:{one.state}" for one in pulls.status())

    async def become(wanted: str) -> None:
        await until(lambda: states() == wanted)

    pulls = Downloads(waits, lambda target, _file: discarded.append(target))
    discarded: list[str] = []
    for name in "abcd":
        pulls.start(name)
    pulls.start("c")  # it waits already
    assert states() == "a:running b:waiting c:waiting d:waiting"
    await until(lambda: "a" in ends)
    await pulls.pause("a")
    await become("a:paused b:running c:waiting d:waiting")
    await pulls.pause("c")
    pulls.start("a")
    assert states() == "a:waiting b:running c:paused d:waiting"
    await asyncio.gather(pulls.cancel("a"), pulls.cancel("a"))
    assert discarded == ["a"]
    ends["b"].set()
    await become("b:done c:paused d:running")
    pulls.start("c")
    await pulls.cancel("d")
    await become("b:done c:running")
    pulls.start("e")
    await pulls.close()
    assert (states(), ends) == ("b:done c:running e:waiting", {})


async def test_rows_that_are_over_make_way_and_running_ones_do_not() -> None:
    ended = asyncio.Event()

    async def waits(target: str) -> AsyncGenerator[PullProgress, None]:
        yield PullProgress("note", target)
        await ended.wait()
        yield PullProgress("done", "ready", id=target)

    pulls = Downloads(waits, lambda _target, _file: None)
    for number in range(MOST):
        pulls.start(f"a/{number}")
    assert [one.state for one in pulls.status()] == ["running"] + (MOST - 1) * ["waiting"]
    with pytest.raises(Busy):
        pulls.start("a/more")
    await pulls.pause("a/0")
    pulls.start("a/0")  # needs no room: it has a row
    ended.set()
    await until(lambda: all(one.state == "done" for one in pulls.status()))
    pulls.start("a/more")
    assert [one.target for one in pulls.status()] == [*(f"a/{number}" for number in range(1, MOST)), "a/more"]
    await pulls.close()
