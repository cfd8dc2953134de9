"""What is put into a host, what is said of one, and what loads without any."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.classic import hooks, launcher
from exo_rkllm.engine import RKLLMInferenceEngine
from exo_rkllm.errors import NotSupported
from tests.classic.conftest import END, Downloader
from tests.classic.node import whole

REPOSITORY = Path(__file__).parent.parent.parent
GROUPS = {
    ("exo.inference_engines", "rkllm"): "exo_rkllm.engine:RKLLMInferenceEngine",
    ("exo.inference_engines", "rkllm-npu"): "exo_rkllm.engine:RKLLMInferenceEngine",
    ("exo.models", "rkllm"): "exo_rkllm.models:RKLLM_MODELS",
    ("exo.device_detectors", "rockchip"): "exo_rkllm.detection:detect_rockchip_npu",
}


@pytest.mark.seed("4.1", "group exo.inference_engines")
@pytest.mark.seed("4.1", "group exo.models")
@pytest.mark.seed("4.1", "group exo.device_detectors")
@pytest.mark.seed("4.2", "table of the three groups and value formats")
def test_the_entry_points_are_the_documents_and_load_without_exo() -> None:
    found = {
        (entry.group, entry.name): entry
        for entry in importlib.metadata.distribution("exo-rkllm").entry_points
        if entry.group.startswith("exo.")
    }
    assert {key: entry.value for key, entry in found.items()} == GROUPS
    assert [entry.load() is not None for entry in found.values()] == [True] * 4


@pytest.mark.seed("4.1", 'dependencies = ["exo","aiohttp"]')
def test_nobody_gets_the_other_project_of_that_name() -> None:
    wanted = importlib.metadata.requires("exo-rkllm") or []
    assert not [one for one in wanted if one.split(";")[0].split(">")[0].strip() == "exo"]


@pytest.mark.seed("4.1", "lazy import of unused engines")
@pytest.mark.seed("4.2", "package layout")
@pytest.mark.seed("4.2", "trouble 3: direct import of the class")
def test_importing_the_three_modules_is_light() -> None:
    code = "import exo_rkllm.engine, exo_rkllm.models, exo_rkllm.detection, sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"exo", "numpy", "aiohttp", "jinja2", "exo_rkllm.runtime.session", "exo_rkllm.runner.parent"}


# The documents' own test, but for the engine's name; `exo` is the host's part of the plugin system.
SNIPPET = """
from exo.inference.plugin_discovery import discover_inference_engines, load_inference_engine

class MockDownloader:
    async def ensure_shard(self, shard):
        return "/mock/path"

engines = discover_inference_engines()
assert "rkllm" in engines
engine = load_inference_engine("rkllm", MockDownloader())
assert engine is not None
print("All tests passed!")
"""
DISCOVERY = """
from importlib import import_module
from importlib.metadata import entry_points

def discover_inference_engines():
    return {one.name: one.value for one in entry_points(group="exo.inference_engines")}

def load_inference_engine(name, shard_downloader):
    module, _, attribute = discover_inference_engines()[name].rpartition(":")
    return getattr(import_module(module), attribute)(shard_downloader)
