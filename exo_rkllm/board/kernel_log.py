"""What the kernel's log says of the NPU: errors by kind, and whether the board can still compute.

The wording is that of driver 0.9.7 and 0.9.8 (npu-platform 2.1 and 6, notes 7 to 9); lines that only look like errors
(note 12) match no kind. `after_line`, `after_bind` and `after_success` are the rules, `KernelLogWatch` reads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from exo_rkllm.board import files
from exo_rkllm.errors import NpuUnavailable

log = logging.getLogger(__name__)

Effect: TypeAlias = Literal["counted", "warns", "stops"]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of error. `stops`: the NPU cannot compute until its driver was bound again; `counted`: not a state.

    `plural` is how a report counts them; `sentence` and `repair` are for users, and {npu} in them is the NPU's device.
    """

    name: str
    plural: str
    pattern: re.Pattern[str]
    effect: Effect = "counted"
    sentence: str = ""
    repair: str = ""

    def repair_on(self, npu: str) -> str:
        """What helps, with the NPU's device in the commands."""
        return self.repair.format(npu=npu)


UNBIND_AND_BIND = (
    "echo {npu} | sudo tee /sys/bus/platform/drivers/RKNPU/unbind; "
    "echo {npu} | sudo tee /sys/bus/platform/drivers/RKNPU/bind"
)
RELOAD = f"Unload all models (exo-rkllm unload NAME) and reload the NPU's driver: {UNBIND_AND_BIND}"
POWER_CYCLE = "Cut the board's power: sudo poweroff, wait some seconds, and switch it on again"
# The heavier its remedy, the later its row: a fault gives way only to a heavier one. Certainty and sources: one hung
# job is recovered by the driver's soft reset (npu-platform 6, note 7); after "failed to submit" boards hung until
# their power was cut (board-facts 5: rknn-llm 315, 306; A); a domain switch that timed out stays so until the board
# is started anew (board-facts 5 and 12, ork-driver; A). That a reload of the driver cures a switch that failed at
# once is our inference (C).
KINDS: tuple[FaultKind, ...] = (
    FaultKind(
        "hung_job",
        "hung jobs",
        re.compile(r"failed to wait job|job timeout, flags|job abort, flags"),
        "warns",
        "The kernel's log says that a job on the NPU hung.",
        f"End the model's process: exo-rkllm unload NAME; the next request loads it anew. If it comes back: {RELOAD}",
    ),
    FaultKind("soft_reset", "soft resets", re.compile(r"soft reset, num")),
    FaultKind(
        "allocation",
        "memory allocations that failed",
        re.compile(r"failed to allocate IOVA|failed to allocate handle|swiotlb buffer is full"),
    ),
    FaultKind(
        "submit",
        "jobs that could not be submitted",
        re.compile(r"failed to submit"),
        "stops",
        "The NPU takes no more work: the kernel's log says that a job could not be submitted (failed to submit).",
        f"{RELOAD}. If that hangs: {POWER_CYCLE}",
    ),
    FaultKind(
        "domain_switch",
        "IOMMU domains that could not be switched",
        re.compile(r"failed to switch iommu domain"),
        "stops",
        "The NPU's driver could not switch to a model's IOMMU domain, so the NPU cannot compute.",
        f"{RELOAD}. If it comes back: {POWER_CYCLE}",
    ),
    FaultKind(
        "domain_switch_timeout",
        "time-outs of IOMMU domain switches",
        re.compile(r"switch iommu domain time ?out"),
        "stops",
        "The NPU hangs in a switch of its IOMMU domain, which timed out.",
        f"{POWER_CYCLE}: on known boards nothing less helped",
    ),
)
# The driver was bound: DRM build, and misc build.
BOUND = re.compile(r"Initialized rknpu \d|Initialized RKNPU driver")
ANY = re.compile("|".join(pattern.pattern for pattern in (BOUND, *(kind.pattern for kind in KINDS))))
# "priority,sequence,microseconds,flags;text". A priority of 8 and more is a program's line, such as one of systemd's.
RECORD = re.compile(r"(\d+),\d+,\d+,[^;]*;")
KERNEL_PRIORITIES = 8
# A ring of this size is the largest that distributions configure.
MOST_RECORDS = 100_000


@dataclass(frozen=True, slots=True)
class NpuLog:
    """What the lines so far add up to: `counts` by FaultKind.name since boot, and the `fault` that still holds.

    `on_trial`: the driver was bound again after the fault, so models may be loaded; one that works clears the fault.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    fault: FaultKind | None = None
    on_trial: bool = False

    @property
    def stopping_fault(self) -> FaultKind | None:
        """The fault for which no model may be loaded now."""
        return self.fault if self.fault is not None and self.fault.effect == "stops" and not self.on_trial else None

    def unavailable_reason(self, npu: str) -> NpuUnavailable | None:
        """Why no model may be loaded now; `npu` is the device's name. None when nothing says so."""
        fault = self.stopping_fault
        return None if fault is None else NpuUnavailable(fault.sentence, fault.repair_on(npu))


