"""`detect(root)`: what this machine is and which device nodes belong to its NPU, as one frozen value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from exo_rkllm.board import files
from exo_rkllm.board.driver import MINIMUM, is_older, parse_load, version_in
from exo_rkllm.board.states import OTHER_ENGINES, UNMASK, BoardFacts, DeviceTreeNode, NpuState, UnboundDevice, decide
from exo_rkllm.errors import NpuUnavailable
from exo_rkllm.socs import RKLLM_SOCS, NamedSoc, Soc, named, named_by_npu

Build: TypeAlias = Literal["drm_gem", "dma_heap", "rocket"]
NodeKind: TypeAlias = Literal["card", "render", "misc", "accel"]
DRM_MINORS: tuple[tuple[NodeKind, str], ...] = (("card", "card"), ("render", "renderD"))
# Read under /sys, which a test or a container can fake; /proc/device-tree is a link to it (npu-platform 1.1).
DEVICE_TREE = "sys/firmware/devicetree/base"
DEBUGFS = "sys/kernel/debug/rknpu"
BOUND = "run/exo-rkllm/rknpu"
# Where the driver's own files can be: open to all (some kernels), the package's mount that follows the driver, the
# service's sandbox as it was bound at its start, root's debugfs.
DRIVER_FOLDERS = ("proc/rknpu", "run/rkllm/npu", BOUND, DEBUGFS)
BUS = "sys/bus/platform"
NPU_NODE = re.compile(r"rockchip,(?:[a-z0-9]+-)?(?:rknpu|rknn-core)")


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A node below /dev. `guessed`: no link in sysfs names its owner and no other driver has it (npu-platform 2.2)."""

    path: str
    kind: NodeKind
    present: bool
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Npu:
    device: str  # the platform device of all cores, or of the first one under rocket
    devices: tuple[str, ...]
    driver: str
    version: str
    build: Build
    cores: int | None
    iommu: bool
    nodes: tuple[DeviceNode, ...]


@dataclass(frozen=True, slots=True)
class Board:
    state: NpuState
    sentence: str
    hint: str
    model: str
    compatible: tuple[str, ...]
    soc_name: str
    soc: Soc | None
    npu: Npu | None
    kernel: str
    container: str
    tree: bool  # whether the device tree can be read: the vendor's library reads it, too
    coprocessors: tuple[str, ...] = ()  # RK182x on PCI, which RKLLM does not drive (npu-platform 11)

    @property
    def title(self) -> str:
        return self.model or self.soc_name.upper() or "unknown board"

    def unavailable_reason(self) -> NpuUnavailable | None:
        """Why no RKLLM model can run here now; None when one can."""
        if self.soc and not self.soc.rkllm:
            return NpuUnavailable(
                f"The NPU of the {self.soc.title} cannot run RKLLM models: the library takes {RKLLM_SOCS} only.",
                OTHER_ENGINES,
            )
        if self.state != "vendor_ready" or self.npu is None:
            return NpuUnavailable(self.sentence, self.hint)
        if is_older(self.npu.version, MINIMUM):
            return NpuUnavailable(
                f"The kernel's NPU driver is {self.npu.version}; the RKLLM library needs {MINIMUM} or newer.",
                UPGRADE,
            )
        if not self.tree:
            return NpuUnavailable(
                "The device tree is hidden here, and the RKLLM library refuses a board it cannot read.", UNMASK
            )
        # The library opens the card or the misc device (npu-platform 2.3).
        if not any(node.present for node in self.npu.nodes if node.kind != "render"):
            return self.missing_nodes()
        return None

    def missing_nodes(self) -> NpuUnavailable | None:
        """Which of the driver's device nodes do not exist; None when all do."""
        nodes = self.npu.nodes if self.npu else ()
        absent = [node.path for node in nodes if not node.present]
        if not nodes:
            return NpuUnavailable("The driver made no device node.", "sudo dmesg | grep -iE 'rknpu|drm'")
        if absent and self.container:
            devices = " ".join(f"--device {path}" for path in absent)
            return NpuUnavailable(f"{' and '.join(absent)} are not in this container.", f"Start it with {devices}")
        if absent:
            return NpuUnavailable(
                f"{' and '.join(absent)} do not exist, though the kernel has the devices.",
                "sudo udevadm trigger --subsystem-match=drm --subsystem-match=misc",
            )
        return None


