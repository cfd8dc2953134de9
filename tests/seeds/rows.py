"""The statements of the five seed documents that this package has to make true, or why one cannot apply.

A test says which it holds: `@pytest.mark.seed("4.2", "sample(x)")`, by table and statement as they stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Table(NamedTuple):
    title: str
    rows: tuple[str, ...]


TABLES: Mapping[str, Table] = {
    "4.1": Table(
        "The draft of a plugin system for classic exo",
        (
            "third-party engine as a separate pip package, no fork",
            "pip install exo exo-rkllm; exo --inference-engine rkllm",
            "group exo.inference_engines",
            "group exo.models",
            "group exo.device_detectors",
            'dependencies = ["exo","aiohttp"]',
            "lazy import of unused engines",
            "get_inference_engine error lists what is available",
            "list_available_engines() / --list-engines / choices=",
            "get_model_cards() includes plugins",
            "detectors in get_system_info",
            "backward compatibility",
            "tests test_builtin_engines_available, test_plugin_discovery",
            "questions: TUI selector, lazy import, single group",
            "fork integration points: device capabilities, metrics",
        ),
    ),
    "4.2": Table(
        "The guide for plugin authors",
        (
            "package layout",
            "__init__(self, shard_downloader)",
            "encode(shard, prompt)",
            "decode(shard, tokens)",
            "sample(x)",
            "infer_tensor(request_id, shard, input_data, inference_state)",
            "state by request id, queue and idle limit",
            "load_checkpoint(shard, path)",
            "save_checkpoint optional",
            "save_session(key,value), clear_session()",
            "infer_prompt default",
            "ensure_shard(shard) of the downloader",
            "model format",
            "MY_PRETTY_NAMES",
            "detector returns bool",
            "install and use",
            "table of the three groups and value formats",
            "best practice 1 lazy loading",
            "2 async",
            "clear errors for missing dependencies",
            "Prometheus metrics",
            "5 documentation with set-up and hardware",
            "reference layout with http client, metrics, README",
            "test snippet",
            "trouble 1: pip list | grep exo-myengine",
            "trouble 2: print entry points",
            "trouble 3: direct import of the class",
            "import errors: check dependencies, path, direct import",
            "DEBUG=2",
            "check load_inference_engine errors; constructor signature",
        ),
    ),
    "4.3": Table(
        "The abstraction over engines",
        (
            "abstract Model, Tokenizer, Engine",
            "Engine.initialize, generate, warmup",
            "engines/<backend>/",
            "engine type in model metadata/config; routing",
            "format conversion if needed",
            "challenge: formats / APIs / parallelism / performance",
            "phase 1 (one backend, single device)",
            "phase 2 (engine options)",
            "alternative: separate runner types",
        ),
    ),
    "4.4": Table(
        "InfiniLM's models from other packages",
        (
            "ModelSpec",
            "register_model",
            "load_plugin",
            "load_plugins",
            "config adaptation",
            "processor selection",
            "weight remapping",
            "defaults unchanged when no plugin is loaded",
            "hooks not in the token path",
            "explicit native backend loading",
            "lazy import of heavy objects",
            "sub-packages in the wheel",
        ),
    ),
    "4.5": Table(
        "vLLM's plugin system",
        (
            "general plugin group",
            "group, name, value",
            "filter",
            "a failing plugin is logged, the rest load",
            "loaded in every process before work",
            "re-entrant",
            "register only if not present",
            "compatibility guarantee",
        ),
    ),
}
# Statements that no test in this repository can verify, with the reason.
WHY_NOT: Mapping[tuple[str, str], str] = {
    ("4.2", "5 documentation with set-up and hardware"): (
        "See [classic-exo.md](classic-exo.md), [installing.md](installing.md) and the firmware notes."
    ),
}
# Statements that were also seen in a host that is exo's own, whose sources are not in this repository: which and when
# (docs/classic-exo.md has the details). The hosts of all other tests are made at home.
RELEASED = "v0.0.15-alpha (af734f1bf), 2026-11-30"
DRAFT = "v0.0.15-alpha with the draft's plugin discovery, 2026-11-30"
FORK = "exo-rkllama (0c831d39), 2026-11-30"
CURRENT = "0.3.70 (b5375f8ce), 2026-11-30"
SEEN: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("4.1", "fork integration points: device capabilities, metrics"): (RELEASED, DRAFT, FORK),
    ("4.1", "pip install exo exo-rkllm; exo --inference-engine rkllm"): (RELEASED, DRAFT, FORK),
    ("4.1", "get_model_cards() includes plugins"): (RELEASED, DRAFT, FORK),
    ("4.1", "detectors in get_system_info"): (DRAFT,),
    ("4.1", "backward compatibility"): (RELEASED, DRAFT, FORK),
    ("4.2", "infer_tensor(request_id, shard, input_data, inference_state)"): (RELEASED, DRAFT, FORK),
    ("4.2", "sample(x)"): (RELEASED, DRAFT, FORK),
    ("4.2", "state by request id, queue and idle limit"): (RELEASED, DRAFT, FORK),
    ("4.2", "ensure_shard(shard) of the downloader"): (RELEASED, DRAFT, FORK),
    ("4.2", "MY_PRETTY_NAMES"): (RELEASED, DRAFT, FORK),
    ("4.2", "install and use"): (RELEASED, DRAFT, FORK),
    ("4.2", "import errors: check dependencies, path, direct import"): (RELEASED, DRAFT, FORK),
    ("4.2", "Prometheus metrics"): (FORK,),
    ("4.3", "alternative: separate runner types"): (CURRENT,),
}
