"""Real daemons in every trouble that an alert knows, scraped while it happens; `record` gives it as one recording.

Each scenario is an instance of its own name. What it has to bring about stands in FIRES.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from exo_rkllm.cluster.session.view import ClusterView, Phase, unconfirmed
from exo_rkllm.metrics.scrape import render_page
from simulator import boards, encoder_file, model_file
from tests.daemon.running import house_of
from tests.grafana.recording import Recording
from tests.metrics import scenes

LONGEST_FOR = 61.0  # minutes of the alert that waits longest
FIRES: Mapping[str, set[str]] = {
    "healthy": set(),
    "crashing": {"RkllmEngineRestarts", "RkllmRequestsFail"},
    "unloadable": {"RkllmModelDoesNotLoad"},
    "queueing": {"RkllmQueueLong"},
    "hot": {"RkllmNpuThrottled", "RkllmNpuHot", "RkllmMemoryClockSlow", "RkllmDriverOld"},
    "slow": {"RkllmNpuClockSlow"},
    "unreadable": {"RkllmNpuLoadUnreadable"},
    "driverless": {"RkllmNpuUnusable", "RkllmNotServing", "RkllmMemoryLow"},
    "stopped": {"RkllmDown"},
    "alone": {"RkllmClusterApart"},
    "apart": {"RkllmClusterApart", "RkllmClusterDrift", "RkllmClusterUnechoed"},
    "found": {"RkllmClusterUnconfirmed"},
}


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TOOL_CARD = '[chat]\nfamily = "qwen"\ntemplate = "chat.jinja"\n'
STRICT_CARD = '[chat]\ntemplate = "chat.jinja"\n'
TOOL_TEMPLATE = """{%- for tool in tools or () %}<tools>{{ tool | tojson }}</tools>{% endfor -%}
{%- for one in messages -%}<|im_start|>{{ one.role }}
{{ one.content }}<|im_end|>
{% endfor -%}
<|im_start|>assistant
"""


class Site:
    """One scenario's house on a simulated board, its daemon, and the recording that it fills."""

    def __init__(self, name: str, folder: Path, library: Path, recording: Recording) -> None:
        self.name = name
        self.recording = recording
        self.house = house_of(folder / name[:4])
        self.house.environment["EXO_RKLLM_RUNTIME_LIBRARY"] = str(library)

    def board(self, profile: str, *changes: Callable[[Any], None]) -> None:
        tree = boards.build(profile)
        for change in changes:
            change(tree)
        root = self.house.folder / "b"
        tree.write(root)
        self.house.environment |= {"RKLLM_SIM_ROOT": str(root), "EXO_RKLLM_BOARD_ROOT": str(root)}

    def model(self, name: str, card: str = "", **situation: Any) -> None:
        self.house.add(name, f'[weights]\nfile = "m.rkllm"\n{card}')
        model_file.write(self.house.models / name / "m.rkllm", model_file.SimModel(name=name, **situation))

    def start(self, **variables: str) -> None:
        self.house.environment |= variables
        self.daemon = self.house.start()
        self.address = self.daemon.status()["listening"][0]
        self.scrape()

    def scrape(self) -> None:
        self.recording.scrape(self.name, self.address)

    def hold(self, minutes: float) -> None:
        self.recording.hold(self.name, minutes)

    def post(self, path: str, **body: Any) -> None:
        """An answer or an error, whichever comes."""
        request = urllib.request.Request(f"http://{self.address}{path}", json.dumps(body).encode())
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            response.read()

    def chat(self, model: str = "lamp", text: str = "How does a lamp work?", **fields: Any) -> None:
        self.post("/v1/chat/completions", model=model, messages=[{"role": "user", "content": text}], **fields)


# ── the scenarios ────────────────────────────────────────────────────────────────────────────────


def healthy(site: Site) -> None:
    """Answers for a quarter of an hour, and every end that says nothing against the board."""
    site.board("rk3588-busy")
    site.model("lamp", decode_tps=2000.0, reply="A lamp.", npu_cores=1)
    site.model("tools", TOOL_CARD, npu_cores=1)
    (site.house.models / "tools/chat.jinja").write_text(TOOL_TEMPLATE)
    site.model("strict", STRICT_CARD, npu_cores=1)
    (site.house.models / "strict/chat.jinja").write_text("{{ raise_exception('No.') }}")
    site.model("lens", '[vision]\nfile = "m.rknn"\n', npu_cores=1)
    encoder_file.write(site.house.models / "lens/m.rknn", encoder_file.SimEncoder())
    site.house.words("words", tokens_per_second=2.0)
    site.start(EXO_RKLLM_DISPATCH_QUEUE="1")
    for _ in range(60):
        site.chat()
        site.scrape()
    site.chat(max_tokens=1)
    site.chat("tools", "please call look for me", tools=[TOOL])
    site.chat("strict")
    site.post("/api/generate", model="lens", prompt="What is this?", images=["bm8gcGljdHVyZQ=="])
    site.chat("words", "too long " * 5000)
    site.post("/v1/embeddings", model="words", input="a")
    with ThreadPoolExecutor(2) as pool:
        leaving = site.daemon.ask("words", "one two three " * 9)
        next(event for event in leaving if event.get("text"))
        wait([pool.submit(site.chat, "words", text) for text in ("four", "five")], return_when=FIRST_COMPLETED)
        del leaving  # which closes its connection
    site.scrape()