UPGRADE = (
    "The driver is part of the kernel: upgrade that (Armbian: sudo apt update && sudo apt full-upgrade with the vendor "
    "kernel; Radxa: sudo rsetup, System, System update), then reboot."
)


def detect(root: Path = Path("/")) -> Board:
    """The board below `root`, from some forty small files, none of which wakes the NPU; no content raises."""
    tree = root / DEVICE_TREE
    compatible = tuple(files.clean(name) for name in files.strings(tree / "compatible"))
    vendor, rocket = _bound(root, "RKNPU"), _bound(root, "rocket")
    facts = BoardFacts(
        vendor=vendor,
        rocket=rocket,
        unbound=tuple(_unbound(root)),
        tree_nodes=tuple(_tree_nodes(tree)),
        tree=bool(compatible),
        named=_soc(root, compatible, vendor or rocket),
        model=files.clean(" ".join(files.strings(tree / "model"))),
        kernel=files.clean(files.text(root / "proc/sys/kernel/osrelease") or ""),
        container=_container(root),
    )
    verdict = decide(facts)
    return Board(
        state=verdict.state,
        sentence=verdict.sentence,
        hint=verdict.hint,
        model=facts.model,
        compatible=compatible,
        soc_name=facts.named.name if facts.named else "",
        soc=facts.named.soc if facts.named else None,
        npu=_npu(root, facts),
        kernel=facts.kernel,
        container=facts.container,
        tree=facts.tree,
        coprocessors=tuple(_coprocessors(root)),
    )


def driver_folder(root: Path) -> Path | None:
    """The first of the driver's folders that this process can read, or None; `sources` says why."""
    for folder in DRIVER_FOLDERS:
        try:
            files.read(root / folder / "load", 1)
        except OSError:
            continue
        return root / folder
    return None


# ── the facts ─────────────────────────────────────────────────────────────────────────────────


def _bound(root: Path, driver: str) -> tuple[str, ...]:
    return tuple(name for name in files.names(root / BUS / "drivers" / driver) if name.endswith(".npu"))


def _unbound(root: Path) -> Iterator[UnboundDevice]:
    devices = root / BUS / "devices"
    # Only root can read the list of what waits; `waiting_for_supplier` covers device-tree links alone (1.8).
    waiting = (files.text(root / "sys/kernel/debug/devices_deferred") or "").split()
    for name in files.names(devices):
        if not name.endswith(".npu") or files.link_name(devices / name / "driver"):
            continue
        compatible = _device_compatible(devices / name)
        if any(NPU_NODE.fullmatch(text) for text in compatible):
            waits = files.text(devices / name / "waiting_for_supplier") == "1" or name in waiting
            yield UnboundDevice(name, compatible, waits)


def _device_compatible(device: Path) -> tuple[str, ...]:
    compatible = files.strings(device / "of_node/compatible")
    if compatible:
        return compatible
    lines = files.properties(device / "uevent")  # readable where the device tree is masked, too
    return tuple(value for key, value in lines.items() if re.fullmatch(r"OF_COMPATIBLE_\d", key))


def _tree_nodes(tree: Path) -> Iterator[DeviceTreeNode]:
    """Vendor trees have the node at the root, some derived kernels below /soc (1.3)."""
    for parent in ("", *(name for name in files.names(tree) if name.startswith("soc"))):
        for name in files.names(tree / parent):
            if not name.startswith("npu@"):
                continue
            compatible = files.strings(tree / parent / name / "compatible")
            if any(NPU_NODE.fullmatch(text) for text in compatible):
                status = files.strings(tree / parent / name / "status")
                path = "/" + "/".join(part for part in (parent, files.clean(name)) if part)
                yield DeviceTreeNode(path, compatible, not status or status[0] in ("okay", "ok"))


