"""Boards without boards: `python -m simulator.boards PROFILE DIR` writes one board's /sys, /proc and /dev below DIR.

Every board of the table is a good one under the vendor's kernel; every other profile is a trap that some program
fell into (reference 10.3). `--umockdev` writes the same as a umockdev description, `--list` names them all.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from simulator import boards_parts as parts
from simulator.boards_parts import BASE, DEBUG, MAINLINE_KERNEL, PLATFORM, SHAPES, VENDOR_KERNEL
from simulator.boards_tree import File, Link, Tree, umockdev


class BoardRow(NamedTuple):
    """Exact strings of the vendor's tree and of mainline's (reference 1.7)."""

    soc: str
    model: str
    compatible: tuple[str, ...]
    mainline_model: str = ""
    mainline: tuple[str, ...] = ()


BOARDS: dict[str, BoardRow] = {
    "orangepi-5": BoardRow(
        "rk3588",
        "Orange Pi 5",
        ("rockchip,rk3588s-orangepi-5", "rockchip,rk3588"),
        "Xunlong Orange Pi 5",
        ("xunlong,orangepi-5", "rockchip,rk3588s"),
    ),
    "orangepi-5b": BoardRow(
        "rk3588",
        "Orange Pi 5B",
        ("rockchip,rk3588s-orangepi-5", "rockchip,rk3588"),
        "Xunlong Orange Pi 5B",
        ("xunlong,orangepi-5b", "rockchip,rk3588s"),
    ),
    "orangepi-5-plus": BoardRow(
        "rk3588",
        "Orange Pi 5 Plus",
        ("rockchip,rk3588-orangepi-5-plus", "rockchip,rk3588"),
        "Xunlong Orange Pi 5 Plus",
        ("xunlong,orangepi-5-plus", "rockchip,rk3588"),
    ),
    "orangepi-5-max": BoardRow(
        "rk3588",
        "RK3588 OPi 5 Max",
        ("rockchip,rk3588-orangepi-5-max", "rockchip,rk3588"),
        "Xunlong Orange Pi 5 Max",
        ("xunlong,orangepi-5-max", "rockchip,rk3588"),
    ),
    "rock-5a": BoardRow(
        "rk3588",
        "Radxa ROCK 5A",
        ("radxa,rock-5a", "rockchip,rk3588"),
        "Radxa ROCK 5A",
        ("radxa,rock-5a", "rockchip,rk3588s"),
    ),
    "rock-5b": BoardRow(
        "rk3588",
        "Radxa ROCK 5B",
        ("radxa,rock-5b", "rockchip,rk3588"),
        "Radxa ROCK 5B",
        ("radxa,rock-5b", "rockchip,rk3588"),
    ),
    "rock-5b-plus": BoardRow(
        "rk3588",
        "Radxa ROCK 5B+",
        ("radxa,rock-5b-plus", "rockchip,rk3588"),
        "Radxa ROCK 5B+",
        ("radxa,rock-5b-plus", "rockchip,rk3588"),
    ),
    "rock-5c": BoardRow(
        "rk3588",
        "Radxa ROCK 5C",
        ("radxa,rock-5c", "rockchip,rk3588"),
        "Radxa ROCK 5C",
        ("radxa,rock-5c", "rockchip,rk3588s"),
    ),
    "nanopi-r6s": BoardRow(
        "rk3588",
        "FriendlyElec NanoPi R6S",
        ("friendlyelec,nanopi-r6s", "rockchip,rk3588"),
        "FriendlyElec NanoPi R6S",
        ("friendlyarm,nanopi-r6s", "rockchip,rk3588s"),
    ),
    "nanopc-t6-lts": BoardRow(
        "rk3588",
        "FriendlyElec NanoPC-T6 LTS",
        ("friendlyelec,nanopc-t6", "rockchip,rk3588"),
        "FriendlyElec NanoPC-T6 LTS",
        ("friendlyarm,nanopc-t6-lts", "rockchip,rk3588"),
    ),
    "turing-rk1": BoardRow(
        "rk3588",
        "Turing Machines RK1",
        ("turing,rk1", "rockchip,rk3588"),
        "Turing Machines RK1",
        ("turing,rk1", "rockchip,rk3588"),
    ),
    "khadas-edge2": BoardRow(
        "rk3588",
        "Khadas Edge2",
        ("khadas,edge2", "rockchip,rk3588"),
        "Khadas Edge2",
        ("khadas,edge2", "rockchip,rk3588s"),
    ),
    "armsom-sige7": BoardRow(
        "rk3588",
        "ArmSom RK3588 sige7 Board",
        ("rockchip,rk3588-armsom-sige7", "rockchip,rk3588"),
        "ArmSoM Sige7",
        ("armsom,sige7", "rockchip,rk3588"),
    ),
    "e54c": BoardRow("rk3588", "Radxa E54C", ("radxa,e54c", "rockchip,rk3588s", "rockchip,rk3588")),
    "rock-4d": BoardRow(
        "rk3576", "ROCK 4D", ("radxa,rock-4d", "rockchip,rk3576"), "Radxa ROCK 4D", ("radxa,rock-4d", "rockchip,rk3576")
    ),
    "armsom-sige5": BoardRow(
        "rk3576",
        "ArmSoM Sige5",
        ("armsom,sige5", "rockchip,rk3576"),
        "ArmSoM Sige5",
        ("armsom,sige5", "rockchip,rk3576"),
    ),
    "bananapi-m5-pro": BoardRow("rk3576", "Banana Pi M5 Pro", ("bananapi,m5-pro", "rockchip,rk3576")),
    "rock-3a": BoardRow(
        "rk3568",
        "Radxa ROCK3 Model A",
        ("radxa,rock3a", "rockchip,rk3568"),
        "Radxa ROCK 3A",
        ("radxa,rock3a", "rockchip,rk3568"),
    ),
    "rk3562-evb2": BoardRow(
        "rk3562", "Rockchip RK3562 EVB2 DDR4 V10 Board", ("rockchip,rk3562-evb2-ddr4-v10", "rockchip,rk3562")
    ),
}


def board(name: str, **changes: object) -> Tree:
    """A board of the table under the vendor's kernel; `changes` go to `boards_parts.vendor`."""
    row, tree = BOARDS[name], Tree()
    shape = SHAPES[row.soc]
    parts.identity(tree, row.model, row.compatible, VENDOR_KERNEL)
    parts.machine(tree, shape)
    if changes.get("card", 1) != 0:
        parts.display(tree)
    parts.vendor(tree, shape, **changes)  # type: ignore[arg-type]  # the profiles below pass vendor()'s own keywords
    return tree


