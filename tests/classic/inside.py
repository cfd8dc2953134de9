"""Classic exo itself, started with this package as an owner starts it, for `test_inside.py`.

EXO_CLASSIC_PYTHON   a Python with classic exo's dependencies, transformers among them, and without exo
EXO_CLASSIC          a checkout of v0.0.15-alpha, which is also the host that the draft is wired into
EXO_CLASSIC_FORK     a checkout of the fork that has the draft's plugin discovery and an rkllm engine of its own

Nothing of exo is in this repository; the draft's part is written here, from the document.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator import boards, tokenizer
from simulator.model_file import SimModel, write
from tests.classic.test_host import DISCOVERY
from tests.exo_cluster.test_node import free_ports
from tests.simulated import build

REPOSITORY = Path(__file__).parent.parent.parent
PYTHON = os.environ.get("EXO_CLASSIC_PYTHON", "")
CHECKOUTS = {
    "released": os.environ.get("EXO_CLASSIC", ""),
    "draft": os.environ.get("EXO_CLASSIC", ""),
    "fork": os.environ.get("EXO_CLASSIC_FORK", ""),
}
# What an owner types; `python -m` because the checkouts are not installed.
STARTS: dict[str, tuple[str, ...]] = {
    "released": ("exo_rkllm", "exo-classic"),
    "draft": ("exo.main", "--inference-engine", "rkllm"),
    "fork": ("exo.main", "--inference-engine", "rkllm-npu"),
}
# Where the draft looks for engines, for cards and for the system's name.
WIRED = {
    "inference/inference_engine.py": """
from exo.inference.plugin_discovery import discover_inference_engines, load_inference_engine
_builtin_engine = get_inference_engine
def get_inference_engine(name, shard_downloader):
  if name in discover_inference_engines(): return load_inference_engine(name, shard_downloader)
  return _builtin_engine(name, shard_downloader)
""",
    "models.py": """
from importlib.metadata import entry_points as _entry_points
for _one in _entry_points(group="exo.models"): model_cards.update(_one.load())
""",
    "helpers.py": """
_builtin_info = get_system_info
def get_system_info():
  from importlib.metadata import entry_points
  return next((name for one in entry_points(group="exo.device_detectors") if (name := one.load()())), _builtin_info())
""",
}
STARTS_IN = 60.0
TEMPLATE = "{% for one in messages %}{{ one.content }}\n{% endfor %}"
BYTES = 256


def save_tokenizer(folder: Path) -> None:
    """The simulated models' vocabulary as the real `tokenizers` reads it, and a configuration: no file besides."""
    vocabulary = {f"<0x{token:02X}>": token for token in range(BYTES)}
    vocabulary |= {piece.decode(): token for token, (piece, _) in enumerate(tokenizer.pieces()) if token >= BYTES}
    added = [
        {
            "id": vocabulary[tag],
            "content": tag,
            "special": True,
            "normalized": False,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
        }
        for tag in tokenizer.CONTROLS
    ]
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": True, "unk_token": None}
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    whole = {"version": "1.0", "added_tokens": added, "model": model, "decoder": decoder}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor"))
    (folder / "tokenizer.json").write_text(json.dumps({**whole, **parts}))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@dataclass
class Answer:
    status: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def content(self) -> str:
        (choice,) = self.json()["choices"]
        return str(choice["message"]["content"])

    @property
    def chunks(self) -> list[Any]:
        lines = [line.removeprefix("data: ") for line in self.text.splitlines() if line.startswith("data: {")]
        return [json.loads(line) for line in lines]


