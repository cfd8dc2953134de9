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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from exo_rkllm.cluster.session.view import Phase
from exo_rkllm.dispatch.status import DispatchStatus
from simulator import boards, model_file
from tests.daemon.running import Daemon as RealDaemon
from tests.daemon.running import House, house_of
from tests.grafana.prometheus import PROGRAM, Prometheus, metrics_server, prometheus, until
from tests.metrics.scenes import Daemon, cluster_view
from tests.simulated import Library

FOLDER = Path(__file__).parents[2] / "packaging/grafana"
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
    """With every variable put in; the window is what a dozen scrapes of the test take."""
    for name, value in {
        "$__rate_interval": "6s",
        "$__interval": "6s",
        "$board": board or ".*",
        "$model": model,
    }.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


class World(NamedTuple):
    prometheus: Prometheus
    daemon: str  # address of the real one
    accepted: list[str]


@pytest.fixture(scope="module")
def world(library: Library) -> Iterator[World]:
    """Scraped for a few seconds: a real daemon that answers, one that shows a cluster, and boards in every trouble."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        house = house_of(folder / "house")
        member, bad = Daemon(boards.write("rk3588-busy", folder / "member")), troubled(folder / "bad")
        others = [member, bad]
        others += [Daemon(boards.write(profile, folder / profile)) for profile in ("rk3576-slow", "debugfs-bind-empty")]
        accepted: list[str] = []
        stop = threading.Event()
        with house.stack, contextlib.ExitStack() as stack:
            daemon = serving(house, folder / "board", library)
            servers = [stack.enter_context(metrics_server(one.registry(), accepted)) for one in others]
            targets = [daemon.status()["listening"][0], *servers, "127.0.0.1:1"]
            server = stack.enter_context(prometheus(folder, targets, RULES))
            workers = [threading.Thread(target=live, args=(member, bad, stop))]
            workers += [threading.Thread(target=converse, args=(daemon, stop))]
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


def serving(house: House, root: Path, library: Library) -> RealDaemon:
    """`exo-rkllm serve` on a busy Orange Pi 5 Plus, with the simulated runtime and a model."""
    boards.write("rk3588-busy", root)
    house.environment |= {
        "RKLLM_SIM_ROOT": str(root),
        "EXO_RKLLM_BOARD_ROOT": str(root),
        "EXO_RKLLM_RUNTIME_LIBRARY": str(library("1.3.0")),
    }
    model = model_file.SimModel(name="lamp", decode_tps=200.0, reply="A lamp. " * 20)
    source = model_file.write(house.folder / "m.rkllm", model)
    house.add("lamp", '[weights]\nfile = "m.rkllm"\n')
    source.rename(house.models / "lamp/m.rkllm")
    return house.start()


def converse(daemon: RealDaemon, stop: threading.Event) -> None:
    while not stop.is_set():
        daemon.answer("lamp", "How does a lamp work?")


def troubled(folder: Path) -> Daemon:
    """Hot, old driver, slow memory, a full queue, engines that die, a cluster that refuses it, memory nearly gone."""
    tree = boards.build("hot")
    tree.line("sys/module/rknpu/version", "0.8.2")
    tree.line("sys/devices/platform/dmc/devfreq/dmc/cur_freq", "528000000")
    tree.data("proc/meminfo", b"MemTotal:       16000000 kB\nMemAvailable:     100000 kB\n")
    tree.write(folder)
    daemon = Daemon(folder)
    daemon.status = DispatchStatus(unavailable_reason="The NPU driver is too old.")
    daemon.cluster = cluster_view(Phase.OUT, drift=("state.nodes",), unechoed=190)
    return daemon


def live(good: Daemon, bad: Daemon, stop: threading.Event) -> None:
    while not stop.wait(0.25):
        good.work()
        bad.work()
        bad.suffer()


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
def test_a_real_daemon_fills_its_panels(where: str, world: World) -> None:
    expression = as_grafana_sends_it(expressions()[where], board=world.daemon)
    assert until(lambda: bool(world.prometheus.query(expression)), 10), expression


@needs_prometheus
def test_the_model_variable_narrows_the_serving_panels(world: World) -> None:
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
def test_every_recording_rule_and_every_alert_returns_data(world: World) -> None:
    """An alert's expression returns data where its trouble is, and that is on the troubled boards only."""
    found = rules(world.prometheus)
    for rule in found:
        assert until(lambda rule=rule: bool(world.prometheus.query(rule["query"])), 20), rule["name"]  # type: ignore[misc]  # mypy does not know the default's type
    alerts = [rule for rule in found if rule["type"] == "alerting"]
    for rule in alerts:
        struck = {sample["metric"].get("instance") for sample in world.prometheus.query(rule["query"])}
        assert world.daemon not in struck, rule["name"]


@needs_prometheus
def test_the_busy_counter_of_the_daemon_gives_the_boards_utilization(world: World) -> None:
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
def test_the_rules_own_tests_pass() -> None:
    command = ["promtool", "test", "rules", "exo-rkllm.test.yml"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_the_tables() -> None:
    spec = importlib.util.spec_from_file_location("build_dashboard", FOLDER / "build.py")
    assert spec
    assert spec.loader
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build.text() == (FOLDER / "exo-rkllm.json").read_text(), "run: python3 packaging/grafana/build.py"


def test_the_dashboard_imports_anywhere() -> None:
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