def mainline(name: str) -> Tree:
    """The same board under a distribution's own kernel, before anything is said about its NPU."""
    row, tree = BOARDS[name], Tree()
    parts.identity(tree, row.mainline_model, row.mainline, MAINLINE_KERNEL)
    parts.machine(tree, SHAPES[row.soc])
    parts.display(tree)
    return tree


# ── one function a trap ──────────────────────────────────────────────────────────────────────────


def rk3588s_mainline() -> Tree:
    tree = mainline("orangepi-5")
    parts.rocket(tree, SHAPES["rk3588"])
    return tree


def rk3588_mainline_disabled() -> Tree:
    tree = mainline("turing-rk1")
    parts.rknn_cores(tree, SHAPES["rk3588"], "disabled")
    return tree


def rk3588_mainline_unbound() -> Tree:
    """The cores are switched on and `rocket` is not loaded."""
    tree = mainline("rock-5b")
    shape = SHAPES["rk3588"]
    parts.rknn_devices(tree, shape, parts.rknn_cores(tree, shape, "okay"), None)
    return tree


def rk3588_dkms_on_mainline() -> Tree:
    """Vendor driver on mainline's nodes: the DRM card has a virtual parent and says nothing of itself (1.5)."""
    tree = mainline("rock-5b")
    shape = SHAPES["rk3588"]
    path, *_ = parts.rknn_devices(tree, shape, parts.rknn_cores(tree, shape, "okay"), "RKNPU")
    parts.device(tree, f"{PLATFORM}/fb000000.gpu", "panthor", ("OF_NAME=gpu", "OF_COMPATIBLE_0=rockchip,rk3588-mali"))
    parts.drm(tree, f"{PLATFORM}/fb000000.gpu", 1, 129)
    parts.device(tree, f"{PLATFORM}/rknpu_dev.0.auto", None)
    parts.drm(tree, f"{PLATFORM}/rknpu_dev.0.auto", 2, 130)
    steps = tuple(value * 1000000 for value in shape.megahertz[:6] if value != 300) or ()
    parts.devfreq(tree, shape.npu, path, 800000000, (200000000, *steps), "rknpu_ondemand", "100@800000000Hz")
    parts.driver_files(tree, shape)
    parts.interrupts(tree, shape)
    parts.regulator(tree, shape)
    tree.data("dev/dma_heap/system", b"", 0o660)
    return tree