"""


@pytest.mark.seed("4.2", "test snippet")
@pytest.mark.seed("4.1", "tests test_builtin_engines_available, test_plugin_discovery")
@pytest.mark.seed("4.2", "check load_inference_engine errors; constructor signature")
def test_the_documents_own_test_passes(tmp_path: Path) -> None:
    (tmp_path / "exo/inference").mkdir(parents=True)
    for package in ("exo", "exo/inference"):
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "exo/inference/plugin_discovery.py").write_text(DISCOVERY)
    (tmp_path / "snippet.py").write_text(SNIPPET)
    done = subprocess.run([sys.executable, tmp_path / "snippet.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "All tests passed!", done.stderr


@pytest.mark.seed("4.5", "compatibility guarantee")
@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["inference/inference_engine.py"], launcher.PLAIN),
        (["inference/inference_engine.py", "inference/plugin_discovery.py"], launcher.SEED),
        (["inference/plugin_discovery.py", "inference/rkllm/__init__.py"], launcher.FORK),
        (["worker/main.py"], launcher.CURRENT),
        (["plots.py"], launcher.UNRELATED),
    ],
)
def test_an_exo_is_known_by_its_files(tmp_path: Path, files: list[str], name: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert launcher.kind_at(tmp_path).name == name
    assert launcher.kind_at(None).name == launcher.NONE


def test_without_classic_exo_the_launcher_says_what_there_is() -> None:
    with pytest.raises(NotSupported, match="no exo is installed") as caught:
        launcher.launch([], RKLLMInferenceEngine)
    assert "v0.0.15" in caught.value.hint


class Node:
    """As much of exo's as is wrapped; its own loop awaits it."""

    def __init__(self, engine: Any) -> None:
        self.inference_engine = engine

    async def select_best_inference_engine(self) -> None:
        self.inference_engine = "tinygrad"


