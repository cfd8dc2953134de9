"""One reading of everything that a board tells about its NPU without waking it: some fourteen small files.

What cannot be read is absent, with its reason; nothing is reported as 0 because it is not known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from exo_rkllm.board import files
from exo_rkllm.board.driver import parse_load
from exo_rkllm.board.sources import Devfreq, Sources

KIB = 1024
# A sensor that is powered down or broken prints values that no silicon survives.
COLDEST, HOTTEST = -60.0, 200.0
# `error` and `unsupported` are states, too, and say nothing about power (3.4).
POWERED = {"active": True, "resuming": True, "suspending": True, "suspended": False}
MEMINFO = re.compile(rb"^(\w+):\s+(\d{1,15}) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Clock:
    """Hertz; `maximum` is the limit of now, `top` the highest step that the chip has."""

    hertz: int
    minimum: int | None
    maximum: int | None  # drops while the chip is hot (3.6)
    top: int | None
    governor: str

    @property
    def throttled(self) -> bool:
        return self.maximum is not None and self.top is not None and self.maximum < self.top


@dataclass(frozen=True, slots=True)
class Reading:
    """None means "not known here"; `absent` says why, by the collector's name."""

    powered: bool | None = None
    status: str = ""
    powered_seconds: float | None = None
    load: tuple[float, ...] | None = None
    clock: Clock | None = None
    ddr: Clock | None = None
    celsius: float | None = None
    zone: str = ""
    interrupts: tuple[int, ...] | None = None
    volts: float | None = None
    watts: float | None = None
    memory_total: int | None = None
    memory_available: int | None = None
    cma_total: int | None = None
    cma_free: int | None = None
    absent: Mapping[str, str] = field(default_factory=dict)


Collector: TypeAlias = Callable[[Sources], dict[str, Any]]


class NoValue(Exception):
    """Half a sentence that says why a collector has no value; never leaves this module."""


def read(sources: Sources, collectors: Mapping[str, Collector] | None = None) -> Reading:
    """Call these collectors, or all of them once; one that fails leaves its fields out and disturbs no other."""
    values: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name, collect in (COLLECTORS if collectors is None else collectors).items():
        try:
            values |= collect(sources)
        except NoValue as missing:
            absent[name] = str(missing)
    return replace(Reading(absent=absent), **values)


def read_power(sources: Sources) -> bool | None:
    """Whether the NPU has power, from one file a device."""
    try:
        return bool(_power(sources)["powered"])
    except NoValue:
        return None


def read_temperature(sources: Sources) -> float | None:
    """Degrees of the NPU or the chip, from one file."""
    try:
        celsius: float = _temperature(sources)["celsius"]
    except NoValue:
        return None
    return celsius


def read_load(sources: Sources) -> tuple[float, ...] | None:
    try:
        loads: tuple[float, ...] = _load(sources)["load"]
    except NoValue:
        return None
    return loads


def read_gauges(sources: Sources) -> Reading:
    """Load, temperature, power and memory."""
    return read(sources, GAUGES)


# ── collectors ───────────────────────────────────────────────────────────────────────────────────


def _bytes(path: Path, sources: Sources, limit: int = 4096) -> bytes:
    try:
        return files.read(path, limit)
    except OSError as error:
        raise NoValue(files.reason(error, path, sources.root)) from None


def _number(path: Path, sources: Sources, lowest: int = 0) -> int:
    number = files.whole(_bytes(path, sources, 64).decode("ascii", "replace").strip())
    if number is None or number < lowest:
        raise NoValue(f"/{path.relative_to(sources.root)} holds no such number")
    return number


def _load(sources: Sources) -> dict[str, Any]:
    if sources.folder is None:
        raise NoValue(sources.no_folder or "there is no NPU driver")
    line = _bytes(sources.folder / "load", sources, 1024)
    load = parse_load(line)
    # A line that was cut between two cores is well-formed and short.
    if load is None or (sources.cores is not None and len(load) < sources.cores):
        raise NoValue(f"/{(sources.folder / 'load').relative_to(sources.root)} holds no load of {sources.cores} cores")
    return {"load": load}


def _power(sources: Sources) -> dict[str, Any]:
    if not sources.names:
        raise NoValue("there is no NPU driver")
    texts = [_bytes(device / "power/runtime_status", sources, 64) for device in sources.devices]
    states = [files.clean(text.decode("ascii", "replace"), 16) for text in texts]
    if not set(states) <= set(POWERED):
        raise NoValue(f"the driver's runtime power state is {', '.join(states) or 'empty'}")
    awake = [state for state in states if POWERED[state]]
    return {"status": awake[0] if awake else "suspended", "powered": bool(awake)}


