"""The table of checks, in the order in which things have to be right, and `diagnose`, which makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from exo_rkllm.doctor import board_checks as board
from exo_rkllm.doctor import software_checks as software
from exo_rkllm.doctor.report import DoctorReport, Finding, ReportLine, unseen
from exo_rkllm.doctor.scene import Scene


class Check(NamedTuple):
    """`look` judges the scene; it is not made when a check that `needs` names has failed: one cause is one failure."""

    name: str
    look: Callable[[Scene], Finding]
    needs: tuple[str, ...] = ()


def diagnose(scene: Scene) -> DoctorReport:
    """Every check of the table, in its order."""
    lines: list[ReportLine] = []
    failed: set[str] = set()
    for check in CHECKS:
        missing = [name for name in check.needs if name in failed]
        finding = unseen(f"not looked at, because of: {', '.join(missing)}") if missing else check.look(scene)
        if finding.level == "fail" or missing:
            failed.add(check.name)
        lines.append(ReportLine(check.name, finding))
    return DoctorReport(scene.identity.name, tuple(lines))


CHECKS: tuple[Check, ...] = (
    Check("configuration", software.configuration),
    Check("API keys", software.api_keys, ("configuration",)),
    Check("SoC", board.soc),
    Check("device tree", board.device_tree, ("SoC",)),
    Check("NPU driver", board.driver, ("SoC",)),
    Check("driver version", board.driver_version, ("NPU driver",)),
    Check("device nodes", board.nodes, ("NPU driver",)),
    Check("device access", board.access, ("device nodes",)),
    Check("/dev/rknpu", board.impostor, ("NPU driver",)),
    Check("other programs", board.neighbours, ("device nodes",)),
    Check("DMA heap", board.heap, ("NPU driver",)),
    Check("memory", board.memory),
    Check("NPU clock", board.npu_clock, ("NPU driver",)),
    Check("memory clock", board.ddr_clock),
    Check("CPU clock", board.cpu_clock),
    Check("CPU cores", board.cpu_cores),
    Check("performance", board.performance),
    Check("temperature", board.temperature),
    Check("NPU counters", board.counters, ("NPU driver",)),
    Check("kernel log", board.kernel_log),
    Check("system", software.system),
    Check("runtime", software.runtime, ("system",)),
    Check("runtime and driver", board.pairing, ("runtime", "driver version")),
    Check("models", software.models, ("configuration",)),
    Check("vision", software.vision, ("system",)),
    Check("plugins", software.plugins),
    Check("exo", software.exo),
    Check("service", software.service, ("configuration",)),
    Check("cluster", software.cluster, ("service",)),
)
