"""The state of a machine, from `vendor_ready` to a board nobody knows, decided from its facts.

The order of `decide` is npu-platform 1.8: the bound driver is asked first, since device trees name the same node
under vendor's and mainline's kernels and out-of-tree drivers bind to either (1.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from exo_rkllm.socs import RKLLM_SOCS, NamedSoc

NpuState: TypeAlias = Literal[
    "vendor_ready",
    "mainline_rocket",
    "deferred",
    "no_driver",
    "disabled_in_dt",
    "kernel_without_npu_node",
    "unknown",
    "unsupported_soc",
]


@dataclass(frozen=True, slots=True)
class UnboundDevice:
    """A platform device of an NPU that no driver took."""

    name: str
    compatible: tuple[str, ...]
    waiting: bool  # for a supplier (regulator, IOMMU), as far as this user can tell


@dataclass(frozen=True, slots=True)
class DeviceTreeNode:
    """An NPU node of the live device tree, which the tree may disable."""

    path: str
    compatible: tuple[str, ...]
    enabled: bool


@dataclass(frozen=True, slots=True)
class BoardFacts:
    """What the kernel shows. `vendor` and `rocket`: platform devices that are bound to that driver."""

    vendor: tuple[str, ...] = ()
    rocket: tuple[str, ...] = ()
    unbound: tuple[UnboundDevice, ...] = ()
    tree_nodes: tuple[DeviceTreeNode, ...] = ()
    tree: bool = False
    named: NamedSoc | None = None
    model: str = ""
    kernel: str = ""
    container: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state, the sentence that says so with its facts, and the command that repairs it."""

    state: NpuState
    sentence: str
    hint: str = ""


VENDOR_KERNEL = (
    "Boot a vendor kernel (Armbian: sudo apt install linux-image-vendor-rk35xx linux-dtb-vendor-rk35xx; "
    "others: your board maker's 6.1 image), then reboot."
)
UNMASK = "Start the container with --security-opt systempaths=unconfined (Docker, Podman); it shows /proc/device-tree."
OVERLAY = "Switch on its overlay (Radxa: sudo rsetup, Overlays, Enable NPU; Armbian: sudo armbian-config), then reboot."
LOAD_DRIVER = f"sudo modprobe rknpu; where there is no such module: {VENDOR_KERNEL}"
OTHER_ENGINES = "GGUF models (llama.cpp) and remote servers work on this machine too: exo-rkllm engines"


def decide(facts: BoardFacts) -> Verdict:
    """The first state whose facts hold."""
    soc = (facts.named.name.upper() + " ") if facts.named else ""
    kernel = facts.kernel or "unknown"
    if facts.vendor:
        return Verdict("vendor_ready", f"The {soc}NPU {facts.vendor[0]} runs with the vendor's driver.")
    if facts.rocket:
        return Verdict(
            "mainline_rocket",
            f"The {soc}NPU runs with mainline's driver rocket, which the RKLLM library cannot use.",
            VENDOR_KERNEL,
        )
    for device in sorted(facts.unbound, key=lambda device: not device.waiting):
        if device.waiting:
            return Verdict(
                "deferred",
                f"The NPU device {device.name} waits for another driver (regulator or IOMMU), so none is bound to it.",
                "sudo cat /sys/kernel/debug/devices_deferred; sudo dmesg | grep -iE 'npu|rk860|rk806|iommu'",
            )
        return Verdict(
            "no_driver",
            f"The NPU device {device.name} is on and no driver is bound to it (kernel {kernel}).",
            VENDOR_KERNEL if _mainline(device.compatible) else LOAD_DRIVER,
        )
    for node in facts.tree_nodes:
        if not node.enabled:
            return Verdict(
                "disabled_in_dt",
                f"The device tree switches the NPU off ({node.path}).",
                VENDOR_KERNEL if _mainline(node.compatible) else OVERLAY,
            )
    if facts.named and facts.named.soc:
        return Verdict(
            "kernel_without_npu_node",
            f"The {soc.strip()} has an NPU, and the device tree of this kernel ({kernel}) does not have it.",
            VENDOR_KERNEL,
        )
    if not facts.tree:
        return _no_device_tree(facts)
    name = facts.named.name.upper() if facts.named else facts.model or "This board"
    return Verdict(
        "unsupported_soc",
        f"{name} has no NPU that is known here; the RKLLM library takes {RKLLM_SOCS}.",
        OTHER_ENGINES,
    )


def _no_device_tree(facts: BoardFacts) -> Verdict:
    if facts.container:
        return Verdict("unknown", "This container hides the device tree, so nothing says what board this is.", UNMASK)
    return Verdict(
        "unknown",
        "There is no device tree: this is a PC, or a board that was started through ACPI without an NPU driver.",
        OTHER_ENGINES,
    )


def _mainline(compatible: tuple[str, ...]) -> bool:
    return any(name.endswith("-rknn-core") for name in compatible)