def _soc(root: Path, compatible: tuple[str, ...], devices: tuple[str, ...]) -> NamedSoc | None:
    by_board = named(compatible)
    if by_board and (by_board.soc or not devices):
        return by_board
    by_npu = [named_by_npu(_device_compatible(root / BUS / "devices" / name)) for name in devices]
    return next((name for name in by_npu if name), by_board)


def _container(root: Path) -> str:
    """The container's kind, from the files that systemd, Podman and Docker leave; empty outside."""
    if (name := files.text(root / "run/systemd/container")) is not None:
        return files.clean(name) or "container"
    if files.exists(root / "run/.containerenv"):
        return "podman"
    return "docker" if files.exists(root / ".dockerenv") else ""


def _coprocessors(root: Path) -> Iterator[str]:
    for path in (root / "sys/bus/pci/devices" / name for name in files.names(root / "sys/bus/pci/devices")):
        if files.text(path / "vendor") == "0x1d87" and files.text(path / "device") == "0x182a":
            yield path.name


# ── the NPU itself ───────────────────────────────────────────────────────────────────────────────


def _npu(root: Path, facts: BoardFacts) -> Npu | None:
    devices = facts.vendor or facts.rocket
    if not devices:
        return None
    first = root / BUS / "devices" / devices[0]
    nodes, build = _device_nodes(root, rocket=not facts.vendor)
    return Npu(
        device=devices[0],
        devices=devices,
        driver="RKNPU" if facts.vendor else "rocket",
        version=_version(root) if facts.vendor else "",
        build=build,
        cores=_cores(root, facts, first),
        iommu=bool(files.link_name(first / "iommu_group")),
        nodes=nodes,
    )


def _version(root: Path) -> str:
    """From sysfs, which every user can read and a built-in driver has, too (3.4), else from the driver's own folder."""
    module = version_in(files.text(root / "sys/module/rknpu/version") or "")
    folder = driver_folder(root)
    return module or (version_in(files.text(folder / "version") or "") if folder else "")


def _cores(root: Path, facts: BoardFacts, first: Path) -> int | None:
    """The driver's load line is right on bins with fused-off cores, too, where the tree still lists three (cheat 4)."""
    if not facts.vendor:
        return len(facts.rocket)
    folder = driver_folder(root)
    load = parse_load((files.text(folder / "load", 4096) or "").encode()) if folder else None
    if load:
        return len(load)
    interrupts = files.strings(first / "of_node/interrupt-names")
    if lines := [name for name in interrupts if re.fullmatch(r"npu\d?_irq", name)]:
        return len(lines)
    return facts.named.soc.cores if facts.named and facts.named.soc else None


def _device_nodes(root: Path, *, rocket: bool) -> tuple[tuple[DeviceNode, ...], Build]:
    if rocket:
        accel = [_node(root, path, "accel") for path in files.numbered(root / "sys/class/accel", "accel")]
        return tuple(accel), "rocket"
    minors = [(path, kind) for kind, prefix in DRM_MINORS for path in files.numbered(root / "sys/class/drm", prefix)]
    ours = [pair for pair in minors if files.link_name(pair[0] / "device/driver") == "RKNPU"]
    orphans = [pair for pair in minors if not files.link_name(pair[0] / "device/driver")]
    nodes = tuple(_node(root, path, kind, guessed=not ours) for path, kind in ours or orphans)
    if not nodes and files.exists(root / "sys/class/misc/rknpu"):
        return (_node(root, root / "sys/class/misc/rknpu", "misc"),), "dma_heap"
    return nodes, "drm_gem"


def _node(root: Path, device: Path, kind: NodeKind, *, guessed: bool = False) -> DeviceNode:
    name = files.properties(device / "uevent").get("DEVNAME") or device.name
    path = "/dev/" + files.clean(name)
    return DeviceNode(path, kind, files.exists(root / path[1:]), guessed)