def rk3582() -> Tree:
    """Binned RK3588S; U-Boot switched a bad block off before the kernel saw the tree (1.6)."""
    tree = board("rock-5c")
    parts.identity(tree, "Radxa E52C", ("radxa,e52c", "rockchip,rk3582", "rockchip,rk3588s"), VENDOR_KERNEL)
    tree.strings(f"{BASE}/gpu@fb000000/compatible", "arm,mali-bifrost")
    tree.strings(f"{BASE}/gpu@fb000000/status", "fail")
    return tree


def rk3588f() -> Tree:
    tree = board("rock-5c")
    tree.strings(f"{BASE}/compatible", "radxa,rock-5c", "rockchip,rk3588f")
    return tree


def rk3583() -> Tree:
    """The tree lists three cores, the driver runs two (cheat sheet 4)."""
    tree = board("khadas-edge2")
    tree.data(f"{DEBUG}/load", parts.load_line([12, 9]))
    return tree


def rk3576_soc_bus() -> Tree:
    tree = board("armsom-sige5", bus="soc/", inside="soc/")
    for name in ("version", "load", "power", "delayms", "reset"):
        entry = tree.entries[f"{DEBUG}/{name}"]
        tree.entries[f"proc/rknpu/{name}"] = entry
    return tree


def rk3576_slow() -> Tree:
    """6.1.84 images came up at 300 MHz (6, note 2)."""
    tree = board("armsom-sige5")
    tree.line(f"{PLATFORM}/27700000.npu/devfreq/27700000.npu/cur_freq", "300000000")
    return tree


def ddr_slow() -> Tree:
    """The DDR governor leaves the memory at its lowest step (6, note 3)."""
    tree = board("orangepi-5-plus")
    tree.line(f"{PLATFORM}/dmc/devfreq/dmc/cur_freq", "528000000")
    return tree


def ddr_missing() -> Tree:
    """A bootloader without the memory clock's handler: the kernel has no dmc (board-facts 11)."""
    tree = board("orangepi-5-plus")
    for path in ("sys/class/devfreq/dmc", f"{PLATFORM}/dmc"):
        tree.remove(path)
    return tree


def rk3568_cma() -> Tree:
    """ODROID-M1: one compatible entry, IOMMU off, so model memory is CMA (1.6)."""
    tree, shape = Tree(), SHAPES["rk3568"]
    parts.identity(tree, "Hardkernel ODROID-M1", ("rockchip,rk3568",), VENDOR_KERNEL)
    parts.machine(tree, shape, memory_gib=8)
    parts.display(tree)
    parts.vendor(tree, shape, iommu=False)
    return tree


def rk3566_zero3_disabled() -> Tree:
    tree, shape = Tree(), SHAPES["rk3568"]
    parts.identity(tree, "Radxa ZERO 3", ("radxa,zero3-aic8800ds2", "rockchip,rk3566"), VENDOR_KERNEL)
    parts.machine(tree, shape, memory_gib=4)
    parts.display(tree)
    parts.npu_node(tree, shape, status="disabled", iommu="disabled")
    return tree


