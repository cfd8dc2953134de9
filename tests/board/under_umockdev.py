"""Cases for real libudev and real pyudev on a board that is not there; test_umockdev.py runs them preloaded."""

from __future__ import annotations

import asyncio
import os
import resource
import selectors
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pyudev

from bench.usage import used
from exo_rkllm.board.detect import Board, detect
from exo_rkllm.board.sampler import Sampler
from exo_rkllm.board.watch import BoardWatch, Change, Monitor
from exo_rkllm.errors import ExoRkllmError
from tests.board.umock import TestBed
from tests.daemon.running import Daemon, House, house_of
from tests.grafana.recording import Recording, firing
from tests.simulated import Library

ROOT = Path("/")
IDLE = 8
NPU = "/sys/devices/platform/fdab0000.npu"
# One of each shape of devices. Trees whose point is a hole in /dev or /proc are only true as plain folders.
SHAPES = (
    "orangepi-5-plus",
    "rk3588s-mainline",
    "rk3588-mainline-disabled",
    "rk3588-mainline-unbound",
    "rk3588-dkms-on-mainline",
    "rk3588-headless",
    "rk3576-soc-bus",
    "rk3562-vendor",
    "rk3568-cma",
    "rv1126b-misc",
    "deferred",
    "no-driver",
    "devfreq-missing",
    "model-hostile",
    "coprocessor",
)


@pytest.fixture
def bed() -> Iterator[TestBed]:
    bed = TestBed()
    yield bed
    bed.close()


@pytest.mark.parametrize("profile", SHAPES)
def test_libudevs_view_agrees_with_the_plain_tree(profile: str, bed: TestBed, board: Callable[[str], Path]) -> None:
    bed.add(profile)
    mocked, plain = detect(ROOT), detect(board(profile))
    # Files outside of /sys fall through to the host where the tree has none, and the host may be a container.
    assert replace(mocked, container="") == replace(plain, container="")
    expected = mocked.npu.devices if mocked.npu else ()
    assert set(expected) <= {device.sys_name for device in pyudev.Context().list_devices(subsystem="platform")}


def driver(bed: TestBed, *, bound: bool) -> None:
    """What the kernel does to sysfs when a driver is bound or unbound, and then says."""
    link, row = bed.root / NPU[1:] / "driver", bed.root / "sys/bus/platform/drivers/RKNPU/fdab0000.npu"
    if bound:
        link.symlink_to("../../../bus/platform/drivers/RKNPU")
        row.symlink_to("../../../../devices/platform/fdab0000.npu")
    else:
        link.unlink()
        row.unlink()
    bed.uevent(NPU, "bind" if bound else "unbind")


def settle(seconds: float = 0.3) -> None:
    time.sleep(seconds)


def test_npu_changes_are_reported_and_display_changes_are_not(bed: TestBed) -> None:
    bed.add("orangepi-5-plus")
    monitor = Monitor()
    bed.uevent(NPU, "unbind")
    bed.uevent("/sys/devices/platform/display-subsystem/drm/card0", "change")
    bed.uevent("/sys/devices/platform/display-subsystem", "bind")
    bed.uevent(f"{NPU}/drm/renderD129", "remove")
    bed.uevent(f"{NPU}/drm/renderD129", "add")
    settle()
    assert monitor.drain() == [
        Change("unbind", "platform", "fdab0000.npu"),
        Change("remove", "drm", "renderD129"),
        Change("add", "drm", "renderD129"),
    ]
    assert monitor.drain() == []
    monitor.close()


async def test_unbound_and_rebound_driver_is_followed(bed: TestBed) -> None:
    bed.add("orangepi-5-plus")
    seen: list[tuple[str, str]] = []
    changed = asyncio.Event()

    def on_change(before: Board, after: Board) -> None:
        seen.append((before.state, after.state))
        changed.set()

    monitor = Monitor()
    watch = BoardWatch(ROOT, on_change)
    watch.start(asyncio.get_running_loop(), monitor)
    for bound in (False, True):
        driver(bed, bound=bound)
        await asyncio.wait_for(changed.wait(), 2)
        changed.clear()
    assert seen == [("vendor_ready", "no_driver"), ("no_driver", "vendor_ready")]
    assert watch.sources.names == ("fdab0000.npu",)
    watch.close()
    driver(bed, bound=False)
    await asyncio.sleep(0.2)
    assert len(seen) == 2
    watch.close()


