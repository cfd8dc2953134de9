"""What a board tells about its NPU, and that nothing is invented where it tells nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exo_rkllm.board.counters import COLLECTORS, Clock, Reading, read, read_load, read_power
from exo_rkllm.board.detect import detect
from exo_rkllm.board.files import WAKING
from exo_rkllm.board.sources import Sources, find_sources
from simulator import boards
from tests.boards import ordinary_user
from tests.opens import Opens

Build = Callable[[str], Path]


def sources(root: Path) -> Sources:
    return find_sources(root, detect(root))


def reading(root: Path) -> Reading:
    return read(sources(root))


def test_busy_board_fills_every_field(board: Build) -> None:
    found = reading(board("rk3588-busy"))
    assert found.absent == {}
    assert found.load == (0.65, 0.7, 1)
    assert (found.powered, found.status, found.powered_seconds) == (True, "active", 41.234)
    assert found.clock == Clock(1_000_000_000, 300_000_000, 1_000_000_000, 1_000_000_000, "rknpu_ondemand")
    assert found.ddr
    assert found.ddr.hertz == 2_112_000_000
    assert (found.zone, found.celsius) == ("npu-thermal", 44.246)
    assert found.interrupts == (1042, 977, 1003)
    assert found.volts == 0.8
    assert (found.memory_total, found.memory_available) == (16 << 30, 12 << 30)
    assert found.cma_total is None, "CMA says nothing about an NPU with an IOMMU"


def test_idle_board_is_suspended_with_zero_load(board: Build) -> None:
    found = reading(board("orangepi-5-plus"))
    assert (found.powered, found.status, found.load) == (False, "suspended", (0, 0, 0))


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("rk3576-busy", (0.38, 0.04)),
        ("rk3576-soc-bus", (0, 0)),
        ("load-single", (0.57,)),
        ("rv1126b-misc", (0,)),
        ("rk3583", (0.12, 0.09)),
        ("old-driver", (1, 0, 0.07)),
        ("devfreq-load-trap", (0, 0, 0)),
        ("debugfs-bound", (0, 0, 0)),
    ],
)
def test_load_of_every_kind_of_driver_is_read(name: str, load: tuple[float, ...], board: Build) -> None:
    assert reading(board(name)).load == load


@pytest.mark.parametrize(
    ("name", "collector", "why"),
    [
        ("debugfs-bind-empty", "load", "started before the driver"),
        ("container-docker", "load", "/sys/kernel/debug/rknpu/load"),
        ("rk3588s-mainline", "load", "driver rocket counts no load"),
        ("load-empty", "load", "holds no load of 3 cores"),
        ("load-truncated", "load", "holds no load of 3 cores"),
        ("load-binary", "load", "holds no load of 3 cores"),
        ("load-huge", "load", "holds no load of 3 cores"),
        ("no-driver", "load", "no driver is bound"),
        ("no-driver", "power", "no NPU driver"),
        ("no-driver", "interrupts", "no NPU driver"),
        ("devfreq-missing", "clock", "no clock with devfreq"),
        ("rk3588s-mainline", "clock", "no clock with devfreq"),
        ("raspberry-pi", "temperature", "no thermal zone"),
        ("raspberry-pi", "memory", "/proc/meminfo"),
        ("acpi", "ddr", "no clock control for the memory"),
        ("acpi", "voltage", "vdd_npu"),
    ],
)
def test_missing_source_is_absent_with_its_reason(name: str, collector: str, why: str, board: Build) -> None:
    found = reading(board(name))
    assert why in found.absent[collector]
    if collector == "load":
        assert found.load is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("debugfs-unreadable", "only root may read"),
        ("container-docker", "this container is not shown /sys/kernel/debug/rknpu"),
    ],
)
def test_unreadable_load_names_who_may_read_it(name: str, why: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        root = Path(folder)
        root.chmod(0o755)
        boards.write(name, root)
        with ordinary_user():
            found = reading(root)
    assert why in found.absent["load"]
    assert found.load is None
    assert found.clock is not None


def test_rocket_driver_is_read_without_privilege(board: Build) -> None:
    found = reading(board("rk3588s-mainline"))
    assert found.powered is False
    assert found.powered_seconds == 1.202
    assert found.interrupts == (1042, 977, 1003)
    assert found.celsius is not None
    assert found.load is None


def test_one_awake_rocket_core_means_power(board: Build) -> None:
    root = board("rk3588s-mainline")
    rewrite(root / "sys/devices/platform/fdac0000.npu/power/runtime_status", "active\n")
    assert read_power(sources(root)) is True


def test_cma_is_read_only_without_an_iommu(board: Build) -> None:
    for name in ("rk3568-cma", "rv1126b-misc"):
        found = reading(board(name))
        assert (found.cma_total, found.cma_free) == (16384 * 1024, 14000 * 1024)


def test_thermal_zone_is_found_by_its_type(board: Build) -> None:
    assert reading(board("rock-4d")).zone == "npu-thermal"
    assert reading(board("rock-3a")).zone == "soc-thermal"
    assert reading(board("rv1126b-misc")).zone == "cpu-thermal"


def test_lowered_maximum_clock_means_throttling(board: Build) -> None:
    hot, cool = reading(board("hot")), reading(board("rk3588-busy"))
    assert hot.clock
    assert hot.clock.throttled
    assert hot.celsius == 87
    assert cool.clock
    assert not cool.clock.throttled


# ── what a hostile or dying tree does ────────────────────────────────────────────────────────────


def rewrite(path: Path, content: str | bytes) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def plain_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"\xff" * 100, b"9" * 5000, b"-1\n", b"NaN\n", bytes(range(256)) * 400],
    ids=["empty", "nul", "high", "digits", "negative", "nan", "binary"],
)
def test_rubbish_in_files_raises_nothing(content: bytes, board: Build) -> None:
    root = board("rk3588-busy")
    before = sources(root)
    for path in plain_files(root):
        rewrite(path, content)
    for found in (read(before), reading(root)):
        assert (found.load, found.powered, found.powered_seconds, found.clock, found.volts) == (None,) * 5
    assert detect(root).state in ("vendor_ready", "disabled_in_dt")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_arbitrary_file_contents_raise_nothing(data: st.DataObject, tmp_path: Path) -> None:
    root = tmp_path / "board"
    shutil.rmtree(root, ignore_errors=True)
    boards.write("rk3588-busy", root)
    known = sources(root)
    for path in data.draw(st.lists(st.sampled_from(sorted(plain_files(root))), max_size=12, unique=True)):
        rewrite(path, data.draw(st.binary(max_size=200)))
    for found in (read(known), reading(root)):
        assert found.load is None or len(found.load) >= 1
        assert found.celsius is None or -60 < found.celsius < 200


def test_vanished_tree_leaves_values_absent(board: Build) -> None:
    root = board("rk3588-busy")
    known = sources(root)
    shutil.rmtree(root)
    found = read(known)
    assert set(found.absent) == set(COLLECTORS)
    assert found == Reading(absent=found.absent)
    assert read_load(known) is None
    assert read_power(known) is None


def test_folders_pipes_and_loops_instead_of_files_raise_nothing(board: Build) -> None:
    root = board("rk3588-busy")
    known = sources(root)
    load, zone = root / "sys/kernel/debug/rknpu/load", root / "sys/class/thermal/thermal_zone6/temp"
    load.unlink()
    os.mkfifo(load)
    zone.unlink()
    zone.mkdir()
    status = root / "sys/devices/platform/fdab0000.npu/power/runtime_status"
    status.unlink()
    status.symlink_to("runtime_status")
    found = read(known)
    assert {"load", "power", "temperature"} <= set(found.absent)
    assert found.clock is not None


def test_missing_runtime_power_management_is_not_power(board: Build) -> None:
    root = board("rk3588-busy")
    rewrite(root / "sys/devices/platform/fdab0000.npu/power/runtime_status", "unsupported\n")
    found = reading(root)
    assert found.powered is None
    assert "power" in found.absent


# ── what a reading costs, and what it must not touch ─────────────────────────────────────────────


def test_reading_opens_few_files_and_none_that_wakes_the_npu(board: Build, opens: Opens) -> None:
    for name in ("rk3588-busy", "rk3576-soc-bus", "rv1126b-misc", "rk3588s-mainline", "debugfs-bound"):
        root = board(name)
        known = sources(root)
        with opens.traced() as paths:
            read(known)
        assert 5 < len(paths) <= 30, paths
        assert not [path for path in paths if Path(path).name in WAKING or path.startswith(f"{root}/dev/")]


def test_detection_opens_no_file_that_wakes_the_npu(board: Build, opens: Opens) -> None:
    root = board("rk3588-busy")
    with opens.traced() as paths:
        detect(root)
        sources(root)
    assert len(paths) > 20
    assert not [path for path in paths if Path(path).name in WAKING or path.startswith(f"{root}/dev/")]
