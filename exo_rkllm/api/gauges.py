"""The board as plain values for the status: facts, readings, and for what cannot be read the reason instead of a 0."""

from __future__ import annotations

from exo_rkllm.api.context import Plain
from exo_rkllm.backends.base import JSON
from exo_rkllm.board.counters import Clock, Reading
from exo_rkllm.board.detect import Board


def gauges(board: Board, reading: Reading) -> Plain:
    npu = board.npu
    return {
        "title": board.title,
        "soc": board.soc.title if board.soc else board.soc_name.upper(),
        "tops": board.soc.tops if board.soc else None,
        "state": board.state,
        "sentence": board.sentence,
        "hint": board.hint,
        "kernel": board.kernel,
        "driver": None if npu is None else {"name": npu.driver, "version": npu.version, "cores": npu.cores},
        "powered": reading.powered,
        "load": None if reading.load is None else list(reading.load),
        "clock": _clock(reading.clock),
        "memory_clock": _clock(reading.ddr),
        "celsius": reading.celsius,
        "volts": reading.volts,
        "memory_total": reading.memory_total,
        "memory_available": reading.memory_available,
        "absent": dict(reading.absent),
    }


def _clock(clock: Clock | None) -> dict[str, JSON] | None:
    if clock is None:
        return None
    return {"hertz": clock.hertz, "top": clock.top, "governor": clock.governor, "throttled": clock.throttled}