def rk3588_disabled() -> Tree:
    """A SoC that could, with its NPU off in the tree."""
    tree = board("rock-5c")
    shape = SHAPES["rk3588"]
    for path in (
        f"{PLATFORM}/{shape.npu}",
        "sys/bus/platform/drivers/RKNPU",
        DEBUG,
        "sys/module/rknpu",
        "proc/interrupts",
    ):
        tree.remove(path)
    for path in (f"sys/bus/platform/devices/{shape.npu}", f"sys/class/devfreq/{shape.npu}"):
        tree.remove(path)
    for name in ("card1", "renderD129"):
        tree.remove(f"sys/class/drm/{name}")
        tree.remove(f"dev/dri/{name}")
    tree.strings(f"{BASE}/{shape.node}/status", "disabled")
    return tree


def rv1126b_misc() -> Tree:
    """DMA_HEAP build: a misc device that no link ties to the NPU, counters in /proc, no DRM at all (2.1)."""
    tree, shape = Tree(), SHAPES["rv1126b"]
    parts.identity(
        tree, "Rockchip RV1126B EVB1 V10 Board", ("rockchip,rv1126b-evb1-v10", "rockchip,rv1126b"), VENDOR_KERNEL
    )
    parts.machine(tree, shape, memory_gib=4)
    path = parts.npu_device(tree, shape, parts.npu_node(tree, shape), "RKNPU")
    top = shape.megahertz[-1] * 1000000
    parts.devfreq(
        tree,
        shape.npu,
        path,
        top,
        tuple(value * 1000000 for value in shape.megahertz),
        "rknpu_ondemand",
        f"100@{top}Hz",
    )
    misc = "sys/devices/virtual/misc/rknpu"
    tree.line(f"{misc}/dev", "10:57")
    tree.data(f"{misc}/uevent", b"MAJOR=10\nMINOR=57\nDEVNAME=rknpu\n", 0o644)
    tree.link(f"{misc}/subsystem", "sys/class/misc")
    tree.link("sys/class/misc/rknpu", misc)
    tree.data("dev/rknpu", b"", 0o660)
    tree.data("dev/rk_dma_heap/rk-dma-heap-cma", b"", 0o660)
    parts.driver_files(tree, shape, folder="proc/rknpu")
    parts.interrupts(tree, shape)
    parts.regulator(tree, shape)
    return tree


def deferred() -> Tree:
    tree = no_driver()
    tree.line(f"{PLATFORM}/fdab0000.npu/waiting_for_supplier", "1")
    return tree


def deferred_listed() -> Tree:
    """The other sign, which only root can read (1.8)."""
    tree = no_driver()
    tree.folder("sys/kernel/debug", 0o700)
    tree.data("sys/kernel/debug/devices_deferred", b"fdab0000.npu\tplatform: supplier 2-0042 not ready\n")
    return tree


def no_driver() -> Tree:
    tree, shape = Tree(), SHAPES["rk3588"]
    row = BOARDS["rock-5b"]
    parts.identity(tree, row.model, row.compatible, VENDOR_KERNEL)
    parts.machine(tree, shape)
    parts.display(tree)
    parts.npu_device(tree, shape, parts.npu_node(tree, shape), None)
    return tree


def debugfs_unreadable() -> Tree:
    """As a user sees it: the folder above is root's alone."""
    tree = board("rock-5b")
    tree.remove("sys/kernel/debug")
    tree.folder("sys/kernel/debug", 0o000)
    return tree


def debugfs_bind_empty() -> Tree:
    """`BindReadOnlyPaths=-` whose source was not there leaves an empty folder (section 4)."""
    tree = board("rock-5b")
    tree.remove(DEBUG)
    tree.folder("run/exo-rkllm/rknpu")
    tree.folder("sys/kernel/debug", 0o000)
    return tree


def debugfs_bound() -> Tree:
    """As the sandboxed service sees it: the driver's folder, and only that, below /run."""
    tree = board("orangepi-5-plus")
    for name, entry in list(tree.below(DEBUG)):
        tree.entries[f"run/exo-rkllm/rknpu/{name}"] = entry
    tree.remove("sys/kernel/debug")
    tree.folder("sys/kernel/debug", 0o000)
    return tree