async def test_event_without_a_change_is_not_reported(bed: TestBed) -> None:
    bed.add("orangepi-5-plus")
    seen: list[Board] = []
    watch = BoardWatch(ROOT, lambda _, after: seen.append(after))
    watch.start(asyncio.get_running_loop(), Monitor())
    bed.uevent(NPU, "bind")
    await asyncio.sleep(0.3)
    assert seen == []
    watch.close()


# ── a real daemon on it ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def house(bed: TestBed, library: Library) -> Iterator[House]:
    """The daemon reads / and listens to libudev as on a board; both are the test bed's."""
    bed.add("orangepi-5-plus")
    with tempfile.TemporaryDirectory() as folder:  # a Unix socket's path is short
        one = house_of(Path(folder))
        one.environment |= {
            "LD_PRELOAD": os.environ["LD_PRELOAD"],
            "UMOCKDEV_DIR": str(bed.root),
            "RKLLM_SIM_ROOT": str(bed.root),
            "EXO_RKLLM_RUNTIME_LIBRARY": str(library("1.3.0")),
        }
        with one.stack:
            yield one


def amid_an_answer(house: House, make_model: Callable[..., Path]) -> tuple[Daemon, Iterator[dict[str, Any]]]:
    # One core, since the library wants as many CPUs, and this machine may have two.
    house.simulated("lamp", make_model, npu_cores=1, reply="A lamp. " * 500, decode_tps=50.0)
    daemon = house.start()
    answer = daemon.ask("lamp", "What is a lamp?")
    assert any(event.get("text") for event in answer), daemon.text
    return daemon, answer


def test_unbound_driver_ends_the_models_and_a_rebound_one_serves_again(
    bed: TestBed, house: House, make_model: Callable[..., Path]
) -> None:
    daemon, answer = amid_an_answer(house, make_model)
    driver(bed, bound=False)
    with pytest.raises(ExoRkllmError, match="no driver is bound to it"):
        list(answer)
    lost = daemon.wait_for(lambda status: status["unavailable_reason"])
    assert "fdab0000.npu is on and no driver is bound" in lost["unavailable_reason"]
    daemon.wait_for(lambda status: not any(model["state"] == "ready" for model in status["models"]))
    recording = Recording()
    page = recording.scrape("unbound", daemon.status()["listening"][0])
    assert page["rkllm_worker_restarts_total", (("model", "lamp"), ("reason", "npu_unavailable"))] == 1
    recording.hold("unbound", 10)
    assert firing(recording, {"unbound": {"RkllmNpuUnusable", "RkllmNotServing"}}, house.folder) == ""
    driver(bed, bound=True)
    daemon.wait_for(lambda status: not status["unavailable_reason"])
    assert "A lamp." in daemon.answer("lamp", "What is a lamp?", max_tokens=8)


def test_driver_that_is_back_before_anybody_looked_counts_as_unbound(
    bed: TestBed, house: House, make_model: Callable[..., Path]
) -> None:
    daemon, answer = amid_an_answer(house, make_model)
    bed.uevent(NPU, "unbind")
    bed.uevent(NPU, "bind")
    with pytest.raises(ExoRkllmError, match="The NPU driver was unbound from"):
        list(answer)
    assert "A lamp." in daemon.answer("lamp", "What is a lamp?", max_tokens=8)


def test_idle_daemon_wakes_less_than_once_a_second(house: House) -> None:
    """Nobody is asked anything meanwhile: each switch of any of its threads is a wake-up of its own."""
    daemon = house.start()
    time.sleep(1)
    before = used(daemon.process.pid).wakeups
    time.sleep(IDLE)
    assert used(daemon.process.pid).wakeups - before < IDLE, daemon.text


class CountingSelector(selectors.EpollSelector):
    wakes = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.wakes += timeout is None or timeout > 0  # a look without waiting is the loop's own doing
        return super().select(timeout)


def test_idle_daemon_sleeps_while_the_npu_is_off(bed: TestBed) -> None:
    bed.add("orangepi-5-plus")
    selector = CountingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    watch = BoardWatch(ROOT)
    watch.start(loop, Monitor())
    sampler = Sampler(lambda: watch.sources, loop)
    sampler.touch(0.1)
    loop.run_until_complete(asyncio.sleep(1.2))
    assert sampler.sleeping
    before, switches = selector.wakes, voluntary_switches()
    loop.run_until_complete(asyncio.sleep(3))
    assert selector.wakes - before == 1, "the test's own timer"
    assert voluntary_switches() - switches <= 2
    watch.close()
    loop.close()


def voluntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