def after_line(state: NpuLog, line: str) -> NpuLog:
    """The state after one more line of the log; a line that says nothing of the NPU leaves it as it is."""
    if not ANY.search(line) or line.startswith(" "):  # a record's properties
        return state
    record = RECORD.match(line)
    if record and int(record[1]) >= KERNEL_PRIORITIES:
        return state
    if BOUND.search(line):
        return after_bind(state)
    kind = next(kind for kind in KINDS if kind.pattern.search(line))
    state = replace(state, counts={**state.counts, kind.name: state.counts.get(kind.name, 0) + 1})
    if kind.effect == "counted":
        return state
    lighter = state.fault is not None and KINDS.index(kind) < KINDS.index(state.fault)
    return replace(state, fault=state.fault if lighter else kind, on_trial=False)


def after_bind(state: NpuLog) -> NpuLog:
    """The state once the driver was bound: a fault is not forgotten, but a model may try."""
    return state if state.fault is None else replace(state, on_trial=True)


def after_success(state: NpuLog) -> NpuLog:
    """The state after a load or an answer on the NPU succeeded.

    A fault that stops the NPU stays unless the driver was bound again: what succeeded may have begun before.
    """
    if state.fault is None or state.stopping_fault is not None:
        return state
    return replace(state, fault=None, on_trial=False)


def summarize(lines: Iterable[str]) -> NpuLog:
    state = NpuLog()
    for line in lines:
        state = after_line(state, line)
    return state


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def read(root: Path) -> list[str]:
    """Every line of /dev/kmsg, for which a strict kernel requires CAP_SYSLOG; raises OSError."""
    handle = _open(root)
    try:
        return _lines(handle)[0]
    finally:
        os.close(handle)


def _open(root: Path) -> int:
    return os.open(root / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _lines(handle: int) -> tuple[list[str], bool]:
    """The lines that are there now, and whether the log has ended, as only a file or a pipe does.

    One record a read; EAGAIN: no more for now; EPIPE: a record was overwritten before it was read.
    """
    chunks: list[bytes] = []
    ended = False
    for _ in range(MOST_RECORDS):
        try:
            record = os.read(handle, 8192)
        except BlockingIOError:
            break
        except BrokenPipeError:
            continue
        if not record:
            ended = True
            break
        chunks.append(record)
    return b"".join(chunks).decode("utf-8", "replace").split("\n"), ended


class KernelLogWatch:
    """Follows /dev/kmsg on the loop without polling.

    `on_change` is called when models may not be loaded any more, or may again.

    `state` is None where the log cannot be read, and `absent` says why.
    """

    def __init__(self, root: Path, on_change: Callable[[], None]) -> None:
        self.state: NpuLog | None = None
        self.absent = "the kernel's log has not been read yet"
        self._root = root
        self._on_change = on_change
        self._handle: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Read what is there, and follow what comes. Must run on the loop; calls nobody back."""
        try:
            self._handle = handle = _open(self._root)
            self.state = summarize(_lines(handle)[0])
        except OSError as error:
            self.absent = files.reason(error, self._root / "dev/kmsg", self._root)
            self.close()
            return
        self.absent = ""
        if stat.S_ISREG(os.fstat(handle).st_mode):  # a picture of a board, to which nothing is added
            self.close()
        else:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(handle, self._readable, handle)

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            if self._loop is not None:
                self._loop.remove_reader(handle)
            os.close(handle)

    def driver_bound(self) -> None:
        self._become(None if self.state is None else after_bind(self.state))

    def npu_worked(self) -> None:
        self._become(None if self.state is None else after_success(self.state))

    def _readable(self, handle: int) -> None:
        state = self.state or NpuLog()
        try:
            lines, ended = _lines(handle)
        except OSError as error:
            log.warning("The kernel's log cannot be followed any more: %s", error)
            lines, ended = [], True
        if ended:
            self.close()
        for line in lines:
            state = after_line(state, line)
        self._become(state)

    def _become(self, state: NpuLog | None) -> None:
        before, self.state = self.state, state
        if state == before:
            return
        if state is not None and state.fault is not None and (before is None or state.fault != before.fault):
            log.error("%s", state.fault.sentence)
        elif before is not None and before.fault is not None and (state is None or state.fault is None):
            log.info("The NPU works again.")
        if (before and before.stopping_fault) != (state and state.stopping_fault):
            self._on_change()
