"""Every profile of the reference resolves to its state, its board, its cores and its device nodes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from exo_rkllm.board.counters import read_load
from exo_rkllm.board.detect import Board, detect, driver_folder
from exo_rkllm.board.watch import BoardWatch
from simulator import boards

USUAL = ("/dev/dri/card1", "/dev/dri/renderD129")
VENDOR_KERNEL = "linux-image-vendor-rk35xx"


class Expected(NamedTuple):
    state: str
    soc: str = "rk3588"
    cores: int | None = 3
    nodes: tuple[str, ...] = USUAL
    hint: str = ""  # what the repair has to name
    unavailable_reason: str = ""  # what keeps RKLLM from running, where something does


PROFILES = {
    "rk3588-vendor": Expected("vendor_ready"),
    "rk3588-busy": Expected("vendor_ready"),
    "rk3588s-vendor": Expected("vendor_ready"),
    "rk3588s-mainline": Expected(
        "mainline_rocket", "rk3588s", 3, ("/dev/accel/accel0",), VENDOR_KERNEL, "mainline's driver rocket"
    ),
    "rk3588-mainline-disabled": Expected("disabled_in_dt", "rk3588", None, (), VENDOR_KERNEL, "switches the NPU off"),
    "rk3588-mainline-unbound": Expected("no_driver", "rk3588", None, (), VENDOR_KERNEL, "no driver is bound"),
    "rk3588-dkms-on-mainline": Expected("vendor_ready", nodes=("/dev/dri/card2", "/dev/dri/renderD130")),
    "rk3588-headless": Expected("vendor_ready", nodes=("/dev/dri/card0", "/dev/dri/renderD128")),
    "rk3588-disabled": Expected("disabled_in_dt", "rk3588", None, (), "overlay", "switches the NPU off"),
    "rk3588-e54c": Expected("vendor_ready", "rk3588s"),
    "rk3582": Expected("vendor_ready", "rk3582"),
    "rk3588f": Expected("vendor_ready", "rk3588f"),
    "rk3583": Expected("vendor_ready", cores=2),
    "rk3576-vendor": Expected("vendor_ready", "rk3576", 2),
    "rk3576-busy": Expected("vendor_ready", "rk3576", 2),
    "rk3576-soc-bus": Expected("vendor_ready", "rk3576", 2),
    "rk3576-mainline": Expected(
        "kernel_without_npu_node", "rk3576", None, (), VENDOR_KERNEL, "device tree of this kernel"
    ),
    "rk3576-android": Expected("vendor_ready", "rk3576", 2),
    "rk3576-slow": Expected("vendor_ready", "rk3576", 2),
    "rk3562-vendor": Expected("vendor_ready", "rk3562", 1),
    "rk3568-cma": Expected("vendor_ready", "rk3568", 1, unavailable_reason="RK3568 cannot run RKLLM"),
    "rk3566-zero3-disabled": Expected("disabled_in_dt", "rk3566", None, (), "rsetup", "RK3566 cannot run RKLLM"),
    "rv1126b-misc": Expected("vendor_ready", "rv1126b", 1, ("/dev/rknpu",)),
    "deferred": Expected("deferred", "rk3588", None, (), "devices_deferred", "waits for another driver"),
    "deferred-listed": Expected("deferred", "rk3588", None, (), "devices_deferred", "waits for another driver"),
    "no-driver": Expected("no_driver", "rk3588", None, (), "modprobe rknpu", "no driver is bound"),
    "debugfs-unreadable": Expected("vendor_ready"),
    "debugfs-bind-empty": Expected("vendor_ready"),
    "debugfs-bound": Expected("vendor_ready"),
    "container-masked": Expected("unknown", "", None, (), "systempaths=unconfined", "container hides"),
    "container-docker": Expected("vendor_ready", unavailable_reason="device tree is hidden"),
    "container-no-nodes": Expected("vendor_ready", unavailable_reason="are not in this container"),
    "old-driver": Expected("vendor_ready", unavailable_reason="driver is 0.8.2"),
    "driver-0.9.7": Expected("vendor_ready"),
    "devfreq-missing": Expected("vendor_ready"),
    "devfreq-load-trap": Expected("vendor_ready"),
    "rknpu-symlink-trap": Expected("vendor_ready"),
    "ddr-slow": Expected("vendor_ready"),
    "ddr-missing": Expected("vendor_ready"),
    "hot": Expected("vendor_ready"),
    "job-errors": Expected("vendor_ready"),
    "load-empty": Expected("vendor_ready"),
    "load-truncated": Expected("vendor_ready"),
    "load-binary": Expected("vendor_ready"),
    "load-huge": Expected("vendor_ready"),
    "load-single": Expected("vendor_ready", "rk3562", 1),
    "model-missing": Expected("vendor_ready"),
    "model-hostile": Expected("vendor_ready"),
    "acpi": Expected("unknown", "", None, (), "engines", "PC, or a board"),
    "raspberry-pi": Expected("unsupported_soc", "", None, (), "engines", "Raspberry Pi 5"),
    "coprocessor": Expected("vendor_ready"),
}


def test_every_profile_has_an_expectation() -> None:
    assert set(PROFILES) == set(boards.PROFILES)
    assert len(PROFILES) >= 24


@pytest.mark.parametrize("name", PROFILES)
def test_profile_is_detected_as_expected(name: str, board: Callable[[str], Path]) -> None:
    root = board(name)
    expected, found = PROFILES[name], detect(root)
    assert (found.state, found.soc_name) == (expected.state, expected.soc)
    assert (found.npu.cores if found.npu else None) == expected.cores
    assert (tuple(node.path for node in found.npu.nodes) if found.npu else ()) == expected.nodes
    assert expected.hint in found.hint
    model = root / "sys/firmware/devicetree/base/model"
    if name != "model-hostile":
        assert found.model == (model.read_bytes().decode().rstrip("\0") if model.exists() else "")
    reason = found.unavailable_reason()
    assert (reason is not None) == bool(expected.unavailable_reason)
    if reason:
        assert expected.unavailable_reason in reason.sentence
        assert reason.hint


@pytest.mark.parametrize("name", boards.BOARDS)
def test_known_board_has_its_makers_name(name: str, board: Callable[[str], Path]) -> None:
    row, found = boards.BOARDS[name], detect(board(name))
    assert (found.model, found.compatible) == (row.model, row.compatible)
    assert found.soc
    assert found.soc.name == row.soc
    assert found.state == "vendor_ready"


def npu_nodes(found: Board) -> list[tuple[str, bool, bool]]:
    assert found.npu
    return [(node.path, node.present, node.guessed) for node in found.npu.nodes]


def test_device_node_missing_in_dev_is_not_present(board: Callable[[str], Path]) -> None:
    assert npu_nodes(detect(board("container-no-nodes"))) == [(path, False, False) for path in USUAL]


def test_card_without_owner_is_marked_as_guessed(board: Callable[[str], Path]) -> None:
    found = detect(board("rk3588-dkms-on-mainline"))
    assert all(guessed for _, _, guessed in npu_nodes(found))


def test_missing_iommu_link_means_cma_mode(board: Callable[[str], Path]) -> None:
    cma, iommu = detect(board("rk3568-cma")).npu, detect(board("rock-3a")).npu
    assert cma
    assert iommu
    assert (cma.iommu, iommu.iommu) == (False, True)


def test_driver_build_decides_between_drm_and_misc_nodes(board: Callable[[str], Path]) -> None:
    builds = [detect(board(name)).npu for name in ("rock-4d", "rv1126b-misc", "rk3588s-mainline")]
    assert [npu.build for npu in builds if npu] == ["drm_gem", "dma_heap", "rocket"]


def test_driver_version_is_read_without_privilege(board: Callable[[str], Path]) -> None:
    old, unreadable = detect(board("old-driver")).npu, detect(board("debugfs-unreadable")).npu
    assert old
    assert old.version == "0.8.2"
    assert unreadable
    assert unreadable.version == "0.9.8"


def test_driver_version_falls_back_to_the_drivers_folder(board: Callable[[str], Path]) -> None:
    root = board("rv1126b-misc")
    shutil.rmtree(root / "sys/module")
    found = detect(root).npu
    assert found
    assert found.version == "0.9.8"


def test_unloaded_driver_leaves_an_unbound_device(board: Callable[[str], Path]) -> None:
    root = board("orangepi-5-plus")
    (root / "sys/bus/platform/drivers/RKNPU/fdab0000.npu").unlink()
    (root / "sys/devices/platform/fdab0000.npu/driver").unlink()
    assert detect(root).state == "no_driver"


def test_hostile_board_name_becomes_one_printable_line(board: Callable[[str], Path]) -> None:
    model = detect(board("model-hostile")).model
    assert model.startswith('Evil "Board" ')
    assert model.isprintable()
    assert len(model) <= 80


def test_board_without_a_name_is_called_by_its_soc(board: Callable[[str], Path]) -> None:
    assert detect(board("model-missing")).title == "RK3588"
    assert detect(board("acpi")).title == "unknown board"


def test_pci_coprocessor_is_listed(board: Callable[[str], Path]) -> None:
    assert detect(board("coprocessor")).coprocessors == ("0000:01:00.0",)
    assert detect(board("rock-5b")).coprocessors == ()


def test_kinds_of_containers_are_recognized(board: Callable[[str], Path], tmp_path: Path) -> None:
    assert detect(board("container-docker")).container == "docker"
    assert detect(board("container-masked")).container == "podman"
    (tmp_path / "run/systemd").mkdir(parents=True)
    (tmp_path / "run/systemd/container").write_text("systemd-nspawn\n")
    assert detect(tmp_path).container == "systemd-nspawn"


def test_sandboxed_service_reads_its_bound_folder(board: Callable[[str], Path]) -> None:
    root = board("debugfs-bound")
    assert driver_folder(root) == root / "run/exo-rkllm/rknpu"
    assert driver_folder(board("debugfs-bind-empty")) is None


def test_this_machine_is_detected() -> None:
    found = detect()
    assert found.sentence
    assert (found.unavailable_reason() is None) == (
        found.state == "vendor_ready" and found.soc is not None and found.soc.rkllm
    )


def test_mount_that_follows_the_driver_is_found_without_an_event(board: Callable[[str], Path]) -> None:
    root = board("debugfs-bind-empty")
    watch = BoardWatch(root)
    assert watch.sources.folder is None
    folder = root / "run/rkllm/npu"
    folder.mkdir(parents=True)
    (folder / "load").write_text("NPU load:  Core0: 10%, Core1: 20%, Core2: 30%,\n")
    assert watch.sources.folder == folder
    assert read_load(watch.sources) == (0.1, 0.2, 0.3)
