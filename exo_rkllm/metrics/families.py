"""The table of every metric: name, kind, help and labels (npu-platform 9, field-notes 4.5). Collectors fill its rows.

Names end with base units. Labels take their values from bounded sets; only info metrics hold free text.
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
    "rknpu_state": FamilySpec("gauge", "1 for the state of this machine, as exo-rkllm board names it.", ("state",)),
    "rknpu_info": FamilySpec(
        "gauge",
        "Describes the NPU in its labels; always 1.",
        ("device", "driver", "driver_version", "soc", "model", "kernel", "build"),
    ),
    "rknpu_collector_success": FamilySpec(
        "gauge", "1 if this source could be read at this scrape, otherwise 0.", ("collector",)
    ),
    "rknpu_cores": FamilySpec("gauge", "NPU cores that the driver uses.", DEVICE),
    "rknpu_core_utilization_ratio": FamilySpec(
        "gauge", "Fraction of the last second in which the core had a job (occupancy, memory stalls included).", CORE
    ),
    "rknpu_core_busy_seconds_total": FamilySpec(
        "counter", "Seconds in which the core had a job, summed up once a second; the rate is the utilization.", CORE
    ),
    "rknpu_frequency_hertz": FamilySpec(
        "gauge", "Clock that devfreq has set for the NPU, whether it is powered or not.", DEVICE
    ),
    "rknpu_frequency_min_hertz": FamilySpec("gauge", "Lowest clock currently allowed.", DEVICE),
    "rknpu_frequency_max_hertz": FamilySpec(
        "gauge", "Highest clock currently allowed; it drops when the chip is hot.", DEVICE
    ),
    "rknpu_frequency_available_max_hertz": FamilySpec("gauge", "Highest clock of this chip.", DEVICE),
    "rknpu_memory_frequency_hertz": FamilySpec("gauge", "Clock of the board's memory, which limits decoding speed."),
    "rknpu_memory_frequency_available_max_hertz": FamilySpec("gauge", "Highest clock of this board's memory."),
    "rknpu_powered": FamilySpec("gauge", "1 while the NPU is powered.", DEVICE),
    "rknpu_powered_seconds_total": FamilySpec("counter", "Seconds since boot in which the NPU was powered.", DEVICE),
    "rknpu_interrupts_total": FamilySpec("counter", "Interrupts of the core since boot; each ends a job.", CORE),
    "rknpu_job_errors_total": FamilySpec(
        "counter",
        "Errors of the NPU in the kernel's log since boot, by kind.",
        ("kind",),
    ),
    "rknpu_fault": FamilySpec(
        "gauge", "1 while this error of the kernel's log holds; exo-rkllm doctor says what helps.", ("kind",)
    ),
    "rknpu_voltage_volts": FamilySpec("gauge", "Voltage of the NPU's supply.", DEVICE),
    "rknpu_neighbours": FamilySpec(
        "gauge",
        "Processes of other programs that hold the NPU's device nodes, where the daemon may see them.",
        ("program",),
    ),
    "rknpu_temperature_celsius": FamilySpec(
        "gauge", "Temperature of the NPU, or of the chip if the NPU has no sensor.", ("zone",)
    ),
    "rknpu_system_memory_total_bytes": FamilySpec("gauge", "Memory of the board, which the NPU shares with the CPUs."),
    "rknpu_system_memory_available_bytes": FamilySpec("gauge", "Memory available without swapping."),
    "rknpu_cma_total_bytes": FamilySpec("gauge", "Contiguous memory (CMA); holds the models if the NPU has no IOMMU."),
    "rknpu_cma_free_bytes": FamilySpec("gauge", "Free contiguous memory (CMA)."),
}
SERVING: Mapping[str, FamilySpec] = {
    "rkllm_daemon_info": FamilySpec("gauge", "Version of exo-rkllm; always 1.", ("version",)),
    "rkllm_runtime_info": FamilySpec(
        "gauge", "Version and ABI of the default one of the vendor's libraries; always 1.", ("version", "abi")
    ),
    "rkllm_serving": FamilySpec("gauge", "1 unless something prevents all models from answering."),
    "rkllm_model_loaded": FamilySpec("gauge", "1 while the model is loaded and ready.", MODEL),
    "rkllm_model_memory_bytes": FamilySpec("gauge", "Memory that unloading the model would free.", MODEL),
    "rkllm_model_runtime_info": FamilySpec(
        "gauge", "Version of the vendor's library that the loaded model runs on; always 1.", ("model", "version")
    ),
    "rkllm_requests_running": FamilySpec("gauge", "Requests being answered.", MODEL),
    "rkllm_requests_waiting": FamilySpec("gauge", "Requests in the queue.", MODEL),
    "rkllm_requests_total": FamilySpec("counter", "Finished requests, by finish reason.", ("model", "finish_reason")),
    "rkllm_prompt_tokens_total": FamilySpec("counter", "Prompt tokens, including those found in the cache.", MODEL),
    "rkllm_cached_prompt_tokens_total": FamilySpec("counter", "Prompt tokens found in the cache.", MODEL),
    "rkllm_generated_tokens_total": FamilySpec("counter", "Tokens generated.", MODEL),
    "rkllm_conversations_kept": FamilySpec("gauge", "Conversations kept for when they are continued.", MODEL),
    "rkllm_conversations_kept_bytes": FamilySpec("gauge", "Memory and disk that these take.", MODEL),
    "rkllm_conversations_saved_total": FamilySpec("counter", "Conversations saved for later.", MODEL),
    "rkllm_conversations_restored_total": FamilySpec("counter", "Saved conversations that were continued.", MODEL),
    "rkllm_conversations_evicted_total": FamilySpec("counter", "Saved conversations that had to make room.", MODEL),
    "rkllm_restored_prompt_tokens_total": FamilySpec(
        "counter", "Prompt tokens found in restored conversations, which count as cached, too.", MODEL
    ),
    "rkllm_images_total": FamilySpec("counter", "Images in answered requests to models on the NPU.", MODEL),
    "rkllm_images_encoded_total": FamilySpec("counter", "Of these, images that had to be encoded.", MODEL),
    "rkllm_image_encode_seconds_total": FamilySpec(
        "counter", "Time spent encoding images, loading the encoder included.", MODEL
    ),
    "rkllm_model_loads_total": FamilySpec(
        "counter", "Finished loads, by result: ok or an error code.", ("model", "result")
    ),
    "rkllm_worker_restarts_total": FamilySpec("counter", "Engines lost while loaded, by reason.", ("model", "reason")),
    "rkllm_time_to_first_token_seconds": FamilySpec("histogram", "Time from the request to the first token.", MODEL),
    "rkllm_inter_token_seconds": FamilySpec("histogram", "Time from one token to the next.", MODEL),
    "rkllm_queue_seconds": FamilySpec("histogram", "Time spent in the queue, excluding loads.", MODEL),
    "rkllm_prefill_seconds": FamilySpec("histogram", "Time the NPU spent on the prompt.", MODEL),
    "rkllm_decode_seconds": FamilySpec("histogram", "Time the NPU spent generating tokens.", MODEL),
    "rkllm_request_seconds": FamilySpec("histogram", "Time from the request to the end of the answer.", MODEL),
    "rkllm_model_load_seconds": FamilySpec("histogram", "Time spent loading a model.", MODEL),
}
CLUSTER: Mapping[str, FamilySpec] = {
    "rkllm_cluster_connected": FamilySpec("gauge", "1 while this board is part of an exo cluster."),
    "rkllm_cluster_unconfirmed": FamilySpec(
        "gauge", "1 while this board is in an exo cluster that nobody has confirmed (`exo-rkllm cluster join`)."
    ),
    "rkllm_cluster_phase": FamilySpec("gauge", "1 for the node's current phase.", ("phase",)),
    "rkllm_cluster_nodes": FamilySpec("gauge", "Nodes in the cluster, including this one."),
    "rkllm_cluster_instances": FamilySpec(
        "gauge", "Instances in the cluster, by whether they run on this board.", ("here",)
    ),
    "rkllm_cluster_tasks_in_hand": FamilySpec("gauge", "Tasks of the cluster that this board is working on."),
    "rkllm_cluster_lag_events": FamilySpec("gauge", "Events that are known to exist but have not arrived yet."),
    "rkllm_cluster_unechoed_events": FamilySpec("gauge", "Events of this board that the master has not echoed yet."),
    "rkllm_cluster_unjoined": FamilySpec("gauge", "exo clusters and libp2p exo hosts that are heard and not joined."),
    "rkllm_cluster_drift": FamilySpec("gauge", "Differences between the cluster's protocol and ours."),
    "rkllm_cluster_sessions_total": FamilySpec("counter", "Sessions joined; each change of master starts a new one."),
    "rkllm_cluster_links_total": FamilySpec("counter", "Links opened to other nodes."),
    "rkllm_cluster_events_in_total": FamilySpec("counter", "Events of the cluster that this board has read."),
    "rkllm_cluster_events_out_total": FamilySpec("counter", "Events that this board has published."),
    "rkllm_cluster_resends_total": FamilySpec("counter", "Events that this board has published again."),
    "rkllm_cluster_gap_repairs_total": FamilySpec("counter", "Gaps in the event log that were requested again."),
    "rkllm_cluster_refused_messages_total": FamilySpec(
        "counter", "Messages of this board that the schema rejected before sending."
    ),
    "rkllm_cluster_garbage_total": FamilySpec(
        "counter", "Messages and datagrams from others that could not be decoded."
    ),
    "rkllm_cluster_tasks_total": FamilySpec("counter", "Tasks accepted from the cluster."),
    "rkllm_cluster_echo_seconds": FamilySpec("summary", "Time from publishing an event to its echo in the log."),
}
EVERY: Mapping[str, FamilySpec] = {**BOARD, **SERVING, **CLUSTER}

HEAD = """\
# Metrics

`/metrics` exports these metrics, in Prometheus' text format or in OpenMetrics, as the scraper requests. All values
are read at the scrape. A value that cannot be read is left out; it is never reported as 0. The dashboard, recording
rules and alerts are in `packaging/grafana/`.

This page is generated from `exo_rkllm/metrics/families.py`.
"""
CHAPTERS = (("The board", BOARD), ("Serving", SERVING), ("The exo cluster", CLUSTER))


def document() -> str:
    """docs/metrics.md."""
    parts = [HEAD]
    for title, rows in CHAPTERS:
        parts.append(f"\n## {title}\n\n| name | type | labels | meaning |\n|---|---|---|---|\n")
        parts += [
            f"| `{name}` | {row.kind} | {', '.join(f'`{label}`' for label in row.labels)} | {row.help} |\n"
            for name, row in rows.items()
        ]
    return "".join(parts)