def container_masked() -> Tree:
    """Neither the device tree nor the platform bus can be seen (1.1)."""
    tree = Tree()
    tree.entries["proc/device-tree"] = Link("../sys/firmware/devicetree/base")
    tree.folder("sys/firmware", 0o555)
    tree.line("proc/sys/kernel/osrelease", VENDOR_KERNEL)
    tree.data("run/.containerenv", b"")
    return tree


def container_docker() -> Tree:
    """The usual masking: /sys is there, /sys/firmware is empty, and the device tree with it."""
    tree = board("orangepi-5-plus")
    tree.remove("sys/firmware")
    tree.folder("sys/firmware", 0o555)
    tree.folder("sys/kernel/debug", 0o000)
    tree.remove("sys/kernel/debug/devices_deferred")
    tree.remove(DEBUG)
    tree.data(".dockerenv", b"")
    return tree


def container_no_nodes() -> Tree:
    """The device tree is mounted and no device is."""
    tree = board("orangepi-5-plus")
    tree.remove("dev")
    tree.data(".dockerenv", b"")
    return tree


def old_driver() -> Tree:
    """Early images: too old for the runtime, and the load is not clamped (5.1)."""
    tree = board("orangepi-5", version="0.8.2")
    tree.line("proc/sys/kernel/osrelease", "5.10.110-rockchip-rk3588")
    tree.data(f"{DEBUG}/load", parts.load_line([104, 0, 7]))
    return tree


def driver_097() -> Tree:
    """Joshua Riek's Ubuntu 24.04 (5.3)."""
    tree = board("orangepi-5-plus", version="0.9.7")
    tree.line("proc/sys/kernel/osrelease", "6.1.0-1025-rockchip")
    return tree


def devfreq_missing() -> Tree:
    tree = board("rock-5b")
    tree.remove(f"{PLATFORM}/fdab0000.npu/devfreq")
    tree.remove("sys/class/devfreq/fdab0000.npu")
    return tree


def rknpu_symlink_trap() -> Tree:
    tree = board("rock-5b")
    tree.entries["dev/rknpu"] = Link("dri/renderD129")
    return tree


def hot() -> Tree:
    """Above 85 degrees the driver's monitor takes the NPU's maximum down (3.6)."""
    tree = busy("orangepi-5-plus", [66, 65, 68])
    path = f"{PLATFORM}/fdab0000.npu/devfreq/fdab0000.npu"
    tree.line(f"{path}/max_freq", "800000000", 0o644)
    tree.line(f"{path}/cur_freq", "800000000")
    parts.thermal_zone(tree, 6, "npu-thermal", 87000)
    return tree


def busy(name: str, percent: list[int]) -> Tree:
    """A board while a model answers."""
    tree = board(name)
    shape = SHAPES[BOARDS[name].soc]
    tree.data(f"{DEBUG}/load", parts.load_line(percent))
    tree.line(f"{DEBUG}/power", "on")
    parts.power(tree, f"{PLATFORM}/{shape.npu}", "active")
    return tree


def job_errors() -> Tree:
    """A kernel log with a hung job between lines that only look bad (6, notes 7, 8 and 12)."""
    tree = board("orangepi-5-plus")
    lines = (
        "RKNPU fdab0000.npu: can't request region for resource [mem 0xfdab0000-0xfdabffff]",
        "RKNPU fdab0000.npu: RKNPU: failed to find power_model node",
        "RKNPU: switch iommu domain from 0 to 1",
        "RKNPU: failed to wait job, task counter: 0, flags: 0x5, ret = 0, elapsed time: 6163us",
        "RKNPU: job timeout, flags: 0x0:",
        "RKNPU: soft reset, num: 1",
    )
    tree.data("dev/kmsg", "".join(f"6,{number},1{number}00,-;{line}\n" for number, line in enumerate(lines)).encode())
    return tree