async def test_exo_keeps_this_engine_and_replaces_others(
    add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add("parrot")
    module = types.ModuleType("exo.orchestration.node")
    module.Node = Node  # type: ignore[attr-defined]
    monkeypatch.setattr(Node, "select_best_inference_engine", Node.select_best_inference_engine)
    monkeypatch.setitem(sys.modules, "exo.orchestration.node", module)
    monkeypatch.setenv("EXO_RKLLM_CLASSIC_KEEP_ENGINE", "false")
    node = Node(RKLLMInferenceEngine(Downloader()))
    await node.select_best_inference_engine()
    assert node.inference_engine == "tinygrad", "there is an off switch"
    monkeypatch.setenv("EXO_RKLLM_CLASSIC_KEEP_ENGINE", "true")
    ours = RKLLMInferenceEngine(Downloader())
    wrapped = Node.select_best_inference_engine
    RKLLMInferenceEngine(Downloader())
    assert Node.select_best_inference_engine is wrapped, "wrapped once"
    node = Node(ours)
    await node.select_best_inference_engine()
    assert node.inference_engine is ours
    other = Node("mlx")
    await other.select_best_inference_engine()
    assert other.inference_engine == "tinygrad"


def test_hooks_do_nothing_without_a_host() -> None:
    assert not hooks.keep_engine(RKLLMInferenceEngine)
    assert not hooks.fit_tokenizers(tuple)


async def test_end_token_is_hidden_from_the_answers_text(
    add: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exo decodes every token that it was given, with a tokenizer that it reads itself."""

    class Tokenizer:
        def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
            return "".join({7: "well", END: "" if skip_special_tokens else "<end>"}[one] for one in tokens)

    async def resolve(_place: Any) -> Tokenizer:
        return Tokenizer()

    add("parrot")
    module = types.ModuleType("exo.inference.tokenizers")
    module._resolve_tokenizer = resolve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "exo.inference.tokenizers", module)
    RKLLMInferenceEngine(Downloader())
    RKLLMInferenceEngine(Downloader())
    theirs = await module._resolve_tokenizer("org/llama")
    ours = await module._resolve_tokenizer(str(tmp_path / "models/parrot"))
    assert theirs.decode([7, END]) == "well<end>"
    assert ours.decode([7, END]) == "well"


# A host without plugins, in as many lines as the launcher touches.
PLAIN_HOST = {
    "models": "model_cards = {'llama': {}}\npretty_name = {'llama': 'Llama'}\n",
    "inference/inference_engine": (
        "from abc import ABC\nclass InferenceEngine(ABC): pass\ninference_engine_classes = {'dummy': 'Dummy'}\n"
        "def get_inference_engine(name, downloader): return name\n"
    ),
    "main": (
        "import sys\nfrom exo.inference.inference_engine import get_inference_engine\nfrom exo import models\n"
        "def run():\n"
        "    name = sys.argv[sys.argv.index('--inference-engine') + 1]\n"
        "    print(type(get_inference_engine(name, object())).__mro__[1].__module__)\n"
        "    print(sorted(models.model_cards), sorted(models.pretty_name.values()))\n"
        "    print(get_inference_engine('dummy', object()), sys.argv[1:])\n"
    ),
}


@pytest.mark.seed("4.1", "pip install exo exo-rkllm; exo --inference-engine rkllm")
@pytest.mark.seed("4.2", "MY_PRETTY_NAMES")
@pytest.mark.seed("4.1", "backward compatibility")
@pytest.mark.seed("4.2", "install and use")
def test_exo_as_it_was_released_gets_the_engine_the_cards_and_their_names(
    add: Callable[..., str], tmp_path: Path
) -> None:
    add("parrot")
    for name, text in PLAIN_HOST.items():
        file = tmp_path / "host/exo" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'host')!r});"
        "from exo_rkllm.cli import main; sys.exit(main(['exo-classic', '--disable-tui']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "exo.inference.inference_engine",
        "['llama', 'parrot-rkllm'] ['Llama', 'parrot (NPU)']",
        "dummy ['--disable-tui', '--inference-engine', 'rkllm-npu', '--default-model', 'parrot-rkllm']",
    ]


async def nothing_but_a_processor() -> str:
    """What classic exo makes of any board by itself, since tinygrad knows no NPU."""
    return "what tinygrad says"


@pytest.mark.seed("4.1", "fork integration points: device capabilities, metrics")
async def test_exos_topology_shows_the_board_with_its_npu(
    board: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = types.ModuleType("exo.topology.device_capabilities")
    vars(host).update(dict.fromkeys(("DeviceCapabilities", "DeviceFlops"), types.SimpleNamespace))
    vars(host)["linux_device_capabilities"] = nothing_but_a_processor
    monkeypatch.setitem(sys.modules, "exo.topology.device_capabilities", host)
    monkeypatch.setenv("EXO_RKLLM_BOARD_ROOT", str(board("orangepi-5-plus")))
    hooks.name_the_npu()
    found = await host.linux_device_capabilities()
    assert (found.model, found.chip) == ("Orange Pi 5 Plus, Rockchip NPU with 6 TOPS", "Rockchip NPU (RK3588)")
    assert (found.flops.int8, found.flops.fp16) == (6, 3)
    assert found.memory > 100
    monkeypatch.setenv("EXO_RKLLM_BOARD_ROOT", str(tmp_path))
    assert await host.linux_device_capabilities() == "what tinygrad says"


@pytest.mark.seed("4.1", "list_available_engines() / --list-engines / choices=")
@pytest.mark.seed("4.2", "trouble 2: print entry points")
def test_a_host_that_lists_entry_points_lists_both_names() -> None:
    names = {entry.name for entry in importlib.metadata.entry_points(group="exo.inference_engines")}
    assert {"rkllm", "rkllm-npu"} <= names


@pytest.mark.seed("4.1", "questions: TUI selector, lazy import, single group")
async def test_the_hosts_view_finds_a_tokenizer_where_it_finds_a_shard(
    add: Callable[..., str], make_engine: Callable[[], RKLLMInferenceEngine]
) -> None:
    engine, seen = make_engine(), []
    kind = type(engine)

    class Watched(kind):  # type: ignore[misc, valid-type]
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "shard" and value is not None:
                seen.append(self.tokenizer is not None)
            super().__setattr__(name, value)

    engine.__class__ = Watched
    await engine.ensure_shard(whole(add("parrot")))
    assert seen == [True]


@pytest.mark.seed("4.2", "import errors: check dependencies, path, direct import")
def test_doctor_says_which_exo_this_python_has(tmp_path: Path) -> None:
    (tmp_path / "exo").mkdir()
    (tmp_path / "exo/__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from exo_rkllm.cli import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert "warn  exo" in done.stdout
    assert "another project" in done.stdout
