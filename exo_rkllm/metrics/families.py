"""One table of every metric: name, kind, help and labels (npu-platform 9, field-notes 4.5). Collectors fill the rows.

Names carry base units; a label takes its values from a bounded set, and free text only ever stands in an info metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class FamilySpec:
    kind: Literal["gauge", "counter", "histogram", "summary"]
    help: str
    labels: tuple[str, ...] = ()


DEVICE = ("device",)
CORE = ("device", "core")
MODEL = ("model",)
BOARD: Mapping[str, FamilySpec] = {
    "rknpu_up": FamilySpec("gauge", "1 while the vendor's NPU driver runs and RKLLM models can run here."),
    "rknpu_state": FamilySpec("gauge", "1 for the state this machine is in, as exo-rkllm board names it.", ("state",)),
    "rknpu_info": FamilySpec(
        "gauge",
        "What the NPU is: always 1.",
        ("device", "driver", "driver_version", "soc", "model", "kernel", "build"),
    ),
    "rknpu_collector_success": FamilySpec("gauge", "1 where this source could be read at this scrape.", ("collector",)),
    "rknpu_cores": FamilySpec("gauge", "NPU cores that the driver runs.", DEVICE),
    "rknpu_core_utilization_ratio": FamilySpec(
        "gauge", "Part of the last second in which the core had a job (occupancy, memory stalls included).", CORE
    ),
    "rknpu_core_busy_seconds_total": FamilySpec(
        "counter", "Seconds in which the core had a job, summed up once a second; its rate is the utilization.", CORE
    ),
    "rknpu_frequency_hertz": FamilySpec("gauge", "The NPU's clock as devfreq has set it, powered or not.", DEVICE),
    "rknpu_frequency_min_hertz": FamilySpec("gauge", "Lowest clock that is allowed now.", DEVICE),
    "rknpu_frequency_max_hertz": FamilySpec("gauge", "Highest clock that is allowed now; it drops while hot.", DEVICE),
    "rknpu_frequency_available_max_hertz": FamilySpec("gauge", "Highest clock that this chip has.", DEVICE),
    "rknpu_memory_frequency_hertz": FamilySpec("gauge", "Clock of the board's memory, which bounds decoding."),
    "rknpu_memory_frequency_available_max_hertz": FamilySpec("gauge", "Highest clock that this board's memory has."),
    "rknpu_powered": FamilySpec("gauge", "1 while the NPU has power.", DEVICE),
    "rknpu_powered_seconds_total": FamilySpec("counter", "Seconds since boot in which the NPU had power.", DEVICE),
    "rknpu_interrupts_total": FamilySpec("counter", "Interrupts of the core since boot, which end its jobs.", CORE),
    "rknpu_voltage_volts": FamilySpec("gauge", "Voltage of the NPU's supply.", DEVICE),
    "rknpu_temperature_celsius": FamilySpec("gauge", "Temperature of the NPU, else of the chip.", ("zone",)),
    "rknpu_system_memory_total_bytes": FamilySpec("gauge", "Memory of the board, which the NPU shares."),
    "rknpu_system_memory_available_bytes": FamilySpec("gauge", "Memory that could be had without swapping."),
    "rknpu_cma_total_bytes": FamilySpec("gauge", "Contiguous memory; models live in it where the NPU has no IOMMU."),
    "rknpu_cma_free_bytes": FamilySpec("gauge", "Contiguous memory that is free."),
}
SERVING: Mapping[str, FamilySpec] = {
    "rkllm_daemon_info": FamilySpec("gauge", "Version of exo-rkllm: always 1.", ("version",)),
    "rkllm_runtime_info": FamilySpec("gauge", "The vendor's library in use: always 1.", ("version", "abi")),
    "rkllm_serving": FamilySpec("gauge", "1 unless something keeps every model from answering."),
    "rkllm_model_loaded": FamilySpec("gauge", "1 while the model is loaded and ready.", MODEL),
    "rkllm_model_memory_bytes": FamilySpec("gauge", "Memory that unloading the model would free.", MODEL),
    "rkllm_requests_running": FamilySpec("gauge", "Requests that are being answered.", MODEL),
    "rkllm_requests_waiting": FamilySpec("gauge", "Requests in the queue.", MODEL),
    "rkllm_requests_total": FamilySpec("counter", "Requests that have ended, by how.", ("model", "finish_reason")),
    "rkllm_prompt_tokens_total": FamilySpec("counter", "Prompt tokens, those found in the cache included.", MODEL),
    "rkllm_cached_prompt_tokens_total": FamilySpec("counter", "Prompt tokens that were found in the cache.", MODEL),
    "rkllm_generated_tokens_total": FamilySpec("counter", "Tokens generated.", MODEL),
    "rkllm_model_loads_total": FamilySpec(
        "counter", "Loads that have ended, by ok or an error's code.", ("model", "result")
    ),
    "rkllm_worker_restarts_total": FamilySpec(
        "counter", "Engines that were lost while loaded, by why.", ("model", "reason")
    ),
    "rkllm_time_to_first_token_seconds": FamilySpec("histogram", "From being asked to the first token.", MODEL),
    "rkllm_inter_token_seconds": FamilySpec("histogram", "From one token to the next.", MODEL),
    "rkllm_queue_seconds": FamilySpec("histogram", "Waiting in the queue, loads excluded.", MODEL),
    "rkllm_prefill_seconds": FamilySpec("histogram", "Reading the prompt on the NPU.", MODEL),
    "rkllm_decode_seconds": FamilySpec("histogram", "Generating on the NPU.", MODEL),
    "rkllm_request_seconds": FamilySpec("histogram", "From being asked to the end of the answer.", MODEL),
    "rkllm_model_load_seconds": FamilySpec("histogram", "Loading a model.", MODEL),
}
CLUSTER: Mapping[str, FamilySpec] = {
    "rkllm_cluster_connected": FamilySpec("gauge", "1 while this board serves in an exo cluster."),
    "rkllm_cluster_phase": FamilySpec("gauge", "1 for the phase the node is in.", ("phase",)),
    "rkllm_cluster_nodes": FamilySpec("gauge", "Nodes in the cluster, this one included."),
    "rkllm_cluster_instances": FamilySpec("gauge", "Instances in the cluster, by whether they run here.", ("here",)),
    "rkllm_cluster_tasks_in_hand": FamilySpec("gauge", "Tasks of the cluster that this board has in hand."),
    "rkllm_cluster_lag_events": FamilySpec("gauge", "Events that are known to exist and were not seen yet."),
    "rkllm_cluster_unechoed_events": FamilySpec("gauge", "Events of ours that the master has not echoed yet."),
    "rkllm_cluster_drift": FamilySpec("gauge", "Differences between the cluster's protocol and ours."),
    "rkllm_cluster_sessions_total": FamilySpec("counter", "Sessions joined, one more for every change of master."),
    "rkllm_cluster_links_total": FamilySpec("counter", "Links opened to nodes."),
    "rkllm_cluster_events_in_total": FamilySpec("counter", "Events of the cluster that were read."),
    "rkllm_cluster_events_out_total": FamilySpec("counter", "Events that were published."),
    "rkllm_cluster_resends_total": FamilySpec("counter", "Events that were published again."),
    "rkllm_cluster_gap_repairs_total": FamilySpec("counter", "Gaps of the log that were asked for."),
    "rkllm_cluster_refused_messages_total": FamilySpec("counter", "Messages of ours that the schema stopped."),
    "rkllm_cluster_garbage_total": FamilySpec("counter", "Messages and datagrams of others that made no sense."),
    "rkllm_cluster_tasks_total": FamilySpec("counter", "Tasks taken from the cluster."),
    "rkllm_cluster_echo_seconds": FamilySpec("summary", "From publishing an event to its echo in the log."),
}
EVERY: Mapping[str, FamilySpec] = {**BOARD, **SERVING, **CLUSTER}

HEAD = """\
# Metrics

What `/metrics` tells, in Prometheus' text format or OpenMetrics, whichever is asked for. Everything is read at the
scrape; what cannot be read is left out, never 0. Dashboard, recording rules and alerts: `packaging/grafana/`.

This page is made from `exo_rkllm/metrics/families.py`.
"""
CHAPTERS = (("The board", BOARD), ("Serving", SERVING), ("The exo cluster", CLUSTER))


def document() -> str:
    """docs/metrics.md."""
    parts = [HEAD]
    for title, rows in CHAPTERS:
        parts.append(f"\n## {title}\n\n| name | kind | labels | what it is |\n|---|---|---|---|\n")
        parts += [
            f"| `{name}` | {row.kind} | {', '.join(f'`{label}`' for label in row.labels)} | {row.help} |\n"
            for name, row in rows.items()
        ]
    return "".join(parts)
