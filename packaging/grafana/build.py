"""Writes exo-rkllm.json, the Grafana dashboard, from the table below: `python3 packaging/grafana/build.py`.

A test holds the file to this table and asks a real Prometheus for every expression in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("exo-rkllm.json")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
BOARD = 'instance=~"$board"'
MODEL = f'{BOARD}, model=~"$model"'
W = "$__rate_interval"
# A series that appears with its first failure, of which increase() sees nothing.
FAILED_LOADS = f'rkllm_model_loads_total{{{MODEL}, result!="ok"}}'


class Query(NamedTuple):
    expr: str
    legend: str = ""
    instant: bool = False
    heat: bool = False


class Panel(NamedTuple):
    kind: str  # stat, timeseries, table, heatmap
    title: str
    about: str
    width: int
    height: int
    queries: tuple[Query, ...]
    unit: str = "short"
    lowest: float | None = None
    highest: float | None = None
    steps: tuple[tuple[float | None, str], ...] = ()
    words: tuple[tuple[str, str, str], ...] = ()  # value, text, colour
    stacked: bool = False


class Row(NamedTuple):
    title: str
    panels: tuple[Panel, ...]


def quantiles(name: str) -> tuple[Query, ...]:
    """The usual and the bad case of a histogram, a line a model."""
    return tuple(
        Query(
            f"histogram_quantile({part}, sum by (instance, model, le) (rate({name}_bucket{{{MODEL}}}[{W}])))",
            f"{{{{model}}}} p{int(part * 100)} {{{{instance}}}}",
        )
        for part in (0.5, 0.95)
    )


def rate(name: str, by: str, selector: str = MODEL) -> str:
    return f"sum by ({by}) (rate({name}{{{selector}}}[{W}]))"


GOOD, FAIR, BAD = "green", "orange", "red"
YES_NO = (("0", "no", BAD), ("1", "yes", GOOD))
ROWS = (
    Row(
        "Boards",
        (
            Panel(
                "table",
                "Boards",
                "One line a board that Prometheus scrapes.",
                24,
                6,
                (
                    Query(
                        f"max by (instance, model, soc, driver, driver_version, kernel) (rknpu_info{{{BOARD}}})",
                        instant=True,
                    ),
                ),
            ),
            Panel(
                "stat",
                "NPU usable",
                "Whether RKLLM models can run. On the board: exo-rkllm doctor",
                4,
                4,
                (Query(f"rknpu_up{{{BOARD}}}", "{{instance}}"),),
                words=YES_NO,
            ),
            Panel(
                "stat",
                "Tokens a second",
                "Generated now, all models together.",
                5,
                4,
                (Query(f"sum(rate(rkllm_generated_tokens_total{{{MODEL}}}[{W}]))", "tokens/s"),),
                unit="none",
            ),
            Panel(
                "stat",
                "Running",
                "Requests that are being answered.",
                3,
                4,
                (Query(f"sum(rkllm_requests_running{{{MODEL}}})", "running"),),
            ),
            Panel(
                "stat",
                "Waiting",
                "Requests in the queues.",
                3,
                4,
                (Query(f"sum(rkllm_requests_waiting{{{MODEL}}})", "waiting"),),
                steps=((None, GOOD), (4, FAIR), (16, BAD)),
            ),
            Panel(
                "stat",
                "Hottest",
                "The hottest NPU or chip. The NPU is slowed down above 85 degrees.",
                4,
                4,
                (Query(f"max(rknpu_temperature_celsius{{{BOARD}}})", "celsius"),),
                unit="celsius",
                steps=((None, GOOD), (75, FAIR), (85, BAD)),
            ),
            Panel(
                "stat",
                "In the cluster",
                "Whether the board serves in an exo cluster.",
                5,
                4,
                (Query(f"rkllm_cluster_connected{{{BOARD}}}", "{{instance}}"),),
                words=YES_NO,
            ),
        ),
    ),
    Row(
        "NPU",
        (
            Panel(
                "timeseries",
                "Utilization by core",
                "Part of the time in which the core had a job; memory stalls count as busy, so 65 to 70 % is usual.",
                12,
                8,
                (
                    Query(
                        f"rate(rknpu_core_busy_seconds_total{{{BOARD}}}[{W}])",
                        "{{instance}} core {{core}}",
                    ),
                ),
                unit="percentunit",
                lowest=0,
                highest=1,
            ),
            Panel(
                "timeseries",
                "Temperature",
                "Of the NPU, or of the chip where the NPU has no zone of its own.",
                6,
                8,
                (Query(f"rknpu_temperature_celsius{{{BOARD}}}", "{{instance}} {{zone}}"),),
                unit="celsius",
                steps=((None, "transparent"), (85, BAD)),
            ),
            Panel(
                "timeseries",
                "NPU powered",
                "Part of the time in which the NPU had power; it goes off three seconds after the last job.",
                6,
                8,
                (Query(f"clamp_max(rate(rknpu_powered_seconds_total{{{BOARD}}}[{W}]), 1)", "{{instance}}"),),
                unit="percentunit",
                lowest=0,
                highest=1,
            ),
            Panel(
                "timeseries",
                "NPU clock and its limit",
                "The limit drops while the chip is hot.",
                8,
                7,
                (
                    Query(f"rknpu_frequency_hertz{{{BOARD}}}", "{{instance}} clock"),
                    Query(f"rknpu_frequency_max_hertz{{{BOARD}}}", "{{instance}} limit"),
                ),
                unit="hertz",
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Memory clock",
                "Decoding is bound by memory: at a quarter of the clock it halves.",
                8,
                7,
                (Query(f"rknpu_memory_frequency_hertz{{{BOARD}}}", "{{instance}}"),),
                unit="hertz",
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Jobs a second",
                "Interrupts of the NPU, which end its jobs.",
                8,
                7,
                (Query(f"sum by (instance) (rate(rknpu_interrupts_total{{{BOARD}}}[{W}]))", "{{instance}}"),),
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Memory",
                "What models take, and what is left of the board's memory.",
                12,
                7,
                (
                    Query(f"rkllm_model_memory_bytes{{{MODEL}}}", "{{instance}} {{model}}"),
                    Query(f"rknpu_system_memory_available_bytes{{{BOARD}}}", "{{instance}} available"),
                ),
                unit="bytes",
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Supply voltage",
                "Of the NPU. It follows the clock.",
                6,
                7,
                (Query(f"rknpu_voltage_volts{{{BOARD}}}", "{{instance}}"),),
                unit="volt",
            ),
            Panel(
                "timeseries",
                "Readable sources",
                "Which of the kernel's files could be read; what cannot be read is absent, never 0.",
                6,
                7,
                (Query(f"rknpu_collector_success{{{BOARD}}}", "{{instance}} {{collector}}"),),
                lowest=0,
                highest=1,
            ),
        ),
    ),
    Row(
        "Serving",
        (
            Panel(
                "timeseries",
                "Tokens a second",
                "Generated, by model.",
                12,
                8,
                (Query(rate("rkllm_generated_tokens_total", "instance, model"), "{{model}} {{instance}}"),),
                unit="none",
                lowest=0,
                stacked=True,
            ),
            Panel(
                "timeseries",
                "Requests by how they ended",
                "stop, length and tool_calls are answers; abort is a client that left; the rest are errors' codes.",
                12,
                8,
                (Query(rate("rkllm_requests_total", "finish_reason"), "{{finish_reason}}"),),
                unit="reqps",
                lowest=0,
                stacked=True,
            ),
            Panel(
                "timeseries",
                "Time to first token",
                "From being asked, queue and load included.",
                8,
                8,
                quantiles("rkllm_time_to_first_token_seconds"),
                unit="s",
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Time between tokens",
                "The pace that a reader sees.",
                8,
                8,
                quantiles("rkllm_inter_token_seconds"),
                unit="s",
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Waiting in the queue",
                "Loads excluded.",
                8,
                8,
                quantiles("rkllm_queue_seconds"),
                unit="s",
                lowest=0,
            ),
            Panel(
                "heatmap",
                "Whole answers",
                "From being asked to the end.",
                8,
                8,
                (
                    Query(
                        f"sum by (le) (increase(rkllm_request_seconds_bucket{{{MODEL}}}[{W}]))",
                        "{{le}}",
                        heat=True,
                    ),
                ),
                unit="s",
            ),
            Panel(
                "timeseries",
                "Speed of the NPU",
                "Decoding and reading prompts, waiting excluded: to be held against the vendor's table.",
                8,
                8,
                (
                    Query(
                        f"{rate('rkllm_generated_tokens_total', 'instance, model')}"
                        f" / ({rate('rkllm_decode_seconds_sum', 'instance, model')} > 0)",
                        "{{model}} decode {{instance}}",
                    ),
                    Query(
                        f"({rate('rkllm_prompt_tokens_total', 'instance, model')}"
                        f" - {rate('rkllm_cached_prompt_tokens_total', 'instance, model')})"
                        f" / ({rate('rkllm_prefill_seconds_sum', 'instance, model')} > 0)",
                        "{{model}} prefill {{instance}}",
                    ),
                ),
                unit="none",
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Prompt tokens from the cache",
                "Part of the prompts that was not computed again.",
                8,
                8,
                (
                    Query(
                        f"{rate('rkllm_cached_prompt_tokens_total', 'instance, model')}"
                        f" / ({rate('rkllm_prompt_tokens_total', 'instance, model')} > 0)",
                        "{{model}} {{instance}}",
                    ),
                ),
                unit="percentunit",
                lowest=0,
                highest=1,
            ),
            Panel(
                "timeseries",
                "Running and waiting",
                "Requests, now.",
                8,
                7,
                (
                    Query(
                        f"sum by (instance, model) (rkllm_requests_running{{{MODEL}}})",
                        "{{model}} running {{instance}}",
                    ),
                    Query(
                        f"sum by (instance, model) (rkllm_requests_waiting{{{MODEL}}})",
                        "{{model}} waiting {{instance}}",
                    ),
                ),
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Loading a model",
                "Mean time of a load since the daemon started.",
                8,
                7,
                (
                    Query(
                        f"rkllm_model_load_seconds_sum{{{MODEL}}} / rkllm_model_load_seconds_count{{{MODEL}}}",
                        "{{model}} {{instance}}",
                    ),
                ),
                unit="s",
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Lost engines and failed loads",
                "Engines that died or hung, and loads that ended with an error.",
                8,
                7,
                (
                    Query(
                        f"increase(rkllm_worker_restarts_total{{{MODEL}}}[{W}])",
                        "{{model}} {{reason}} {{instance}}",
                    ),
                    Query(
                        f"increase({FAILED_LOADS}[{W}]) or ({FAILED_LOADS} unless {FAILED_LOADS} offset {W})",
                        "{{model}} {{result}} {{instance}}",
                    ),
                ),
                lowest=0,
            ),
        ),
    ),
    Row(
        "Kept conversations",
        (
            Panel(
                "timeseries",
                "Prompt tokens that were spared",
                "In the NPU's cache from the turn before, or restored with a kept conversation.",
                12,
                7,
                (
                    Query(
                        f"{rate('rkllm_cached_prompt_tokens_total', 'instance, model')}"
                        f" - {rate('rkllm_restored_prompt_tokens_total', 'instance, model')}",
                        "{{model}} cache {{instance}}",
                    ),
                    Query(
                        rate("rkllm_restored_prompt_tokens_total", "instance, model"),
                        "{{model}} restored {{instance}}",
                    ),
                ),
                unit="none",
                lowest=0,
                stacked=True,
            ),
            Panel(
                "timeseries",
                "Saved, restored, evicted",
                "Many evictions beside few restorations: the budget of [cache] is too small for the conversations.",
                12,
                7,
                tuple(
                    Query(
                        f"increase(rkllm_conversations_{word}_total{{{MODEL}}}[{W}])",
                        f"{{{{model}}}} {word} {{{{instance}}}}",
                    )
                    for word in ("saved", "restored", "evicted")
                ),
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Conversations that are kept",
                "Each is a file of the library's prompt cache.",
                12,
                7,
                (Query(f"rkllm_conversations_kept{{{MODEL}}}", "{{model}} {{instance}}"),),
                lowest=0,
                stacked=True,
            ),
            Panel(
                "timeseries",
                "Room that these take",
                "Memory and disk together, within the budget of [cache].",
                12,
                7,
                (Query(f"rkllm_conversations_kept_bytes{{{MODEL}}}", "{{model}} {{instance}}"),),
                unit="bytes",
                lowest=0,
                stacked=True,
            ),
        ),
    ),
    Row(
        "Cluster",
        (
            Panel(
                "timeseries",
                "Nodes and instances",
                "As this board sees the exo cluster.",
                8,
                7,
                (
                    Query(f"rkllm_cluster_nodes{{{BOARD}}}", "{{instance}} nodes"),
                    Query(f'rkllm_cluster_instances{{{BOARD}, here="true"}}', "{{instance}} instances here"),
                    Query(f"rkllm_cluster_tasks_in_hand{{{BOARD}}}", "{{instance}} tasks"),
                ),
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Events",
                "Read from and published to the cluster's log.",
                8,
                7,
                (
                    Query(f"rate(rkllm_cluster_events_in_total{{{BOARD}}}[{W}])", "{{instance}} in"),
                    Query(f"rate(rkllm_cluster_events_out_total{{{BOARD}}}[{W}])", "{{instance}} out"),
                ),
                unit="ops",
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Echo of the master",
                "Mean time from publishing an event to its echo in the log.",
                8,
                7,
                (
                    Query(
                        f"rate(rkllm_cluster_echo_seconds_sum{{{BOARD}}}[{W}])"
                        f" / (rate(rkllm_cluster_echo_seconds_count{{{BOARD}}}[{W}]) > 0)",
                        "{{instance}}",
                    ),
                ),
                unit="s",
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Trouble",
                "Events published again, gaps of the log, changes of session, events that were not echoed yet.",
                12,
                7,
                (
                    Query(f"increase(rkllm_cluster_resends_total{{{BOARD}}}[{W}])", "{{instance}} resends"),
                    Query(f"increase(rkllm_cluster_gap_repairs_total{{{BOARD}}}[{W}])", "{{instance}} gaps"),
                    Query(f"increase(rkllm_cluster_sessions_total{{{BOARD}}}[{W}])", "{{instance}} sessions"),
                    Query(f"rkllm_cluster_unechoed_events{{{BOARD}}}", "{{instance}} unechoed"),
                    Query(f"rkllm_cluster_lag_events{{{BOARD}}}", "{{instance}} behind"),
                ),
                lowest=0,
            ),
            Panel(
                "timeseries",
                "Phase",
                "Where the node is; serving is the good one.",
                12,
                7,
                (Query(f"rkllm_cluster_phase{{{BOARD}}} == 1", "{{instance}} {{phase}}"),),
                lowest=0,
                highest=1,
            ),
        ),
    ),
)
VARIABLES = (
    ("board", "Board", "label_values(rknpu_up, instance)"),
    ("model", "Model", 'label_values(rkllm_model_loaded{instance=~"$board"}, model)'),
)
ANNOTATION = f"changes(rkllm_worker_restarts_total{{{MODEL}}}[$__interval]) > 0"


def dashboard() -> dict[str, Any]:
    return {
        "uid": "exo-rkllm",
        "title": "exo-rkllm",
        "description": "Rockchip NPU boards that serve RKLLM models: NPU, serving, exo cluster.",
        "tags": ["rockchip", "npu", "llm", "exo"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "links": [],
        "templating": {"list": list(_variables())},
        "annotations": {"list": list(_annotations())},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
    }
    for name, label, query in VARIABLES:
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": SOURCE,
            "definition": query,
            "query": {"query": query, "refId": f"variable-{name}"},
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "hide": 0,
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "options": [],
            "refresh": 2,
            "regex": "",
            "sort": 1,
        }


def _annotations() -> Iterator[dict[str, Any]]:
    yield {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }
    yield {
        "datasource": SOURCE,
        "enable": True,
        "expr": ANNOTATION,
        "iconColor": BAD,
        "name": "Lost engines",
        "titleFormat": "{{model}} was lost on {{instance}}",
        "textFormat": "{{reason}}",
    }


def _panels() -> Iterator[dict[str, Any]]:
    top, number = 0, 0
    for row in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
        }
        top, left, tallest = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > 24:
                top, left, tallest = top + tallest, 0, 0
            number += 1
            yield _panel(number, panel, {"x": left, "y": top, "w": panel.width, "h": panel.height})
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [_target(letter, query) for letter, query in zip("ABCDEFG", panel.queries, strict=False)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": OPTIONS[panel.kind],
        "transformations": TRANSFORMATIONS.get(panel.kind, []),
    }


def _target(letter: str, query: Query) -> dict[str, Any]:
    return {
        "refId": letter,
        "datasource": SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": query.instant,
        "range": not query.instant,
        "format": "table" if query.instant else "heatmap" if query.heat else "time_series",
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    found: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {
            "mode": "absolute",
            "steps": [{"value": value, "color": colour} for value, colour in panel.steps or ((None, GOOD),)],
        },
        "mappings": [
            {"type": "value", "options": {value: {"text": text, "color": colour}}}
            for value, text, colour in panel.words
        ],
    }
    if panel.lowest is not None:
        found["min"] = panel.lowest
    if panel.highest is not None:
        found["max"] = panel.highest
    if panel.kind == "timeseries":
        found["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if panel.steps else "off"},
        }
    return found


OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    },
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "fields": ""}},
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"show": True, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    },
}
TRANSFORMATIONS: dict[str, list[dict[str, Any]]] = {
    "table": [
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True, "Value": True},
                "indexByName": {"instance": 0, "model": 1, "soc": 2, "driver": 3, "driver_version": 4, "kernel": 5},
                "renameByName": {"instance": "Board", "model": "Model", "soc": "SoC", "driver": "Driver",
                                 "driver_version": "Version", "kernel": "Kernel"},
            },
        }
    ]
}  # fmt: skip


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
