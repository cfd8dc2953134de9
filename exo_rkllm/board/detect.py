"""`detect(root)`: what this machine is and which of its device nodes are the NPU's, as one frozen value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from exo_rkllm.board import files, version
from exo_rkllm.board.load import parse_load
from exo_rkllm.board.states import OTHER_ENGINES, UNMASK, DeviceNodeState, NpuState, Seen, Unbound, decide
from exo_rkllm.errors import NpuUnavailable
from exo_rkllm.socs import RKLLM_SOCS, NamedSoc, Soc, named, named_by_npu

Build: TypeAlias = Literal["drm_gem", "dma_heap", "rocket"]
# Read under /sys, which a test or a container can fake; /proc/device-tree is a link to it (npu-platform 1.1).
DEVICE_TREE = "sys/firmware/devicetree/base"
DEBUGFS = "sys/kernel/debug/rknpu"
BOUND = "run/exo-rkllm/rknpu"
# Where the driver's own files can be: open to all (some kernels), the package's mount that follows the driver, bound
# into the service's sandbox when it started, root's debugfs.
DRIVER_FOLDERS = ("proc/rknpu", "run/rkllm/npu", BOUND, DEBUGFS)
BUS = "sys/bus/platform"
NPU_NODE = re.compile(r"rockchip,(?:[a-z0-9]+-)?(?:rknpu|rknn-core)")


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """`guessed`: no link of sysfs says so, it is the one DRM device that nobody else owns (npu-platform 2.2)."""

    path: str
    kind: Literal["card", "render", "misc", "accel"]
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

    @property
    def version_old(self) -> bool:
        return version.older(self.version, version.WANTED)


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
    tree: bool  # whether the device tree can be read: the vendor's library reads it too
    coprocessors: tuple[str, ...] = ()  # RK182x on PCI, which RKLLM does not drive (npu-platform 11)

    @property
    def title(self) -> str:
        return self.model or self.soc_name.upper() or "unknown board"

    def unavailable_reason(self) -> NpuUnavailable | None:
        """Why no RKLLM model can run here now; None where one can."""
        if self.soc and not self.soc.rkllm:
            return NpuUnavailable(
                f"The NPU of the {self.soc.title} cannot run RKLLM models: the library takes {RKLLM_SOCS} only.",
                OTHER_ENGINES,
            )
        if self.state != "vendor_ready" or self.npu is None:
            return NpuUnavailable(self.sentence, self.hint)
        if version.older(self.npu.version, version.MINIMUM):
            return NpuUnavailable(
                f"The kernel's NPU driver is {self.npu.version}; the RKLLM library needs {version.MINIMUM} or newer.",
                UPGRADE,
            )
        if not self.tree:
            return NpuUnavailable(
                "The device tree is hidden here, and the RKLLM library refuses a board it cannot read.", UNMASK
            )
        # The library opens the card or the misc device (npu-platform 2.3).
        if not any(node.present for node in self.npu.nodes if node.kind != "render"):
            return self.missing()
        return None

    def missing(self) -> NpuUnavailable | None:
        """Which of the driver's device nodes are not there."""
        known = self.npu.nodes if self.npu else ()
        absent = [node.path for node in known if not node.present]
        if not known:
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
    """Reads some forty small files, none of which wakes the NPU; never raises for what it finds there."""
    tree = root / DEVICE_TREE
    compatible = tuple(files.clean(name) for name in files.strings(tree / "compatible"))
    vendor, rocket = _bound(root, "RKNPU"), _bound(root, "rocket")
    seen = Seen(
        vendor=vendor,
        rocket=rocket,
        unbound=tuple(_unbound(root)),
        nodes=tuple(_nodes(tree)),
        tree=bool(compatible),
        named=_soc(root, compatible, vendor or rocket),
        model=files.clean(" ".join(files.strings(tree / "model"))),
        kernel=files.clean(files.text(root / "proc/sys/kernel/osrelease") or ""),
        container=_container(root),
    )
    verdict = decide(seen)
    return Board(
        state=verdict.state,
        sentence=verdict.sentence,
        hint=verdict.hint,
        model=seen.model,
        compatible=compatible,
        soc_name=seen.named.name if seen.named else "",
        soc=seen.named.soc if seen.named else None,
        npu=_npu(root, seen),
        kernel=seen.kernel,
        container=seen.container,
        tree=seen.tree,
        coprocessors=tuple(_coprocessors(root)),
    )


def driver_folder(root: Path) -> Path | None:
    """The first of the driver's folders that this process can use; see `sources` for why there is none."""
    for folder in DRIVER_FOLDERS:
        try:
            files.read(root / folder / "load", 1)
        except OSError:
            continue
        return root / folder
    return None


# ── what is seen ─────────────────────────────────────────────────────────────────────────────────


def _bound(root: Path, driver: str) -> tuple[str, ...]:
    return tuple(name for name in files.names(root / BUS / "drivers" / driver) if name.endswith(".npu"))


def _unbound(root: Path) -> Iterator[Unbound]:
    devices = root / BUS / "devices"
    # Only root can read the list of what waits; `waiting_for_supplier` covers device-tree links alone (1.8).
    waiting = (files.text(root / "sys/kernel/debug/devices_deferred") or "").split()
    for name in files.names(devices):
        if not name.endswith(".npu") or files.link_name(devices / name / "driver"):
            continue
        compatible = _device_compatible(devices / name)
        if any(NPU_NODE.fullmatch(text) for text in compatible):
            held = files.text(devices / name / "waiting_for_supplier") == "1" or name in waiting
            yield Unbound(name, compatible, held)


