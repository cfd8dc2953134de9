"""Pages that daemons really served, laid out in time for promtool: minutes of an alert's window cost no waiting."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

FOLDER = Path(__file__).parents[2] / "packaging/grafana"
RULES = (FOLDER / "exo-rkllm.rules.yml", FOLDER / "exo-rkllm.alerts.yml")
STEP = 15  # seconds that lie between two pages of a recording
JOB = "exo-rkllm"
Labels: TypeAlias = tuple[tuple[str, str], ...]
Page: TypeAlias = dict[tuple[str, Labels], float]


def read_page(text: str) -> Page:
    """Samples of this package's own metrics by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
        if sample.name.startswith(("rknpu_", "rkllm_"))
    }


class Recording:
    """One timeline an instance; Prometheus' own `up` is added, 0 for a scrape that found nobody."""

    def __init__(self) -> None:
        self.pages: dict[str, list[Page]] = {}

    def scrape(self, instance: str, address: str) -> Page:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
                return self.add(instance, response.read().decode())
        except OSError:
            self.pages.setdefault(instance, []).append({("up", ()): 0.0})
            return {}

    def add(self, instance: str, text: str) -> Page:
        page = read_page(text) | {("up", ()): 1.0}
        self.pages.setdefault(instance, []).append(page)
        return page

    def hold(self, instance: str, minutes: float) -> None:
        """The last page again and again, as a daemon serves it while nothing happens."""
        self.pages[instance] += self.pages[instance][-1:] * int(minutes * 60 / STEP)

    @property
    def minutes(self) -> int:
        return max(map(len, self.pages.values())) * STEP // 60 + 1

    def series(self) -> Iterator[dict[str, str]]:
        """promtool's `input_series`; a series that vanishes from the page becomes stale, as in Prometheus."""
        for instance, pages in self.pages.items():
            for name, labels in sorted({key for page in pages for key in page}):
                values = [page.get((name, labels)) for page in pages]
                written = " ".join("stale" if value is None else repr(value) for value in values)
                shown = ",".join(
                    f"{label}={json.dumps(value)}" for label, value in (("job", JOB), ("instance", instance), *labels)
                )
                yield {"series": f"{name}{{{shown}}}", "values": written}

    def samples(self) -> Page:
        """Every name with every set of labels that a page had."""
        return {key: value for pages in self.pages.values() for page in pages for key, value in page.items()}


def firing(recording: Recording, expected: Mapping[str, Iterable[str]], folder: Path) -> str:
    """Runs the rules over the recording; returns what promtool says against `expected`, the alerts of each instance.

    An alert counts when it fires at any time, and one that is not expected counts, too.
    """
    samples = [
        {"labels": f'{{alertname="{alert}", instance="{instance}"}}', "value": 1}
        for instance, alerts in expected.items()
        for alert in alerts
    ]
    query = f'max by (alertname, instance) (max_over_time(ALERTS{{alertstate="firing"}}[{recording.minutes}m]))'
    test = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": f"{STEP}s",
        "tests": [
            {
                "interval": f"{STEP}s",
                "input_series": list(recording.series()),
                "promql_expr_test": [
                    {"expr": query, "eval_time": f"{recording.minutes}m", "exp_samples": samples},
                ],
            }
        ],
    }
    file = folder / "recording.test.yml"
    file.write_text(json.dumps(test))  # YAML takes JSON
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=120)
    return "" if done.returncode == 0 else done.stdout + done.stderr


# ── what a query uses ────────────────────────────────────────────────────────────────────────────

WORDS = {"by", "on", "and", "or", "unless", "offset", "ignoring", "without", "bool"}
GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"(?<![\w:$\"])([a-zA-Z_:][\w:]*)(?![\w:])\s*(\{[^}]*\})?(?!\s*\()")
WINDOW = re.compile(r"\[[$\w]+\]")
STRINGS = re.compile(r'(\{[^}]*\})|"(?:[^"\\]|\\.)*"')
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')


def selectors(expression: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Names of series with the matchers of each, from one PromQL expression."""
    bare = STRINGS.sub(lambda hit: hit[1] or "", GROUPING.sub("", WINDOW.sub("", expression)))
    for name, matchers in SELECTOR.findall(bare):
        if name not in WORDS and not name.isdigit() and ("_" in name or ":" in name or name == "up"):
            found = MATCHER.findall(matchers)
            yield name, [(label, operator, json.loads(f'"{pattern}"')) for label, operator, pattern in found]


def groupings(expression: str) -> set[str]:
    """Labels that the expression groups or joins by."""
    return {label.strip() for group in GROUPING.findall(expression) for label in group.split(",") if label.strip()}


def rule_files() -> list[tuple[str, str, str]]:
    """(kind, name, expression) of every rule that is shipped."""
    found = []
    for path in sorted(FOLDER.glob("*.rules.yml")) + sorted(FOLDER.glob("*.alerts.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                kind = "record" if "record" in rule else "alert"
                found.append((kind, rule[kind], rule["expr"]))
    return found
