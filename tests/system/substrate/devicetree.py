"""Device trees of boards: qemu's own tree of its `virt` machine, with a board's names and its NPU nodes in addition.

qemu knows no Rockchip machine; what software reads of a board before it touches a register is in the tree alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simulator.boards import BOARDS
from simulator.boards_parts import SHAPES
from tests.system.substrate import host

# The machine at the dump and at the boot has to be the same.
MACHINE = "virt,gic-version=3"
PROCESSOR = "cortex-a76"
SERIAL = "c0ffee0123456789"
# Interrupts that every GIC has for itself, before the shared ones that trees count from zero.
PRIVATE_INTERRUPTS = 32


@dataclass(frozen=True, slots=True)
class Board:
    """A row of simulator/boards.py as one kernel or the other would describe it."""

    name: str
    kernel: str = "vendor"
    npu: str = "okay"  # status of the NPU's nodes; empty: there are none
    state: str = "vendor_ready"  # what `exo-rkllm board` has to say of it, with our module loaded

    @property
    def model(self) -> str:
        row = BOARDS[self.name]
        return row.model if self.kernel == "vendor" else row.mainline_model

    @property
    def compatible(self) -> tuple[str, ...]:
        row = BOARDS[self.name]
        return row.compatible if self.kernel == "vendor" else row.mainline

    @property
    def cores(self) -> int:
        return SHAPES[BOARDS[self.name].soc].cores

    @property
    def device(self) -> str:
        return f"{SHAPES[BOARDS[self.name].soc].address:x}.npu"


PLUS = Board("orangepi-5-plus")
TABLE: Mapping[str, Board] = {
    "RK3588": PLUS,
    "RK3588S": Board("orangepi-5"),
    "RK3576": Board("rock-4d"),
    "mainline": Board("rock-5b", kernel="mainline", state="no_driver"),
    "NPU disabled": Board("orangepi-5-plus", npu="disabled", state="disabled_in_dt"),
    "no NPU": Board("rock-4d", kernel="mainline", npu="", state="kernel_without_npu_node"),
}


def write(board: Board, to: Path, *, processors: int, megabytes: int) -> Path:
    """The flattened tree that qemu hands to the kernel."""
    plain, source, flat = (to / f"{board.name}.{kind}" for kind in ("plain", "dts", "dtb"))
    # Without a screen and devices, dumping is all that this does.
    host.run(
        "qemu-system-aarch64",
        *("-machine", f"{MACHINE},dumpdtb={plain}", "-cpu", PROCESSOR),
        *("-smp", str(processors), "-m", str(megabytes), "-nodefaults", "-display", "none"),
    )
    source.write_text(host.run("dtc", "-q", "-I", "dtb", "-O", "dts", plain) + addition(board))
    host.run("dtc", "-q", "-I", "dts", "-O", "dtb", "-o", flat, source)
    return flat


def addition(board: Board) -> str:
    lines = [
        f"compatible = {_texts(board.compatible)};",
        f"model = {_texts([board.model])};",
        f"serial-number = {_texts([SERIAL])};",
        *_nodes(board),
    ]
    return "\n/ {\n\t" + "\n\t".join(lines) + "\n};\n"


def _nodes(board: Board) -> list[str]:
    if not board.npu:
        return []
    shape = SHAPES[BOARDS[board.name].soc]
    step = shape.step or shape.size
    places = [f"<0x0 {shape.address + step * core:#x} 0x0 {shape.size:#x}>" for core in range(shape.cores)]
    lines = [f"<0 {number - PRIVATE_INTERRUPTS} 4>" for number in shape.hwirqs]
    if board.kernel != "vendor":
        return [
            _node(shape.address + step * core, (f"rockchip,{shape.name}-rknn-core",), board.npu, [place], [line], ())
            for core, (place, line) in enumerate(zip(places, lines, strict=True))
        ]
    return [_node(shape.address, shape.npu_compatible, board.npu, places, lines, shape.irq_names)]


def _node(
    address: int,
    compatible: tuple[str, ...],
    status: str,
    places: list[str],
    interrupts: list[str],
    names: tuple[str, ...],
) -> str:
    named = f"interrupt-names = {_texts(names)}; " if names else ""
    return (
        f"npu@{address:x} {{ compatible = {_texts(compatible)}; status = {_texts([status])}; "
        f"reg = {', '.join(places)}; interrupts = {', '.join(interrupts)}; {named}}};"
    )


def _texts(words: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)