def _powered_seconds(sources: Sources) -> dict[str, Any]:
    if not sources.names:
        raise NoValue("there is no NPU driver")
    milliseconds = [_number(device / "power/runtime_active_time", sources) for device in sources.devices]
    return {"powered_seconds": max(milliseconds) / 1000}


def _clock(sources: Sources) -> dict[str, Any]:
    if sources.npu_clock is None:
        raise NoValue("the driver registered no clock with devfreq")
    return {"clock": _read_clock(sources.npu_clock, sources)}


def _ddr(sources: Sources) -> dict[str, Any]:
    if sources.ddr_clock is None:
        raise NoValue("the kernel has no clock control for the memory (dmc)")
    return {"ddr": _read_clock(sources.ddr_clock, sources)}


def _read_clock(devfreq: Devfreq, sources: Sources) -> Clock:
    return Clock(
        hertz=_number(devfreq.path / "cur_freq", sources),
        minimum=files.number(devfreq.path / "min_freq"),
        maximum=files.number(devfreq.path / "max_freq"),
        top=devfreq.top,
        governor=files.clean(files.text(devfreq.path / "governor") or "", 32),
    )


def _temperature(sources: Sources) -> dict[str, Any]:
    if sources.zone is None:
        raise NoValue("no thermal zone is the NPU's or the chip's")
    celsius = _number(sources.zone / "temp", sources, int(COLDEST * 1000)) / 1000
    if celsius > HOTTEST:
        raise NoValue(f"the sensor {sources.zone_type} says {celsius:.0f} degrees")
    return {"celsius": celsius, "zone": sources.zone_type}


def _interrupts(sources: Sources) -> dict[str, Any]:
    """One row a core, shared with its IOMMU; the hardware's number orders them as the cores are (3.4)."""
    if not sources.names:
        raise NoValue("there is no NPU driver")
    lines = _bytes(sources.root / "proc/interrupts", sources, files.LIMIT).decode("ascii", "replace").splitlines()
    cpus = len(lines[0].split()) if lines else 0
    rows = []
    for line in lines[1:]:
        words = line.replace(",", " ").split()
        counts, tail = words[1 : cpus + 1], words[cpus + 1 :]
        owners = [sources.names.index(word) for word in tail if word in sources.names]
        if owners and all(count.isdecimal() for count in counts):
            hardware = next((int(word) for word in tail if word.isdecimal()), 0)
            rows.append((owners[0], hardware, sum(map(int, counts))))
    if not rows:
        raise NoValue("/proc/interrupts has no row of the NPU")
    return {"interrupts": tuple(count for _, _, count in sorted(rows))}


def _voltage(sources: Sources) -> dict[str, Any]:
    if sources.regulator is None:
        raise NoValue("no regulator is named vdd_npu")
    return {"volts": _number(sources.regulator / "microvolts", sources) / 1e6}


def _supply(sources: Sources) -> dict[str, Any]:
    if sources.power is None:
        raise NoValue("no sensor of hwmon measures power")
    return {"watts": _number(sources.power, sources) / 1e6}


def _memory(sources: Sources) -> dict[str, Any]:
    lines = dict(MEMINFO.findall(_bytes(sources.root / "proc/meminfo", sources, 16384)))
    names = {"memory_total": b"MemTotal", "memory_available": b"MemAvailable"}
    if sources.cma:
        names |= {"cma_total": b"CmaTotal", "cma_free": b"CmaFree"}
    sizes = {name: int(lines[key]) * KIB for name, key in names.items() if key in lines}
    if not sizes:
        raise NoValue("/proc/meminfo holds no MemTotal")
    return sizes


COLLECTORS: Mapping[str, Collector] = {
    "load": _load,
    "power": _power,
    "powered_time": _powered_seconds,
    "clock": _clock,
    "ddr": _ddr,
    "temperature": _temperature,
    "interrupts": _interrupts,
    "voltage": _voltage,
    "memory": _memory,
}
# What may be read once a second, with the board's own power where it has a sensor.
GAUGES: Mapping[str, Collector] = {
    "load": _load,
    "temperature": _temperature,
    "supply": _supply,
    "memory": _memory,
}