def load(data: bytes) -> Callable[[], Tree]:
    def build() -> Tree:
        tree = busy("rock-5b", [0, 0, 0])
        tree.data(f"{DEBUG}/load", data)
        return tree

    return build


def model_name(model: bytes | None) -> Callable[[], Tree]:
    def build() -> Tree:
        tree = board("rock-5b")
        tree.remove(f"{BASE}/model")
        if model is not None:
            tree.data(f"{BASE}/model", model)
        return tree

    return build


def android9() -> Tree:
    """One RK3576 evaluation board ends its list so (1.2)."""
    tree = board("armsom-sige5")
    tree.strings(f"{BASE}/compatible", "rockchip,rk3576-evb1-v10", "rockchip,rk3576", "rockchip,Android9")
    return tree


def acpi() -> Tree:
    """A UEFI boot without a device tree; an ordinary PC looks the same."""
    tree = Tree()
    tree.line("proc/sys/kernel/osrelease", "6.12.0-arm64")
    tree.folder("sys/firmware/acpi")
    tree.folder("sys/bus/platform/drivers")
    tree.data("proc/meminfo", b"MemTotal:       16000000 kB\nMemAvailable:   12000000 kB\n")
    return tree


def raspberry_pi() -> Tree:
    tree = Tree()
    parts.identity(
        tree, "Raspberry Pi 5 Model B Rev 1.0", ("raspberrypi,5-model-b", "brcm,bcm2712"), "6.12.34+rpt-rpi-2712"
    )
    tree.folder("sys/bus/platform/drivers")
    return tree


def coprocessor() -> Tree:
    """An RK1820 on PCI next to the board's own NPU (section 11)."""
    tree = board("rock-5b")
    path = "sys/devices/platform/fe150000.pcie/pci0000:00/0000:00:00.0/0000:01:00.0"
    tree.line(f"{path}/vendor", "0x1d87")
    tree.line(f"{path}/device", "0x182a")
    tree.line(f"{path}/class", "0x120000")
    tree.data(f"{path}/uevent", b"PCI_CLASS=120000\nPCI_ID=1D87:182A\n", 0o644)
    tree.link(f"{path}/subsystem", "sys/bus/pci")
    tree.link("sys/bus/pci/devices/0000:01:00.0", path)
    return tree


HOSTILE = b'Evil "Board"\n\x1b[2J\x1b]0;owned\x07{model=\\"x\\"}\xff\xfe$(reboot)' + b"A" * 5000 + b"\0"

PROFILES: dict[str, Callable[[], Tree]] = {
    "rk3588-vendor": lambda: board("rock-5b"),
    "rk3588-busy": lambda: busy("orangepi-5-plus", [65, 70, 100]),
    "rk3588s-vendor": lambda: board("orangepi-5"),
    "rk3588s-mainline": rk3588s_mainline,
    "rk3588-mainline-disabled": rk3588_mainline_disabled,
    "rk3588-mainline-unbound": rk3588_mainline_unbound,
    "rk3588-dkms-on-mainline": rk3588_dkms_on_mainline,
    "rk3588-headless": lambda: board("rock-5b", card=0, render=128),
    "rk3588-disabled": rk3588_disabled,
    "rk3588-e54c": lambda: board("e54c"),
    "rk3582": rk3582,
    "rk3588f": rk3588f,
    "rk3583": rk3583,
    "rk3576-vendor": lambda: board("rock-4d"),
    "rk3576-busy": lambda: busy("rock-4d", [38, 4]),
    "rk3576-soc-bus": rk3576_soc_bus,
    "rk3576-mainline": lambda: mainline("rock-4d"),
    "rk3576-android": android9,
    "rk3576-slow": rk3576_slow,
    "rk3562-vendor": lambda: board("rk3562-evb2"),
    "rk3568-cma": rk3568_cma,
    "rk3566-zero3-disabled": rk3566_zero3_disabled,
    "rv1126b-misc": rv1126b_misc,
    "deferred": deferred,
    "deferred-listed": deferred_listed,
    "no-driver": no_driver,
    "debugfs-unreadable": debugfs_unreadable,
    "debugfs-bind-empty": debugfs_bind_empty,
    "debugfs-bound": debugfs_bound,
    "container-masked": container_masked,
    "container-docker": container_docker,
    "container-no-nodes": container_no_nodes,
    "old-driver": old_driver,
    "driver-0.9.7": driver_097,
    "devfreq-missing": devfreq_missing,
    "devfreq-load-trap": lambda: board("rock-5b"),
    "rknpu-symlink-trap": rknpu_symlink_trap,
    "ddr-slow": ddr_slow,
    "ddr-missing": ddr_missing,
    "hot": hot,
    "job-errors": job_errors,
    "load-empty": load(b""),
    "load-truncated": load(b"NPU load:  Core0: 65%, Cor"),
    "load-binary": load(bytes(range(256))),
    "load-huge": load(b"NPU load:  " + b"Core0: 12%, " * 20000),
    "load-single": lambda: busy("rk3562-evb2", [57]),
    "model-missing": model_name(None),
    "model-hostile": model_name(HOSTILE),
    "acpi": acpi,
    "raspberry-pi": raspberry_pi,
    "coprocessor": coprocessor,
}


