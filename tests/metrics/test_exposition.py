"""One scrape: what it says, what it leaves out, in which format, and what it costs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exo_rkllm.backends.observer import AnswerReport, LoadReport, RestartReport, TokenGaps
from exo_rkllm.board.files import WAKING
from exo_rkllm.dispatch.status import DispatchStatus
from exo_rkllm.metrics.families import BOARD, EVERY, document
from exo_rkllm.metrics.scrape import render_page
from exo_rkllm.metrics.serving import MOST_VALUES, OTHER, Histogram
from tests.metrics.scenes import GEMMA, QWEN, Daemon, answer, model_status
from tests.opens import Opens

Build = Callable[[str], Path]
OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.2"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(daemon: Daemon) -> Samples:
    page, _ = render_page(daemon.registry(), "")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(page.decode())
        for sample in family.samples
    }


def names(found: Samples) -> set[str]:
    return {name for name, _ in found}


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


# ── the board ────────────────────────────────────────────────────────────────────────────────────


def test_busy_board_exports_every_counter(board: Build) -> None:
    daemon = Daemon(board("rk3588-busy"))
    daemon.work()
    found = samples(daemon)
    npu = {"device": "fdab0000.npu"}
    assert value(found, "rknpu_up") == 1
    assert value(found, "rknpu_state", state="vendor_ready") == 1
    assert value(found, "rknpu_state", state="no_driver") == 0
    assert [value(found, "rknpu_core_utilization_ratio", core=str(core), **npu) for core in range(3)] == [0.65, 0.7, 1]
    assert value(found, "rknpu_core_busy_seconds_total", core="2", **npu) == 1
    assert value(found, "rknpu_interrupts_total", core="1", **npu) == 977
    assert value(found, "rknpu_frequency_hertz", **npu) == 1e9
    assert value(found, "rknpu_powered_seconds_total", **npu) == 41.234
    assert value(found, "rknpu_temperature_celsius", zone="npu-thermal") == 44.246
    assert value(found, "rknpu_memory_frequency_hertz") == 2.112e9
    assert (
        value(
            found,
            "rknpu_info",
            driver="RKNPU",
            driver_version="0.9.8",
            soc="rk3588",
            model="Orange Pi 5 Plus",
            kernel="6.1.115-vendor-rk35xx",
            build="drm_gem",
            **npu,
        )
        == 1
    )
    assert "rknpu_cma_free_bytes" not in names(found)
    assert daemon.touched == 1


@pytest.mark.parametrize(
    ("name", "gone", "collector"),
    [
        ("debugfs-bind-empty", {"rknpu_core_utilization_ratio", "rknpu_core_busy_seconds_total"}, "load"),
        ("load-truncated", {"rknpu_core_utilization_ratio", "rknpu_core_busy_seconds_total"}, "load"),
        ("devfreq-missing", {"rknpu_frequency_hertz", "rknpu_frequency_max_hertz"}, "clock"),
        ("no-driver", {"rknpu_info", "rknpu_cores", "rknpu_powered", "rknpu_core_utilization_ratio"}, "power"),
        ("acpi", {"rknpu_temperature_celsius", "rknpu_memory_frequency_hertz"}, "temperature"),
    ],
)
def test_unreadable_source_is_left_out_and_marked(name: str, gone: set[str], collector: str, board: Build) -> None:
    found = samples(Daemon(board(name)))
    assert not names(found) & gone
    assert value(found, "rknpu_collector_success", collector=collector) == 0
    assert value(found, "rknpu_collector_success", collector="memory") == 1


def test_counters_vanish_with_the_driver(board: Build) -> None:
    root = board("rk3588-busy")
    daemon = Daemon(root)
    daemon.work()
    shutil.rmtree(root / "sys")
    found = samples(daemon)
    assert not names(found) & {"rknpu_core_busy_seconds_total", "rknpu_powered", "rknpu_frequency_hertz"}
    assert value(found, "rknpu_collector_success", collector="load") == 0


def test_board_without_iommu_exports_cma(board: Build) -> None:
    assert value(samples(Daemon(board("rk3568-cma"))), "rknpu_cma_free_bytes") == 14000 * 1024


def test_hostile_board_name_stays_one_label(board: Build) -> None:
    daemon = Daemon(board("model-hostile"))
    page, _ = render_page(daemon.registry(), "")
    [line] = [line for line in page.decode().splitlines() if line.startswith("rknpu_info{")]
    assert line.endswith(" 1.0")
    [info] = [labels for name, labels in samples(daemon) if name == "rknpu_info"]
    assert dict(info)["model"].startswith('Evil "Board" ')


# ── serving and cluster ──────────────────────────────────────────────────────────────────────────


def test_answers_are_counted_by_how_they_ended(board: Build) -> None:
    daemon = Daemon(board("orangepi-5-plus"))
    for reason in ("stop", "stop", "length"):
        daemon.serving.answered(answer("qwen3-0.6b", reason))
    daemon.serving.answered(AnswerReport("qwen3-0.6b", "busy", 0.0))
    found = samples(daemon)
    assert value(found, "rkllm_requests_total", model="qwen3-0.6b", finish_reason="stop") == 2
    assert value(found, "rkllm_requests_total", model="qwen3-0.6b", finish_reason="busy") == 1
    assert value(found, "rkllm_prompt_tokens_total", model="qwen3-0.6b") == 3 * 128
    assert value(found, "rkllm_cached_prompt_tokens_total", model="qwen3-0.6b") == 300
    assert value(found, "rkllm_generated_tokens_total", model="qwen3-0.6b") == 120
    assert value(found, "rkllm_inter_token_seconds_count", model="qwen3-0.6b") == 3 * 39
    assert value(found, "rkllm_inter_token_seconds_bucket", model="qwen3-0.6b", le="0.05") == 0
    assert value(found, "rkllm_inter_token_seconds_bucket", model="qwen3-0.6b", le="0.075") == 3 * 39
    assert value(found, "rkllm_time_to_first_token_seconds_count", model="qwen3-0.6b") == 3
    assert value(found, "rkllm_prefill_seconds_sum", model="qwen3-0.6b") == pytest.approx(0.75)
    assert value(found, "rkllm_request_seconds_count", model="qwen3-0.6b") == 4


def test_unknown_time_is_not_observed_as_zero(board: Build) -> None:
    daemon = Daemon(board("orangepi-5-plus"))
    daemon.serving.answered(AnswerReport("remote", "stop", 1.0))
    found = samples(daemon)
    assert "rkllm_prefill_seconds_count" not in names(found)
    assert "rkllm_time_to_first_token_seconds_count" not in names(found)


def test_loads_and_restarts_are_counted_by_result(board: Build) -> None:
    daemon = Daemon(board("orangepi-5-plus"))
    daemon.serving.loaded(LoadReport("a", 4.0))
    daemon.serving.loaded(LoadReport("b", 1.0, "out_of_memory"))
    daemon.serving.restarted(RestartReport("a", "hang"))
    found = samples(daemon)
    assert value(found, "rkllm_model_loads_total", model="a", result="ok") == 1
    assert value(found, "rkllm_model_loads_total", model="b", result="out_of_memory") == 1
    assert value(found, "rkllm_model_load_seconds_count", model="a") == 1
    assert value(found, "rkllm_worker_restarts_total", model="a", reason="hang") == 1
    assert value(found, "rkllm_generated_tokens_total", model="a") == 0, "its first tokens will have a rate"


def test_queue_is_read_at_scrape_time(board: Build) -> None:
    daemon = Daemon(board("orangepi-5-plus"))
    found = samples(daemon)
    assert value(found, "rkllm_requests_running", model="qwen3-0.6b") == 1
    assert value(found, "rkllm_requests_waiting", model="qwen3-0.6b") == 2
    assert value(found, "rkllm_model_memory_bytes", model="qwen3-0.6b") == 2e9
    assert value(found, "rkllm_model_loaded", model="gemma-2b") == 0
    assert value(found, "rkllm_serving") == 1
    daemon.status = DispatchStatus((), "The NPU driver is gone.")
    daemon.runtime = None
    found = samples(daemon)
    assert value(found, "rkllm_serving") == 0
    assert not names(found) & {"rkllm_requests_running", "rkllm_runtime_info"}


def test_number_of_label_values_is_bounded(board: Build) -> None:
    daemon = Daemon(board("orangepi-5-plus"))
    for number in range(10 * MOST_VALUES):
        daemon.serving.answered(AnswerReport(f"model-{number}", f"reason-{number}", 1.0))
    found = [dict(labels) for name, labels in samples(daemon) if name == "rkllm_requests_total"]
    assert len({labels["model"] for labels in found}) == MOST_VALUES + 1
    assert len({labels["finish_reason"] for labels in found}) == MOST_VALUES + 1
    assert {"model": OTHER, "finish_reason": OTHER} in found


def test_cluster_view_is_exported(board: Build) -> None:
    daemon = Daemon(board("orangepi-5-plus"))
    daemon.work()
    found = samples(daemon)
    assert value(found, "rkllm_cluster_connected") == 1
    assert value(found, "rkllm_cluster_phase", phase="serving") == 1
    assert value(found, "rkllm_cluster_instances", here="true") == 1
    assert value(found, "rkllm_cluster_events_in_total") == 12
    assert value(found, "rkllm_cluster_echo_seconds_count") == 5
    daemon.cluster = None
    assert not [name for name in names(samples(daemon)) if name.startswith("rkllm_cluster")]


def test_token_gaps_start_with_the_second_token() -> None:
    gaps = TokenGaps()
    for moment in (10.0, 10.05, 20.0):
        gaps.tick(moment)
    assert sum(gaps.counts) == 2
    assert gaps.counts[-1] == 1
    assert gaps.total == pytest.approx(10.0)


def test_histogram_buckets_are_cumulative() -> None:
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(seconds)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert histogram.total == 102


# ── format and cost ──────────────────────────────────────────────────────────────────────────────


def test_every_metric_of_the_table_is_exported(board: Build) -> None:
    busy, cma = Daemon(board("rk3588-busy")), Daemon(board("rk3568-cma"))
    busy.work()
    busy.suffer()
    told = {
        family.name + ("_total" if family.type == "counter" else "")
        for daemon in (busy, cma)
        for family in parse_text(render_page(daemon.registry(), "")[0].decode())
    }
    assert set(EVERY) <= told


def test_metrics_page_matches_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    assert page == document(), "write exo_rkllm.metrics.families.document() to docs/metrics.md"


def test_metric_names_end_with_their_unit() -> None:
    units = ("_seconds", "_bytes", "_hertz", "_celsius", "_volts", "_ratio", "_info", "_total")
    plain = {name for name in BOARD if not name.endswith(units)}
    assert plain == {
        "rknpu_up",
        "rknpu_state",
        "rknpu_collector_success",
        "rknpu_cores",
        "rknpu_powered",
        "rknpu_fault",
        "rknpu_neighbours",
    }
    counters = {name for name, row in EVERY.items() if row.kind == "counter"}
    assert all(name.endswith("_total") for name in counters)


def test_accept_header_chooses_the_format(board: Build) -> None:
    daemon = Daemon(board("rk3588-busy"))
    daemon.work()
    page, content_type = render_page(daemon.registry(), OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")
    families = list(parse_openmetrics(page.decode()))  # type: ignore[no-untyped-call]  # the library has no type there
    assert {family.name for family in families} >= {"rknpu_up", "rkllm_generated_tokens"}
    page, content_type = render_page(daemon.registry(), "")
    assert content_type.startswith("text/plain")
    assert b"# EOF" not in page


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: apt install prometheus")
def test_promtool_accepts_the_page(board: Build) -> None:
    daemon = Daemon(board("rk3588-busy"))
    daemon.work()
    daemon.suffer()
    page, _ = render_page(daemon.registry(), "")
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_scrape_is_cheap_and_wakes_nothing(board: Build, opens: Opens) -> None:
    for name in ("rk3588-busy", "rk3588s-mainline", "rv1126b-misc"):
        root = board(name)
        daemon = Daemon(root)
        daemon.work()
        registry = daemon.registry()
        with opens.traced() as paths:
            render_page(registry, OPENMETRICS)
        ours = [path for path in paths if path.startswith(str(root))]
        assert len(ours) > 5
        assert len(paths) <= 30, paths
        assert not [path for path in ours if Path(path).name in WAKING or path.startswith(f"{root}/dev/")]
        before = time.process_time()
        for _ in range(20):
            render_page(registry, OPENMETRICS)
        assert (time.process_time() - before) / 20 < 0.02  # a tenth of it where nothing else runs


def test_runtime_of_each_loaded_model_is_told_beside_the_default(board: Build) -> None:
    daemon = Daemon(board("rk3588-busy"))
    daemon.status = DispatchStatus(
        (model_status(QWEN), model_status(GEMMA, runtime="1.3.1"), model_status("cold", "cold"))
    )
    text = render_page(daemon.registry(), "")[0].decode()
    told = [line for line in text.splitlines() if line.startswith(("rkllm_runtime_info", "rkllm_model_runtime_info"))]
    assert told == [
        'rkllm_runtime_info{abi="v1_2_1",version="1.2.3"} 1.0',
        f'rkllm_model_runtime_info{{model="{QWEN}",version="1.2.3"}} 1.0',
        f'rkllm_model_runtime_info{{model="{GEMMA}",version="1.3.1"}} 1.0',
    ]
