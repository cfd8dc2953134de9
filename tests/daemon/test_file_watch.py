"""A library that is installed, or a model that is imported, while the daemon runs: the kernel reports it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from exo_rkllm.daemon.file_watch import ANY, SETTLE, FileWatch


class Calls:
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
            await asyncio.wait_for(self._event.wait(), SETTLE * 2)


@pytest_asyncio.fixture
async def calls(tmp_path: Path) -> AsyncIterator[Calls]:
    calls = Calls()
    paths = [tmp_path / "lib/exo-rkllm/librkllmrt.so", tmp_path / "opt/librkllmrt.so"]
    watch = FileWatch(lambda: paths, calls)
    yield calls
    watch.close()


async def test_watch_reports_a_file_in_a_folder_that_comes_later(tmp_path: Path, calls: Calls) -> None:
    (tmp_path / "lib").mkdir()
    await calls.wait()
    (tmp_path / "lib/exo-rkllm").mkdir()
    await calls.wait()
    (tmp_path / "lib/exo-rkllm/librkllmrt.so").write_text("a library")
    await calls.wait()
    before = calls.times
    await calls.nothing()
    assert calls.times == before


async def test_watch_reports_a_tree_that_comes_and_goes(tmp_path: Path, calls: Calls) -> None:
    (tmp_path / "elsewhere/exo-rkllm").mkdir(parents=True)
    (tmp_path / "elsewhere/exo-rkllm/librkllmrt.so").write_text("a library")
    (tmp_path / "elsewhere").rename(tmp_path / "lib")
    await calls.wait()
    (tmp_path / "lib/exo-rkllm/librkllmrt.so").write_text("another library")
    await calls.wait()
    shutil.rmtree(tmp_path / "lib")
    await calls.wait()


async def test_watch_ignores_other_files(tmp_path: Path, calls: Calls) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "opt").mkdir()
    await calls.wait()
    (tmp_path / "opt/other.so").write_text("not ours")
    await calls.nothing()


async def test_slow_copy_is_one_change(tmp_path: Path, calls: Calls) -> None:
    (tmp_path / "opt").mkdir()
    await calls.wait()
    before = calls.times
    with (tmp_path / "opt/librkllmrt.so").open("w") as file:
        for _ in range(3):
            file.write("part")
            file.flush()
            await asyncio.sleep(0.01)
    await calls.wait()
    assert calls.times == before + 1


async def test_watch_of_a_folder_reports_every_entry_but_hidden_ones(tmp_path: Path) -> None:
    calls = Calls()
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "one").mkdir()
    watch = FileWatch(lambda: [folder / ANY, *(one / "model.toml" for one in folder.iterdir())], calls)
    (folder / ".pull-x").mkdir()
    await calls.nothing()
    (folder / ".pull-x").rename(folder / "two")
    await calls.wait()
    (folder / "two/model.toml").write_text("edited in place")
    await calls.wait()
    (folder / "one").rename(folder / ".trash-one")
    await calls.wait()
    watch.close()
