"""The SoCs with a Rockchip NPU, one row each (npu-platform 1.2, 1.3, 3.6, 5.2; rkllm-runtime 1.8, 5.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Soc:
    """`npu_hz` and `ddr_hz` are the clocks that the vendor's benchmarks ran at.

    `quantizations` are what the converter offers for it, best first: eight bits on RK3588, which has no other; where
    there are four, they are about half as large and a third to a half faster, and grouped ones keep more of the
    quality (rkllm-runtime 3.4, 5.1). None: the vendor's runtime does not take the SoC.
    """

    name: str
    cores: int
    tops: float
    cpus: int
    npu_node: str
    npu_hz: int
    ddr_hz: int
    zones: tuple[str, ...]  # thermal zones by preference: kernels differ in index and in name
    quantizations: tuple[str, ...] = ()
    benchmark: str = ""  # a row of the vendor's table at these clocks (rkllm-runtime 5.1)
    bins: tuple[str, ...] = ()  # names under which the same silicon is sold with less of it enabled
    language_domain: int = 0  # where the vendor's multimodal demo puts the language model (rknn-vision 3)
    slow_cpus: tuple[int, ...] = ()  # where it has two clusters
    workers: int = 4  # threads for the vendor's library: its default; 2 on RK3576 (board-facts 10)
    header: int | None = None  # `rkllm.platform` in a model file (rkllm-runtime 3.1: no other was ever seen)

    @property
    def title(self) -> str:
        return self.name.upper()

    @property
    def rkllm(self) -> bool:
        """Whether the vendor's runtime takes it."""
        return bool(self.quantizations)


SOCS: tuple[Soc, ...] = (
    Soc(
        name="rk3588",
        cores=3,
        tops=6,
        cpus=8,
        npu_node="npu@fdab0000",
        npu_hz=1_000_000_000,
        ddr_hz=2_112_000_000,
        zones=("npu-thermal", "soc-thermal", "package-thermal"),
        quantizations=("w8a8", "w8a8_g512", "w8a8_g256", "w8a8_g128"),
        bins=("rk3582", "rk3583"),
        slow_cpus=(0, 1, 2, 3),
        header=0,
        language_domain=1,
        benchmark="32.9 tokens/s for Qwen3 0.6B w8a8",
    ),
    Soc(
        name="rk3576",
        cores=2,
        tops=6,
        cpus=8,
        npu_node="npu@27700000",
        npu_hz=950_000_000,
        ddr_hz=2_112_000_000,
        zones=("npu-thermal", "soc-thermal", "package-thermal"),
        quantizations=("w4a16_g128", "w4a16_g64", "w4a16_g32", "w4a16", "w8a8"),
        slow_cpus=(0, 1, 2, 3),
        workers=2,
        benchmark="24.9 tokens/s for Qwen3 0.6B w4a16",
        language_domain=1,
    ),
    Soc(
        name="rk3562",
        cores=1,
        tops=1,
        cpus=4,
        npu_node="npu@ff300000",
        npu_hz=1_000_000_000,
        ddr_hz=2_112_000_000,
        zones=("soc-thermal",),
        quantizations=("w8a8", "w4a16_g128", "w4a16_g64", "w4a16_g32", "w4a8_g32"),
        benchmark="10.9 tokens/s for Qwen3 0.6B w8a8",
    ),
    Soc(
        name="rv1126b",
        cores=1,
        tops=3,
        cpus=4,
        npu_node="npu@22000000",
        npu_hz=800_000_000,
        ddr_hz=1_332_000_000,
        zones=("cpu-thermal",),
        quantizations=("w4a16_g128", "w4a16_g64", "w4a16_g32", "w4a16", "w8a8"),
        benchmark="15.0 tokens/s for Qwen3 0.6B w4a16",
    ),
    Soc(
        name="rk3568",
        cores=1,
        tops=1,
        cpus=4,
        npu_node="npu@fde40000",
        npu_hz=900_000_000,
        ddr_hz=0,
        zones=("soc-thermal", "cpu-thermal"),
    ),
    Soc(
        name="rk3566",
        cores=1,
        tops=0.8,
        cpus=4,
        npu_node="npu@fde40000",
        npu_hz=900_000_000,
        ddr_hz=0,
        zones=("soc-thermal", "cpu-thermal"),
    ),
)
BY_NAME = {soc.name: soc for soc in SOCS}
FAMILY = {name: soc.name for soc in SOCS for name in (soc.name, *soc.bins)}
# An SoC of Rockchip's. A letter after the number (rk3588s, rk3588f, rk3588j) changes nothing about the NPU, unless it
# is in a row's name.
_NAME = rf"(?P<family>{'|'.join(FAMILY)}|(?:rk|rv)[0-9]{{4}})(?P<variant>[a-z]?[0-9]?)"
# Anchored, so that `rockchip,rk3588s-orangepi-5` stays a board's name. All 432 trees of the reference resolve by it.
COMPATIBLE = re.compile(rf"rockchip,{_NAME}")
NPU_COMPATIBLE = re.compile(rf"rockchip,{_NAME}-(?:rknpu|rknn-core)")
# In names of files, for patterns in which case does not matter.
IN_NAMES = r"(?:rk|rv)[0-9]{4}[a-z]?"
QUANTIZATIONS = sorted({name for soc in SOCS for name in soc.quantizations}, key=lambda name: (-len(name), name))
# Threads of the vendor's demos, and the CPUs that the library's mask has a bit for (rkllm-runtime 1.2, 1.8).
THREADS, MASK_BITS = 4, 8
RKLLM_SOCS = ", ".join(soc.title for soc in SOCS if soc.rkllm)
OTHER_SOCS = " or ".join(sorted(soc.title for soc in SOCS if not soc.rkllm))


