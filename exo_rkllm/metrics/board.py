"""The board's metrics, read when Prometheus asks. A scrape keeps the sampler awake for a few seconds."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable

from prometheus_client.core import Metric

from exo_rkllm.board.counters import COLLECTORS, Reading, read
from exo_rkllm.board.detect import Board
from exo_rkllm.board.kernel_log import KINDS, NpuLog
from exo_rkllm.board.neighbours import Neighbours
from exo_rkllm.board.sampler import NpuLoad
from exo_rkllm.board.sources import Sources
from exo_rkllm.board.states import NpuState
from exo_rkllm.metrics.scrape import Scrape

# Programs that hold the NPU are few; a label takes no more values than these.
MOST_NEIGHBOURS = 16
# Fields of a Reading, and of its Clock.
MEMORY = {
    "rknpu_system_memory_total_bytes": "memory_total",
    "rknpu_system_memory_available_bytes": "memory_available",
    "rknpu_cma_total_bytes": "cma_total",
    "rknpu_cma_free_bytes": "cma_free",
}
CLOCK = {
    "rknpu_frequency_hertz": "hertz",
    "rknpu_frequency_min_hertz": "minimum",
    "rknpu_frequency_max_hertz": "maximum",
    "rknpu_frequency_available_max_hertz": "top",
}


class BoardCollector:
    """Called on the event loop's thread, where the sampler lives: `touch` wakes it, `busy` reads its counter."""

    def __init__(
        self,
        board: Callable[[], Board],
        sources: Callable[[], Sources],
        busy: Callable[[], NpuLoad],
        touch: Callable[[], None],
        kernel_log: Callable[[], NpuLog | None],
        neighbours: Callable[[], Neighbours],
    ) -> None:
        self._board = board
        self._sources = sources
        self._busy = busy
        self._touch = touch
        self._kernel_log = kernel_log
        self._neighbours = neighbours

    def describe(self) -> Iterable[Metric]:
        """Empty: registering must not read the hardware."""
        return ()

    def collect(self) -> Iterable[Metric]:
        self._touch()
        scrape = Scrape()
        add_board(scrape, self._board(), read(self._sources()), self._busy())
        add_kernel_log(scrape, self._kernel_log())
        for name, count in list(self._neighbours().names.items())[:MOST_NEIGHBOURS]:
            scrape.add("rknpu_neighbours", count, name)
        return scrape.families()


def add_board(scrape: Scrape, board: Board, reading: Reading, busy: NpuLoad) -> None:
    scrape.add("rknpu_up", 1 if board.unavailable_reason() is None else 0)
    for state in typing.get_args(NpuState):
        scrape.add("rknpu_state", 1 if state == board.state else 0, state)
    for name in COLLECTORS:
        scrape.add("rknpu_collector_success", 0 if name in reading.absent else 1, name)
    for name, field in MEMORY.items():
        scrape.add(name, getattr(reading, field))
    scrape.add("rknpu_temperature_celsius", reading.celsius, reading.zone)
    if reading.ddr is not None:
        scrape.add("rknpu_memory_frequency_hertz", reading.ddr.hertz)
        scrape.add("rknpu_memory_frequency_available_max_hertz", reading.ddr.top)
    if (npu := board.npu) is None:
        return
    device = npu.device
    scrape.add("rknpu_info", 1, device, npu.driver, npu.version, board.soc_name, board.model, board.kernel, npu.build)
    scrape.add("rknpu_cores", npu.cores, device)
    for core, ratio in enumerate(reading.load or ()):
        scrape.add("rknpu_core_utilization_ratio", ratio, device, str(core))
    if reading.load is not None:
        for core, seconds in enumerate(busy.seconds):
            scrape.add("rknpu_core_busy_seconds_total", seconds, device, str(core))
    for core, count in enumerate(reading.interrupts or ()):
        scrape.add("rknpu_interrupts_total", count, device, str(core))
    scrape.add("rknpu_powered", None if reading.powered is None else float(reading.powered), device)
    scrape.add("rknpu_powered_seconds_total", reading.powered_seconds, device)
    scrape.add("rknpu_voltage_volts", reading.volts, device)
    for name, field in CLOCK.items() if reading.clock is not None else ():
        scrape.add(name, getattr(reading.clock, field), device)


def add_kernel_log(scrape: Scrape, state: NpuLog | None) -> None:
    """Errors by kind since boot, and the fault that still holds; nothing where the log cannot be read."""
    if state is None:
        return
    for kind in KINDS:
        scrape.add("rknpu_job_errors_total", state.counts.get(kind.name, 0), kind.name)
        if kind.effect != "counted":
            scrape.add("rknpu_fault", 1 if kind == state.fault else 0, kind.name)
