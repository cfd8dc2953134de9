"""The dashboard and the rules say what a real Prometheus can answer: no empty panel, no alert that never fires."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from simulator import boards
from tests.grafana.prometheus import PROGRAM, Prometheus, metrics_server, prometheus, until
from tests.grafana.recording import FOLDER, Recording
from tests.grafana.scenarios import Site
from tests.metrics.scenes import Daemon
from tests.simulated import Library

RULES = sorted(FOLDER.glob("*.rules.yml")) + sorted(FOLDER.glob("*.alerts.yml"))
DASHBOARD = json.loads((FOLDER / "exo-rkllm.json").read_text())
needs_prometheus = pytest.mark.skipif(PROGRAM is None, reason="prometheus is not installed: apt install prometheus")
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt install prometheus"
)


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every expression of the dashboard, by where it stands."""
    found = {f"{panel['title']} {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert match
            found[f"variable {variable['name']}"] = f"count by ({match[2]}) ({match[1]})"
    for annotation in DASHBOARD["annotations"]["list"]:
        if "expr" in annotation:
            found[f"annotation {annotation['name']}"] = annotation["expr"]
    return found


def as_grafana_sends_it(expression: str, model: str = ".*", board: str = "") -> str:
    """With every variable put in; the window of rates is what a dozen scrapes of the test take.

    The other one is the annotation's, and as long as the test: a model whose process dies again and again is held back.
    """
    for name, value in {
        "$__rate_interval": "6s",
        "$__interval": "10m",
        "$board": board or ".*",
        "$model": model,
    }.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


class World(NamedTuple):
    prometheus: Prometheus
    daemon: str  # address of the one that answers
    accepted: list[str]


@pytest.fixture(scope="module")
def world(library: Library) -> Iterator[World]:
    """Scraped for a few seconds: a daemon that answers, one whose engines die or do not load, and one in a cluster.

    The first two are real. No exo stands by, so what the third one's node would say is made.
    """
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, recording = Path(name), Recording()
        good, bad = (Site(name, folder, library("1.3.0"), recording) for name in ("good", "bad"))
        for site in (good, bad):
            stack.enter_context(site.house.stack)
        good.board("rk3588-busy")
        good.model("lamp", decode_tps=200.0, reply="A lamp. " * 20, npu_cores=1, prefill_base_ms=20, prefill_tps=1600)
        good.start()
        bad.board("orangepi-5-plus")
        bad.model("lamp", faults=("segv@token:2",), npu_cores=1)
        bad.model("foreign", platform="RK3576", npu_cores=1)
        bad.start()
        member = Daemon(boards.write("rk3588-busy", folder / "member"))
        accepted: list[str] = []
        stop = threading.Event()
        targets = [good.address, bad.address, stack.enter_context(metrics_server(member.registry(), accepted))]
        server = stack.enter_context(prometheus(folder, targets, RULES))
        lives = (lambda: talk(good), lambda: fail(bad), lambda: act(member))
        workers = [threading.Thread(target=repeat, args=(life, stop)) for life in lives]
        for worker in workers:
            worker.start()
        try:
            answering = f'rate(rkllm_generated_tokens_total{{instance="{targets[0]}"}}[4s]) > 0'
            assert until(lambda: bool(server.query(answering)), 20)
            stop.wait(5)  # the longest windows of the rules are minutes, but any two samples in one have a rate
            yield World(server, targets[0], accepted)
        finally:
            stop.set()
            for worker in workers:
                worker.join()


def repeat(life: Callable[[], object], stop: threading.Event) -> None:
    while not stop.is_set():
        life()


def talk(site: Site) -> None:
    """Two conversations in turn, each of which displaces the other."""
    for name in ("lamp", "lantern"):
        site.chat(text=" ".join(f"{name}{number}" for number in range(100)))


def fail(site: Site) -> None:
    site.chat()
    site.chat("foreign")
    time.sleep(0.5)


def act(member: Daemon) -> None:
    member.work()
    time.sleep(0.25)


@needs_prometheus
@pytest.mark.parametrize("where", expressions())
def test_every_expression_of_the_dashboard_returns_data(where: str, world: World) -> None:
    expression = as_grafana_sends_it(expressions()[where])
    assert until(lambda: bool(world.prometheus.query(expression)), 10), expression


# What only a board in trouble has; and a daemon in a test joins nobody's cluster.
ELSEWHERE = {"Lost engines and failed loads B", "annotation Lost engines"}
ON_EVERY_BOARD = [name for name, expr in expressions().items() if name not in ELSEWHERE and "rkllm_cluster" not in expr]


@needs_prometheus
@pytest.mark.parametrize("where", ON_EVERY_BOARD)
def test_real_daemon_fills_its_panels(where: str, world: World) -> None:
    expression = as_grafana_sends_it(expressions()[where], board=world.daemon)
    assert until(lambda: bool(world.prometheus.query(expression)), 10), expression


KEPT = [panel["title"] for panel in panels() if "conversations" in str(panel["targets"])]


@needs_prometheus
@pytest.mark.parametrize("title", KEPT)
def test_kept_conversations_move_the_panels_about_them(title: str, world: World) -> None:
    """The real daemon answers two conversations in turn: one is saved, the other restored."""
    [panel] = [panel for panel in panels() if panel["title"] == title]
    for target in panel["targets"]:
        if "evicted" not in target["expr"]:  # two fit the budget
            above = f"({as_grafana_sends_it(target['expr'], board=world.daemon)}) > 0"
            assert until(lambda above=above: bool(world.prometheus.query(above)), 10), above  # type: ignore[misc]  # mypy does not know the default's type


@needs_prometheus
def test_model_variable_narrows_the_serving_panels(world: World) -> None:
    narrowed = [expr for expr in expressions().values() if "$model" in expr]
    assert narrowed
    for expression in narrowed:
        assert world.prometheus.query(as_grafana_sends_it(expression, "no-such-model")) == []


@needs_prometheus
def test_prometheus_gets_openmetrics(world: World) -> None:
    assert any("openmetrics" in accept for accept in world.accepted)


def rules(server: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]


@needs_prometheus
def test_every_rule_is_loaded_and_evaluated_without_error(world: World) -> None:
    assert until(lambda: all(rule["health"] == "ok" for rule in rules(world.prometheus)), 20)
    assert len(rules(world.prometheus)) > 40


@needs_prometheus
def test_every_recording_rule_returns_data(world: World) -> None:
    for rule in rules(world.prometheus):
        if rule["type"] == "recording":
            assert until(lambda rule=rule: bool(world.prometheus.query(rule["query"])), 20), rule["name"]  # type: ignore[misc]  # mypy does not know the default's type


@needs_prometheus
def test_daemon_that_answers_strikes_no_alert(world: World) -> None:
    """tests/grafana/test_alerts.py shows where each of them fires."""
    for rule in rules(world.prometheus):
        if rule["type"] == "alerting":
            struck = {sample["metric"].get("instance") for sample in world.prometheus.query(rule["query"])}
            assert world.daemon not in struck, rule["name"]


@needs_prometheus
def test_busy_counters_rate_is_the_utilization(world: World) -> None:
    """The tree says 65, 70 and 100 % all the time; the sampler integrates that once a second."""
    expression = f'rate(rknpu_core_busy_seconds_total{{instance="{world.daemon}"}}[4s])'
    found = {sample["metric"]["core"]: float(sample["value"][1]) for sample in world.prometheus.query(expression)}
    assert found == pytest.approx({"0": 0.65, "1": 0.70, "2": 1.0}, abs=0.15)


# ── the files themselves ─────────────────────────────────────────────────────────────────────────


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", *RULES], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("SUCCESS") == len(RULES)


@needs_promtool
def test_shipped_rule_tests_pass() -> None:
    command = ["promtool", "test", "rules", "exo-rkllm.test.yml"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboard_matches_its_table() -> None:
    spec = importlib.util.spec_from_file_location("build_dashboard", FOLDER / "build.py")
    assert spec
    assert spec.loader
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build.text() == (FOLDER / "exo-rkllm.json").read_text(), "run: python3 packaging/grafana/build.py"


def test_dashboard_imports_into_any_grafana() -> None:
    """No id of our own database, no fixed data source, unique panels that fit the grid and do not overlap."""
    assert "id" not in DASHBOARD
    assert "__inputs" not in DASHBOARD
    sources = re.findall(r'"uid": "([^"]+)"', json.dumps(DASHBOARD))
    assert set(sources) <= {"${datasource}", "-- Grafana --", "exo-rkllm"}
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "board", "model"]
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == [
        "Boards",
        "NPU",
        "Serving",
        "Kept conversations",
        "Cluster",
    ]
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert all(panel["description"] for panel in panels())
