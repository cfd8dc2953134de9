"""Alerts fire on what daemons in trouble really export, and every query uses names and values that exist."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from exo_rkllm.backends.observer import NOT_OUR_FAULT
from tests.grafana.recording import FOLDER, Labels, Recording, firing, groupings, rule_files, selectors
from tests.grafana.scenarios import FIRES, record
from tests.simulated import Library

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt install prometheus"
)
# Prometheus adds these to what it scrapes; `le` belongs to a histogram's buckets.
SCRAPED = {"job", "instance", "le", "alertname"}
RECORDS = {name: expression for kind, name, expression in rule_files() if kind == "record"}


def queries() -> dict[str, str]:
    """Every expression that is shipped, by where it stands; Grafana's variables match everything."""
    rules = {f"{kind} {name}": expression for kind, name, expression in rule_files()}
    dashboard = json.loads((FOLDER / "exo-rkllm.json").read_text())
    panels = {
        f"panel {panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }
    annotations = {
        f"annotation {one['name']}": one["expr"] for one in dashboard["annotations"]["list"] if "expr" in one
    }
    return rules | panels | annotations


@pytest.fixture(scope="module")
def recording(library: Library) -> Iterator[Recording]:
    with tempfile.TemporaryDirectory() as folder:  # a Unix socket's path is short
        yield record(Path(folder), library("1.3.0"))


def test_each_trouble_fires_its_alerts_and_no_other(recording: Recording, tmp_path: Path) -> None:
    assert firing(recording, FIRES, tmp_path) == ""


def test_every_alert_has_a_scenario_that_fires_it() -> None:
    assert {name for kind, name, _ in rule_files() if kind == "alert"} == set().union(*FIRES.values())


def holds(operator: str, pattern: str, value: str) -> bool:
    equal = re.fullmatch(pattern, value) is not None if "~" in operator else pattern == value
    return equal != operator.startswith("!")


def values_used(operator: str, pattern: str) -> list[str]:
    """The single values that a matcher names: each of them has to exist, even where it is excluded."""
    return pattern.split("|") if re.fullmatch(r"[\w|]+", pattern) or "~" not in operator else [pattern]


def series(recording: Recording, name: str) -> list[Labels]:
    return [labels for known, labels in recording.samples() if known == name]


@pytest.mark.parametrize("where", queries())
def test_query_uses_only_what_a_real_scrape_has(where: str, recording: Recording) -> None:
    expression = queries()[where]
    labels_seen = set(SCRAPED)
    for name, matchers in selectors(expression):
        if name in RECORDS:
            labels_seen |= groupings(RECORDS[name])
            continue
        found = series(recording, name)
        assert found, f"no daemon exports {name}"
        labels_seen |= {label for labels in found for label, _ in labels}
        for label, operator, pattern in matchers:
            if pattern.startswith("$") or label in SCRAPED:
                continue
            values = {dict(labels).get(label, "") for labels in found}
            for part in values_used(operator, pattern):
                like = "=~" if "~" in operator else "="
                assert any(holds(like, part, value) for value in values), f"{name} never has {label}={part}: {values}"
    assert groupings(expression) <= labels_seen | {"status"}  # made by label_replace


def test_rules_excuse_the_same_ends_as_the_table() -> None:
    [excused] = re.findall(r'finish_reason!~"([^"]+)"', RECORDS["model:rkllm_failed_requests:ratio_rate5m"])
    assert set(excused.split("|")) == NOT_OUR_FAULT


def test_selectors_are_found_in_every_shape_of_query() -> None:
    expression = (
        'sum by (a, b) (rate(x_total{c=~"d|e", f!="g"}[5m])) / on (a) label_replace(y_z + 0, "h", "i_j", "", "")'
    )
    assert list(selectors(expression)) == [("x_total", [("c", "=~", "d|e"), ("f", "!=", "g")]), ("y_z", [])]
    assert groupings(expression) == {"a", "b"}
