"""The board at work as exo shows its own machines: in the shape of a Mac's metrics, which its dashboard reads."""

from __future__ import annotations

from exo_rkllm.cluster.serving import BoardGauges
from exo_rkllm.cluster.wire import clean
from exo_rkllm.cluster.wire.events import Raw


def metrics(gauges: BoardGauges, available: int) -> Raw:
    """`NodeGatheredInfo`'s info. Rounded, so that a reading that trembles is no news.

    exo places a model wherever so much memory is free, also on a node whose backends can't run it, and then refuses
    it. So `available` is what the cluster may place here: nothing but what this board places itself.
    """
    profile = {
        "gpu_usage": round(min(1.0, max(0.0, gauges.npu_load)), 2),
        "temp": float(round(gauges.celsius or 0.0)),
        "sys_power": round(gauges.watts or 0.0, 1),
        "pcpu_usage": 0.0,
        "ecpu_usage": 0.0,
    }
    return {"MacmonMetrics": {"system_profile": profile, "memory": memory(gauges.memory_total, available)}}


def memory(total: int, available: int) -> Raw:
    """exo's `MemoryUsage`; swap is none of a model's."""
    sizes = {"ram_total": max(total, available), "ram_available": available, "swap_total": 0, "swap_available": 0}
    return {name: {"in_bytes": clean.whole(size)} for name, size in sizes.items()}