def crashing(site: Site) -> None:
    """The library dies in every answer. After four times the model is barred, and its requests go on to fail."""
    site.board("orangepi-5-plus")
    site.model("lamp", faults=("segv@token:2",), npu_cores=1)
    site.start()
    for _ in range(50):
        site.chat()
        site.scrape()


def unloadable(site: Site) -> None:
    """Loads are refused, once each: a file for another SoC, a server without such a model, an option out of range."""
    site.board("orangepi-5-plus")
    site.model("lamp", platform="RK3576", npu_cores=1)
    site.house.add("range", 'engine = "dummy"\n[options]\nload_seconds = -1.0\n')
    site.start()
    site.house.add("remote", f'engine = "openai"\n[options]\nbase_url = "http://{site.address}/v1"\nmodel = "nobody"\n')
    site.hold(1)
    for model in ("lamp", "remote", "range"):
        site.chat(model)
    site.scrape()
    site.hold(20)


def queueing(site: Site) -> None:
    """Four requests wait behind one that takes longer than the alert's half a minute."""
    site.board("orangepi-5-plus")
    site.model("lamp", reply="Slow. " * 100, decode_tps=2.0, npu_cores=1)
    site.start()
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(site.chat, max_tokens=64)
        site.daemon.wait_for(lambda status: any(model["running"] for model in status["models"]))
        site.scrape()
        others = [pool.submit(site.chat, max_tokens=3) for _ in range(4)]
        for request in as_completed([first, *others]):
            request.result()
            site.scrape()
            site.hold(4)


def hot(site: Site) -> None:
    """A throttled board with slow memory and yesterday's driver that answers all the time."""
    site.board(
        "hot",
        lambda tree: tree.line("sys/module/rknpu/version", "0.9.7"),
        lambda tree: tree.line("sys/devices/platform/dmc/devfreq/dmc/cur_freq", "528000000"),
    )
    site.model("lamp", decode_tps=2000.0, reply="A lamp.", npu_cores=1)
    site.start()
    for _ in range(50):
        site.chat()
        site.scrape()
    site.hold(LONGEST_FOR)


def slow(site: Site) -> None:
    site.board("rk3576-slow")
    site.start()
    site.hold(15)


def unreadable(site: Site) -> None:
    site.board("debugfs-bind-empty")
    site.start()
    site.hold(15)


def driverless(site: Site) -> None:
    site.board(
        "no-driver",
        lambda tree: tree.data("proc/meminfo", b"MemTotal:       16000000 kB\nMemAvailable:     100000 kB\n"),
    )
    site.start()
    site.hold(15)


def stopped(site: Site) -> None:
    site.board("orangepi-5-plus")
    site.start()
    site.daemon.stop()
    site.scrape()
    site.hold(5)


def alone(site: Site) -> None:
    """It looks for an exo cluster of a name that nobody has."""
    site.board("orangepi-5-plus")
    site.start(EXO_RKLLM_CLUSTER_ENABLED="true", EXO_RKLLM_CLUSTER_NAMESPACE=f"nobody-{site.house.folder.name}")
    site.hold(20)


def apart(site: Site) -> None:
    made_up(site, scenes.cluster_view(Phase.OUT, drift=("state.nodes",), unechoed=190))


def found(site: Site) -> None:
    """The only cluster it heard, which it joined."""
    made_up(site, scenes.cluster_view(announcement=unconfirmed("0.3.70")))


def made_up(site: Site, view: ClusterView) -> None:
    """No exo stands by: the collectors are real, and what the node would say of such a cluster is made here."""
    daemon = scenes.Daemon(boards.write("orangepi-5-plus", site.house.folder / "b"))
    daemon.cluster = view
    site.recording.add(site.name, render_page(daemon.registry(), "")[0].decode())
    site.hold(20)


SCENARIOS = (healthy, crashing, unloadable, queueing, hot, slow, unreadable, driverless, stopped, alone, apart, found)


def record(folder: Path, library: Path) -> Recording:
    """Every scenario, some of them at the same time: one waits for half a minute, and the others do not wait for it."""
    recording = Recording()
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        sites = [Site(scenario.__name__, folder, library, recording) for scenario in SCENARIOS]
        for site in sites:
            stack.enter_context(site.house.stack)
        order = sorted(zip(SCENARIOS, sites, strict=True), key=lambda pair: pair[1].name != "queueing")
        for run in [pool.submit(scenario, site) for scenario, site in order]:
            run.result()
    return recording