def names() -> Iterator[str]:
    yield from BOARDS
    yield from PROFILES


def build(name: str) -> Tree:
    """The reference writes its profiles with underscores; both spellings are meant."""
    wanted = name.replace("_", "-")
    if wanted in PROFILES:
        return PROFILES[wanted]()
    if wanted in BOARDS:
        return board(wanted)
    raise KeyError(f"There is no board profile {name!r}; python -m simulator.boards --list names them.")


def write(name: str, root: Path) -> Path:
    build(name).write(root)
    return root


def live(root: Path, cores: int, wait: Callable[[float], object] = time.sleep) -> None:
    """Lets a written board's NPU work: load, temperature and interrupts change once a second until it is stopped."""
    level = [60.0] * cores
    chance = random.Random(1)
    for moment in itertools.count():
        wave = 20 * math.sin(moment / 9)
        level = [min(max(value + chance.uniform(-9, 9) + wave / 20, 5), 98) for value in level]
        for folder in (DEBUG, "proc/rknpu", "run/exo-rkllm/rknpu"):
            _rewrite(root / folder / "load", parts.load_line([round(value) for value in level]))
        for zone in (root / "sys/class/thermal").glob("thermal_zone*"):
            if (zone / "type").read_text() == "npu-thermal\n":
                _rewrite(zone / "temp", f"{round(48000 + 120 * sum(level) / cores)}\n".encode())
        wait(1.0)


def _rewrite(path: Path, data: bytes) -> None:
    """In place, as the kernel would: a reader never finds the file missing."""
    if path.exists():
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(data)
        new.chmod(0o444)
        new.replace(path)


def main(argv: list[str] | None = None) -> int:
    own = argparse.ArgumentParser(
        prog="python -m simulator.boards", description="Write a board's files below a folder."
    )
    own.add_argument("profile", nargs="?", help="a name of --list")
    own.add_argument("directory", nargs="?", type=Path, help="written to; made where it is missing")
    own.add_argument(
        "--umockdev", action="store_true", help="print the board's devices as a umockdev description instead"
    )
    own.add_argument("--live", action="store_true", help="let its NPU work until Ctrl-C")
    own.add_argument("--list", action="store_true", help="name every profile")
    args = own.parse_args(argv)
    if args.list:
        print("\n".join(names()))
        return 0
    if args.profile is None or (args.directory is None and not args.umockdev):
        own.error("a profile and a directory are needed (or --umockdev, or --list)")
    try:
        tree = build(args.profile)
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    if args.umockdev:
        sys.stdout.write(umockdev(tree))
    else:
        tree.write(args.directory)
    if args.live:
        entry = tree.entries.get(f"{DEBUG}/load") or tree.entries.get("proc/rknpu/load")
        cores = entry.data.count(b"%") if isinstance(entry, File) else 0
        with contextlib.suppress(KeyboardInterrupt):
            live(args.directory, cores)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