def _device_compatible(device: Path) -> tuple[str, ...]:
    own = files.strings(device / "of_node/compatible")
    if own:
        return own
    lines = files.properties(device / "uevent")  # what is left where the device tree is masked
    return tuple(value for key, value in lines.items() if re.fullmatch(r"OF_COMPATIBLE_\d", key))


def _nodes(tree: Path) -> Iterator[DeviceNodeState]:
    """Vendor trees have the node at the root, some derived kernels below /soc (1.3)."""
    for inside in ("", *(name for name in files.names(tree) if name.startswith("soc"))):
        for name in files.names(tree / inside):
            if not name.startswith("npu@"):
                continue
            compatible = files.strings(tree / inside / name / "compatible")
            if any(NPU_NODE.fullmatch(text) for text in compatible):
                status = files.strings(tree / inside / name / "status")
                path = "/" + "/".join(part for part in (inside, files.clean(name)) if part)
                yield DeviceNodeState(path, compatible, not status or status[0] in ("okay", "ok"))


def _soc(root: Path, compatible: tuple[str, ...], devices: tuple[str, ...]) -> NamedSoc | None:
    found = named(compatible)
    if found and (found.soc or not devices):
        return found
    by_npu = [named_by_npu(_device_compatible(root / BUS / "devices" / name)) for name in devices]
    return next((one for one in by_npu if one), found)


def _container(root: Path) -> str:
    """systemd, Podman and Docker leave these; empty outside of one."""
    if (name := files.text(root / "run/systemd/container")) is not None:
        return files.clean(name) or "container"
    if files.there(root / "run/.containerenv"):
        return "podman"
    return "docker" if files.there(root / ".dockerenv") else ""


def _coprocessors(root: Path) -> Iterator[str]:
    for path in (root / "sys/bus/pci/devices" / name for name in files.names(root / "sys/bus/pci/devices")):
        if files.text(path / "vendor") == "0x1d87" and files.text(path / "device") == "0x182a":
            yield path.name


# ── the NPU itself ───────────────────────────────────────────────────────────────────────────────


def _npu(root: Path, seen: Seen) -> Npu | None:
    devices = seen.vendor or seen.rocket
    if not devices:
        return None
    first = root / BUS / "devices" / devices[0]
    nodes, build = _device_nodes(root, rocket=not seen.vendor)
    return Npu(
        device=devices[0],
        devices=devices,
        driver="RKNPU" if seen.vendor else "rocket",
        version=_version(root) if seen.vendor else "",
        build=build,
        cores=_cores(root, seen, first),
        iommu=bool(files.link_name(first / "iommu_group")),
        nodes=nodes,
    )


def _version(root: Path) -> str:
    """Open to every user, with a built-in driver too (3.4); the driver's own folder says the same."""
    module = version.found_in(files.text(root / "sys/module/rknpu/version") or "")
    folder = driver_folder(root)
    return module or (version.found_in(files.text(folder / "version") or "") if folder else "")


def _cores(root: Path, seen: Seen, first: Path) -> int | None:
    """The driver's own line is right even on bins with fused-off cores, where the tree still lists three (cheat 4)."""
    if not seen.vendor:
        return len(seen.rocket)
    folder = driver_folder(root)
    measured = parse_load(_or_empty(folder / "load")) if folder else None
    if measured:
        return len(measured)
    listed = [name for name in files.strings(first / "of_node/interrupt-names") if re.fullmatch(r"npu\d?_irq", name)]
    if listed:
        return len(listed)
    return seen.named.soc.cores if seen.named and seen.named.soc else None


def _or_empty(path: Path) -> bytes:
    try:
        return files.read(path, 4096)
    except OSError:
        return b""


def _device_nodes(root: Path, *, rocket: bool) -> tuple[tuple[DeviceNode, ...], Build]:
    if rocket:
        accel = [_node(root, path, "accel") for path in files.numbered(root / "sys/class/accel", "accel")]
        return tuple(accel), "rocket"
    minors = [
        (path, kind)
        for kind, prefix in (("card", "card"), ("render", "renderD"))
        for path in files.numbered(root / "sys/class/drm", prefix)
    ]
    owned = [pair for pair in minors if files.link_name(pair[0] / "device/driver") == "RKNPU"]
    orphans = [pair for pair in minors if not files.link_name(pair[0] / "device/driver")]
    guessed = not owned
    found = tuple(
        _node(root, path, "card" if kind == "card" else "render", guessed=guessed) for path, kind in owned or orphans
    )
    if not found and files.there(root / "sys/class/misc/rknpu"):
        return (_node(root, root / "sys/class/misc/rknpu", "misc"),), "dma_heap"
    return found, "drm_gem"


def _node(
    root: Path, device: Path, kind: Literal["card", "render", "misc", "accel"], *, guessed: bool = False
) -> DeviceNode:
    name = files.properties(device / "uevent").get("DEVNAME") or device.name
    path = "/dev/" + files.clean(name)
    return DeviceNode(path, kind, files.there(root / path[1:]), guessed)