@dataclass
class Exo:
    """One process of exo."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def call(self, method: str, path: str, body: Any = None, timeout: float = 30.0) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, head, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - our own host
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as refused:
            return Answer(refused.code, refused.read().decode())

    def ask(self, model: str, *texts: str, **more: Any) -> Answer:
        messages = [
            {"role": role, "content": text} for role, text in zip(("user", "assistant") * 9, texts, strict=False)
        ]
        return self.call("POST", "/v1/chat/completions", {"model": model, "messages": messages, **more})

    def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while True:
            with suppress(OSError, ValueError):
                if condition():
                    return
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.1)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Host:
    """One kind of classic exo with a board, models, and our package in its Python."""

    kind: str
    folder: Path
    exo: Exo = field(init=False)
    stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        checkout = Path(CHECKOUTS[self.kind])
        if self.kind == "draft":
            shutil.copytree(checkout / "exo", self.folder / "draft/exo")
            checkout = self.folder / "draft"
            (checkout / "exo/inference/plugin_discovery.py").write_text(DISCOVERY)
            for file, lines in WIRED.items():
                with (checkout / "exo" / file).open("a") as source:
                    source.write(lines)
        self.checkout = checkout
        installed = self.folder / "site/exo_rkllm-0.dist-info"
        installed.mkdir(parents=True)
        ours = importlib.metadata.distribution("exo-rkllm").read_text("entry_points.txt") or ""
        (installed / "entry_points.txt").write_text(ours)
        (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: exo-rkllm\nVersion: 0\n")
        root = boards.write("orangepi-5-plus", self.folder / "b")
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "EXO_HOME": str(self.folder / "exo"),
            "PYTHONPATH": os.pathsep.join((str(checkout), str(installed.parent), str(REPOSITORY))),
            **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "PYTHONUNBUFFERED", "DEBUG"), "1"),
            "RKLLM_SIM_ROOT": str(root),
            "EXO_RKLLM_BOARD_ROOT": str(root),
            "TERM": "xterm",
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "EXO_RKLLM_CLUSTER_ENABLED": "false",
            "EXO_RKLLM_MODELS_DIRECTORY": str(self.folder / "models"),
            "EXO_RKLLM_RUNTIME_LIBRARY": str(build() / "1.3.0/librkllmrt.so"),
        }
        (self.folder / "run").mkdir()

    def add(self, name: str, *, tokens: bool = True, **situation: Any) -> None:
        folder = self.folder / "models" / name
        folder.mkdir(parents=True)
        write(folder / "m.rkllm", SimModel(template="none", **situation))
        card = f'id = "{name}"\nlayers = 28\ncontext = 4096\n[weights]\nfile = "m.rkllm"\n'
        (folder / "model.toml").write_text(card)
        if tokens:
            save_tokenizer(folder)

    def spawn(self, *words: str, start: Sequence[str] | None = None, port: int = 0, **variables: str) -> Exo:
        """`words` are exo's own arguments; `start` is what stands before them, the kind's own start without."""
        log = self.folder / f"log-{time.monotonic_ns()}"
        api, node = free_ports(2)
        port = port or api
        peers = self.folder / "alone.json"
        peers.write_text('{"peers": {}}')
        known = {"--node-host": "127.0.0.1", "--node-port": str(node), "--chatgpt-api-port": str(port)}
        known |= {"--discovery-module": "manual", "--discovery-config-path": str(peers), "--node-id": "one"}
        options = [part for name, value in known.items() if name not in words for part in (name, value)]
        command = [PYTHON, "-m", *(start or STARTS[self.kind]), "--", "--disable-tui", *options, *words]
        if command[2] != "exo_rkllm":
            command.remove("--")
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env={**self.environment, **variables}, stdout=out, stderr=out
            )
        exo = Exo(process, log, port)
        self.stack.callback(exo.end)
        return exo

    def start(self, *words: str, **more: Any) -> Exo:
        exo = self.spawn(*words, **more)
        exo.until(lambda: exo.call("GET", "/healthcheck").status == 200, STARTS_IN)
        return exo

    def ours(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A verb of our own command line in exo's Python."""
        command = [PYTHON, "-m", "exo_rkllm", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60
        )


def hosts(kind: str, folder: Path) -> Iterator[Host]:
    host = Host(kind, folder)
    with host.stack:
        yield host
