"""A library that is installed while the daemon runs is noticed, by the kernel's word and not by looking again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from exo_rkllm.daemon import library_watch
from exo_rkllm.daemon.library_watch import LibraryWatch


class Seen:
    def __init__(self) -> None:
        self.times = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.times += 1
        self._event.set()

    async def wait(self) -> None:
        await asyncio.wait_for(self._event.wait(), 3)
        self._event.clear()

    async def nothing(self) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(self._event.wait(), library_watch.SETTLE * 2)


@pytest_asyncio.fixture
async def seen(tmp_path: Path) -> AsyncIterator[Seen]:
    found = Seen()
    watching = LibraryWatch([tmp_path / "lib/exo-rkllm/librkllmrt.so", tmp_path / "opt/librkllmrt.so"], found)
    yield found
    watching.close()


async def test_in_a_folder_that_was_not_there_either(tmp_path: Path, seen: Seen) -> None:
    (tmp_path / "lib").mkdir()
    await seen.wait()
    (tmp_path / "lib/exo-rkllm").mkdir()
    await seen.wait()
    (tmp_path / "lib/exo-rkllm/librkllmrt.so").write_text("a library")
    await seen.wait()
    before = seen.times
    await seen.nothing()
    assert seen.times == before


async def test_a_whole_tree_at_once_and_its_end(tmp_path: Path, seen: Seen) -> None:
    (tmp_path / "elsewhere/exo-rkllm").mkdir(parents=True)
    (tmp_path / "elsewhere/exo-rkllm/librkllmrt.so").write_text("a library")
    (tmp_path / "elsewhere").rename(tmp_path / "lib")
    await seen.wait()
    (tmp_path / "lib/exo-rkllm/librkllmrt.so").write_text("another library")
    await seen.wait()
    shutil.rmtree(tmp_path / "lib")
    await seen.wait()


async def test_what_is_not_looked_for_wakes_nobody(tmp_path: Path, seen: Seen) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "opt").mkdir()
    await seen.wait()
    (tmp_path / "opt/other.so").write_text("not ours")
    await seen.nothing()


async def test_a_slow_copy_is_one_change(tmp_path: Path, seen: Seen) -> None:
    (tmp_path / "opt").mkdir()
    await seen.wait()
    before = seen.times
    with (tmp_path / "opt/librkllmrt.so").open("w") as file:
        for _ in range(3):
            file.write("part")
            file.flush()
            await asyncio.sleep(0.01)
    await seen.wait()
    assert seen.times == before + 1