@dataclass(frozen=True, slots=True)
class NamedSoc:
    """What a device tree calls the SoC (`rk3588s`), and its row where there is one."""

    name: str
    soc: Soc | None


def named(compatible: Sequence[str]) -> NamedSoc | None:
    """The first entry that is an SoC of Rockchip's; those with a row come first."""
    hits = [hit for hit in map(COMPATIBLE.fullmatch, compatible) if hit]
    found = [NamedSoc(hit["family"] + hit["variant"], _row(hit["family"])) for hit in hits]
    return next((one for one in found if one.soc), found[0] if found else None)


def named_by_npu(compatible: Iterable[str]) -> NamedSoc | None:
    """The SoC that the NPU's node names, for boards whose own list says nothing."""
    for hit in map(NPU_COMPATIBLE.fullmatch, compatible):
        if hit:
            return NamedSoc(hit["family"], _row(hit["family"]))
    return None


def _row(family: str) -> Soc | None:
    return BY_NAME.get(FAMILY.get(family, ""))


def family_of(name: str) -> str:
    """The row that a SoC's name means, be it a bin's or a variant's: rk3588 for RK3582 and rk3588s. Others stay."""
    hit = re.fullmatch(_NAME, name.lower())
    return FAMILY.get(hit["family"], hit["family"]) if hit else name.lower()


def default_cpus(soc: Soc | None, allowed: Iterable[int], present: int) -> tuple[int, ...]:
    """CPUs for the threads of the runtime: of those that are allowed, as many as the SoC's row has workers, or THREADS
    where no SoC is known; the big cluster (CPU4-7) first.

    `present` counts the machine's CPUs where no SoC is known. One with fewer than THREADS, or none that the mask has a
    bit for, is no board: only the simulator runs there, which gets the mask of a small one.

    The result is never empty: the library leaves the mask undefined where it counts neither 4 nor 8 CPUs (rkllm-runtime
    1.8). A CPU outside `allowed` is never added: an operator's CPUAffinity would be widened by the library's threads.
    """
    present, workers = (soc.cpus, soc.workers) if soc else (present, THREADS)
    usable = sorted(cpu for cpu in set(allowed) if cpu < MASK_BITS)
    if present < THREADS or not usable:
        return tuple(range(THREADS))
    first = THREADS if present >= MASK_BITS else 0
    big = [cpu for cpu in usable if first <= cpu < first + THREADS]
    others = [cpu for cpu in reversed(usable) if cpu not in big]
    return tuple(sorted((big + others)[:workers]))
